"""The methods text of one subject: what its steps did, in their settings and versions, with citations.

Everything in the text follows from what the steps recorded. A step that is missing or not applicable is not described,
what a record leaves open is left open, and a result of another algorithm version than the one that the text knows is
named without a description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kwneuro_assets.reports.boilerplate import fibers, models, preprocessing, tracts
from kwneuro_assets.reports.boilerplate.acquisition import Acquisition, acquisition_text
from kwneuro_assets.reports.boilerplate.context import Context
from kwneuro_assets.reports.boilerplate.prose import cited, paragraph, rendered
from kwneuro_assets.reports.boilerplate.records import DESCRIBED, RecordedStep, RecordedSteps
from kwneuro_assets.reports.boilerplate.software import software
from kwneuro_assets.reports.content import Step
from kwneuro_assets.reports.references import Reference, references

_Text = Callable[[RecordedStep, Context], str]

# The steps of each paragraph, with what they are and their description.
_PARAGRAPHS: tuple[Mapping[str, tuple[str, _Text]], ...] = (
    {
        "denoised_dwi": ("The denoised DWI series", preprocessing.denoising),
        "mean_b0": ("The mean b = 0 image", preprocessing.mean_b0),
        "brain_mask": ("The brain mask", preprocessing.brain_mask),
    },
    {"dti": ("The diffusion tensor", models.dti)},
    {"noddi": ("The NODDI maps", models.noddi)},
    {
        "fiber_response": ("The response functions", fibers.fiber_response),
        "csd_peaks": ("The peaks of fiber orientation distributions", fibers.csd_peaks),
    },
    {
        "mni_alignment": ("The alignment with MNI space", tracts.mni_alignment),
        "tract_masks": ("The masks of bundles", tracts.tract_masks),
        "tract_endings": ("The endings of bundles", tracts.tract_endings),
        "tract_orientations": ("The tract orientation maps", tracts.tract_orientations),
    },
)


@dataclass(frozen=True)
class Methods:
    """The methods text.

    Attributes:
        paragraphs: Its paragraphs, plain text with citations such as `(Garyfallidis et al., 2014)`.
        references: The publications that it cites, in the order of their keys.
    """

    paragraphs: tuple[str, ...]
    references: tuple[Reference, ...]


def methods_text(steps: Sequence[Step], *, source: Mapping[str, Any]) -> Methods:
    """The methods text of a subject.

    Args:
        steps: Its derivatives, and `group_response` if it was used; in any order. Steps that the text does not know,
            such as those of quality control, are left out.
        source: The metadata of the newest observation of `dwi`: `shells`, `voxel_mm`, `grid`, `files`,
            `run_scale_factors`, `excluded_volumes` and `warnings`, as ingestion records them; its `data_version`, and
            `subsample` of the settings. Each may be absent.
    """
    recorded = RecordedSteps(steps)
    context = Context(recorded, _acquisition(recorded, source))
    described = [step for name in DESCRIBED if (step := recorded.get(name))]
    texts = [
        acquisition_text(context.acquisition),
        *(paragraph(_of_step(recorded.get(name), *how, context) for name, how in part.items()) for part in _PARAGRAPHS),
        software(described),
    ]
    publications = references()
    keys = sorted({key for text in texts for key in cited(text)})
    labels = {key: publications[key].label for key in keys}
    return Methods(tuple(rendered(text, labels) for text in texts if text), tuple(publications[key] for key in keys))


def _acquisition(steps: RecordedSteps, source: Mapping[str, Any]) -> Acquisition:
    """The acquisition; nothing is known of it if the stored DWI was computed from another version of the source."""
    denoised, now = steps.get("denoised_dwi"), source.get("data_version")
    used = denoised.step.inputs.get("dwi") if denoised else None
    return Acquisition.of(source) if None in (now, used) or now == used else Acquisition()


def _of_step(step: RecordedStep | None, what: str, describe: _Text, context: Context) -> str:
    if step is None:
        return ""
    if step.is_described:
        return describe(step, context)
    return (
        f"{what} had been computed by version {step.algorithm_version} of the algorithm; this text describes version "
        f"{DESCRIBED[step.name]}."
    )
