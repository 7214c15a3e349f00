"""Which voxels of a mask file are brain, whatever its values are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import InvalidData

_TOLERANCE = 0.01  # of the range of the values: closer to one of its ends, a value equals that end but for rounding
_MAX_SHOWN = 5  # values in a message


def brain_of(values: NDArray[Any], threshold: float | None = None) -> tuple[NDArray[np.uint8], list[str]]:
    """The brain, (x, y, z) uint8 of 0 and 1, in the values of a mask file, and warnings of what was repaired.

    With `threshold`, voxels above it are brain. Without, there must be two values, but for rounding: the higher one is
    brain. NaN and infinite voxels are background.

    Raises InvalidData if `values` has not three dimensions, has more than two values, or contains no brain.
    """
    if values.ndim != 3:
        raise InvalidData("brain mask", expected="three dimensions", found=f"shape {values.shape}")
    finite = np.isfinite(values)
    undefined = int(values.size - np.count_nonzero(finite))
    warnings = [f"{undefined} voxels of the mask are NaN or infinite: set to background"] if undefined else []
    known = values[finite]
    if not known.size or not known.any():
        raise _empty()
    if threshold is not None:
        brain = finite & (np.where(finite, values, 0) > threshold)
        if not brain.any():
            raise _empty(f"none above source.mask_threshold {threshold:g}, the highest is {known.max():g}")
        return brain.astype(np.uint8), warnings
    lowest, highest = float(known.min()), float(known.max())
    if lowest == highest:  # all finite voxels are brain
        lowest = min(0.0, lowest)
    middle = (lowest + highest) / 2
    distance = np.minimum(known.astype(np.float64) - lowest, highest - known.astype(np.float64))
    if highest <= 0 and lowest == highest:
        raise _empty(f"{highest:g} everywhere")
    if distance.max() > _TOLERANCE * (highest - lowest):
        raise _not_binary(known)
    if (lowest, highest) != (0, 1) or distance.any():
        warnings.append(f"the values of the mask are not 0 and 1: voxels above {middle:g} are brain")
    return (finite & (np.where(finite, values, lowest) > middle)).astype(np.uint8), warnings


def _empty(found: str = "an empty mask") -> InvalidData:
    return InvalidData("brain mask", expected="at least one voxel inside", found=found)


def _not_binary(known: NDArray[Any]) -> InvalidData:
    distinct = np.unique(known)
    shown = ", ".join(f"{value:g}" for value in distinct[:_MAX_SHOWN])
    is_probability = distinct[0] >= 0 and distinct[-1] <= 1
    return InvalidData(
        "brain mask",
        expected="two values, such as the values 0 and 1",
        found=f"{distinct.size} values, {shown} ...",
        remedy="Choose the probability above which a voxel is brain (source.mask_threshold: 0.5)."
        if is_probability
        else "For labels or intensities, set the value above which a voxel is brain (source.mask_threshold).",
    )
