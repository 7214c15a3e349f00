"""The limits of a subject's QC metrics: which metrics have one, and what a value beyond it means.

A metric has a limit only if physics, its own definition, anatomy or the literature gives one that holds for every
scanner and protocol. Everything else is judged within the cohort, by `outliers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kwneuro_assets.imaging.table import Cell

NONE = "none"  # the value of a text metric that names what was found, if nothing was
STANDARD_ERRORS = 2


class Limits(Protocol):
    """The limits of the metrics of `RULES`; the section `checks` of the settings has them, with their sources."""

    @property
    def max_gradient_rotation(self) -> float: ...
    @property
    def max_csf_diffusivity(self) -> float: ...
    @property
    def min_diffusivity_ratio(self) -> float: ...
    @property
    def max_diffusivity_ratio(self) -> float: ...
    @property
    def min_ndc(self) -> float: ...
    @property
    def max_dropout_slices(self) -> int: ...
    @property
    def max_outlier_volumes(self) -> int: ...
    @property
    def max_outlier_slices(self) -> int: ...
    @property
    def max_residual_to_noise(self) -> float: ...
    @property
    def max_mask_pieces(self) -> int: ...
    @property
    def max_mask_flat_face(self) -> float: ...
    @property
    def max_mask_edge_area(self) -> float: ...
    @property
    def max_dark_fraction(self) -> float: ...
    @property
    def max_one_sided_fraction(self) -> float: ...
    @property
    def max_response_ratio(self) -> float: ...
    @property
    def max_bundles_outside_brain(self) -> int: ...


Bound = Callable[[Limits], float]


@dataclass(frozen=True)
class Rule:
    """The limit of one metric: a number has a lower bound, an upper one or both; a text must be `NONE`.

    Attributes:
        metric: The name of the metric in the catalog.
        message: What a value beyond the limit means, in one line.
        least: Returns the lowest value within the limit.
        most: Returns the highest value within the limit.
        error: The column that has the standard error of the metric, if it is an estimate that may be uncertain: only a
            value that is `STANDARD_ERRORS` of it beyond the limit is a warning.
    """

    metric: str
    message: str
    least: Bound | None = None
    most: Bound | None = None
    error: str | None = None

    def allows(self, row: Mapping[str, Cell], column: str, limits: Limits) -> bool:
        """Whether the value in `column` of `row`, which is not missing, is within the limit."""
        value, error = row[column], row.get(self.error or "")
        if not isinstance(value, int | float):
            return value == NONE
        margin = STANDARD_ERRORS * error if isinstance(error, int | float) else 0
        above = self.least is None or value + margin >= self.least(limits)
        below = self.most is None or value - margin <= self.most(limits)
        return above and below

    def in_words(self, limits: Limits) -> str:
        """The limit in words: `at least 0.4`, `at most 1`, `0.7 to 0.95`, or `none` for a text."""
        least = None if self.least is None else f"{self.least(limits):g}"
        most = None if self.most is None else f"{self.most(limits):g}"
        if least and most:
            words = f"{least} to {most}"
        else:
            words = f"at least {least}" if least else f"at most {most}" if most else NONE
        return f"{words}, by {STANDARD_ERRORS} standard errors" if self.error else words


RULES: tuple[Rule, ...] = (
    Rule(
        "gradient_correction",
        "The fibers are more continuous with flipped or swapped axes of the b-vectors: the gradient table is probably "
        "wrong.",
    ),
    Rule(
        "gradient_rotation_deg",
        "The fibers are most continuous if all b-vectors are rotated: they are probably in the frame of another image.",
        most=lambda limits: limits.max_gradient_rotation,
        error="gradient_rotation_error_deg",
    ),
    Rule(
        "csf_diffusivity",
        "Water would diffuse faster than free water does at body temperature: the b-values are probably too low.",
        most=lambda limits: limits.max_csf_diffusivity,
    ),
    Rule(
        "diffusivity_ratio_b{shell}_wm",
        "The diffusivity of white matter changes from the shell below in a way that its kurtosis does not explain: a "
        "b-value of one of both is probably wrong.",
        least=lambda limits: limits.min_diffusivity_ratio,
        most=lambda limits: limits.max_diffusivity_ratio,
    ),
    Rule(
        "metrics_failed",
        "Some metrics could not be computed: the log of the run has the error.",
    ),
    Rule(
        "ndc",
        "Volumes of neighboring directions do not resemble each other: motion, artifacts, or b-vectors that belong to "
        "other volumes.",
        least=lambda limits: limits.min_ndc,
    ),
    Rule(
        "dropout_slices",
        "Slices of single volumes have less signal than the other volumes of the shell predict: usually motion during "
        "their diffusion weighting.",
        most=lambda limits: limits.max_dropout_slices,
    ),
    Rule(
        "outlier_volumes",
        "Volumes differ from what the other volumes of the shell predict: usually motion.",
        most=lambda limits: limits.max_outlier_volumes,
    ),
    Rule(
        "outlier_slices",
        "Slices of single volumes differ from what the other volumes of the shell predict: usually spikes or motion.",
        most=lambda limits: limits.max_outlier_slices,
    ),
    Rule(
        "residual_to_noise_b{shell}",
        "The volumes of the shell are no smooth function of the b-vectors: they belong to other volumes, or the head "
        "moved.",
        most=lambda limits: limits.max_residual_to_noise,
    ),
    Rule(
        "mask_pieces",
        "The mask has pieces outside the brain, or the brain is divided.",
        most=lambda limits: limits.max_mask_pieces,
    ),
    Rule(
        "mask_flat_face_fraction",
        "The mask ends in a plane inside the field of view: a part of the brain is missing.",
        most=lambda limits: limits.max_mask_flat_face,
    ),
    Rule(
        "mask_edge_area_fraction",
        "The field of view ends in the middle of the brain.",
        most=lambda limits: limits.max_mask_edge_area,
    ),
    Rule(
        "mask_b0_dark_fraction",
        "A part of the mask has hardly any signal at b=0: signal dropout, or a mask that extends into air.",
        most=lambda limits: limits.max_dark_fraction,
    ),
    Rule(
        "b0_one_sided_fraction",
        "A part of the brain has less than half of the b=0 signal of the same place in the other hemisphere.",
        most=lambda limits: limits.max_one_sided_fraction,
    ),
    Rule(
        "response_ratio",
        "The response function has no less signal along the fiber than across it, which no fiber has.",
        most=lambda limits: limits.max_response_ratio,
    ),
    Rule(
        "bundles_outside_brain",
        "A bundle has more than 10 % of its volume outside the brain mask: the mask or the segmentation is wrong.",
        most=lambda limits: limits.max_bundles_outside_brain,
    ),
)
