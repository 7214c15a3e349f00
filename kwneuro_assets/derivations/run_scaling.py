"""Scale factors between the runs of a subject, estimated from their mean b=0 images.

Scanners set the receiver gain and the scaling of stored integers for each series. Without scaling, joined runs
give a wrong S0 in every fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1.05  # maximum ratio of mean b=0, in either direction, of runs on the same scale
FOREGROUND = 0.1  # of the robust maximum: as in Smith 2002 (BET), section 2.1
_ROBUST = 98  # percentile of the voxels with signal, the robust maximum
_MIN_VOXELS = 10  # in the foreground of both runs


@dataclass(frozen=True)
class RunScale:
    """The scale of a run relative to the first.

    `ratio` is its mean b=0 divided by that of the first run, None if unknown; its voxels are multiplied by `factor`.
    """

    ratio: float | None
    factor: float


def scale_of_runs(mean_b0: Sequence[NDArray[Any] | None]) -> list[RunScale]:
    """The scale of each run, from the mean b=0 images (x, y, z) of all runs; None for a run without b=0 volumes.

    The ratio is the median over the voxels in the foreground of both runs, which is robust against noise and against
    motion at edges. For a ratio within 5 % of 1, the factor is 1. If the first run has no b=0 volume, the reference is
    the first run that has one.

    >>> image = np.full((4, 4, 4), 100.0)
    >>> scale_of_runs([image, 2 * image])
    [RunScale(ratio=1.0, factor=1.0), RunScale(ratio=2.0, factor=0.5)]
    """
    reference = next((image for image in mean_b0 if image is not None), None)
    scales = []
    for image in mean_b0:
        ratio = None if image is None or reference is None else _ratio(image, reference)
        is_same = ratio is None or 1 / TOLERANCE <= ratio <= TOLERANCE
        scales.append(RunScale(ratio, 1.0 if is_same or ratio is None else 1 / ratio))
    return scales


def foreground(mean_b0: NDArray[Any]) -> NDArray[np.bool_]:
    """(x, y, z) True approximately in the head: above a tenth of the robust maximum of voxels with signal."""
    positive = mean_b0[mean_b0 > 0]
    if not positive.size:
        return np.zeros(mean_b0.shape, np.bool_)
    return np.asarray(mean_b0 > FOREGROUND * np.percentile(positive, _ROBUST))


def _ratio(image: NDArray[Any], reference: NDArray[Any]) -> float | None:
    if image is reference:
        return 1.0
    both = foreground(image) & foreground(reference)
    if np.count_nonzero(both) < _MIN_VOXELS:
        return None
    return float(np.median(image[both].astype(np.float64) / reference[both]))
