"""QC metrics of the gradient table: flipped or swapped axes, and a rotation of all b-vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.gradient_check import GradientCheck
from kwneuro_assets.imaging import Dwi
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.cells import number
from kwneuro_assets.qc.gradient_rotation import estimate_rotation
from kwneuro_assets.qc.masked import MaskedSeries
from kwneuro_assets.qc.metrics import Metric

NO_CORRECTION = "none"  # the table is the best of the 24; an undecided check leaves the cell empty

_COHERENCE = "https://doi.org/10.1016/j.media.2014.05.012"

GRADIENT_METRICS = (
    Metric(
        "gradient_correction",
        "Correction of the b-vectors",
        "The change of the bvec file, among 24 flips and swaps of its axes, that makes fibers most coherent with their "
        "neighbors; `none` if the file is right; n/a if the data do not decide.",
        "1",
        "neither",
        "acquisition",
        _COHERENCE,
        "text",
    ),
    Metric(
        "gradient_coherence",
        "Coherence of fibers",
        "How much more often a step along the fiber reaches the same fiber in the next voxel than a step in any "
        "direction: 0 if no more often, 1 if always.",
        "1",
        "higher",
        "acquisition",
        _COHERENCE,
    ),
    Metric(
        "gradient_rotation_deg",
        "Rotation of the b-vectors",
        "Angle of the rotation of all b-vectors that makes fibers most continuous: minimizes the squared derivative of "
        "the first eigenvector's dyadic along the fiber, where FA is 0.3 or more. Anatomy alone gives up to 5 degrees.",
        "degrees",
        "lower",
        "acquisition",
    ),
    Metric(
        "gradient_rotation_error_deg",
        "Standard error of the rotation",
        "Standard error of `gradient_rotation_deg`, from the differences between cells of 8 voxels.",
        "degrees",
        "lower",
    ),
)  # fmt: skip


class GradientObserver:
    """The check of the gradient table while the volumes of the raw DWI are read: an `Observer`."""

    def __init__(self, dwi: Dwi) -> None:
        self._check = GradientCheck(dwi.gradients, dwi.volume.grid, dwi.affine)

    def prepared(self, index: int, image: NDArray[np.float32]) -> NDArray[np.float32]:
        return image

    def add(self, index: int, prepared: NDArray[np.float32]) -> None:
        self._check.add(index, prepared)

    def metrics(self) -> dict[str, Cell]:
        """The columns that the check fills, after all volumes were added."""
        verdict = self._check.verdict()
        return {
            "gradient_correction": (verdict.correction or NO_CORRECTION) if verdict.decided else None,
            "gradient_coherence": number(verdict.coherence) if verdict.best > 0 else None,
        }


def rotation_metrics(series: MaskedSeries) -> dict[str, Cell]:
    """The columns of the rotation of the b-vectors, from the raw DWI."""
    found = estimate_rotation(series)
    return {
        "gradient_rotation_deg": number(found.angle) if found else None,
        "gradient_rotation_error_deg": number(found.angle_error) if found else None,
    }
