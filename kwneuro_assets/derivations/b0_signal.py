"""Voxels of a mask that have no signal at b=0, and cannot be fitted."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)


def with_b0_signal(mean_b0: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """(voxels,) True where the mean b=0 (voxels,) in a mask is positive. All other voxels are zero in every map.

    Those are the background of a skull-stripped image, or became negative by interpolation. Their number is logged.
    """
    positive = mean_b0 > 0
    dark = positive.size - np.count_nonzero(positive)
    if dark:
        log.warning("%d of %d voxels of the mask have no signal at b=0 and are left out", dark, positive.size)
    return positive
