"""Measures of the difference between a result and the known truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

UNDEFINED = float("nan")


class Measured(NamedTuple):
    """What was measured, its value (NaN if undefined), and the value as text with its unit.

    `short` names the main measure of a derivative in a table of many subjects; it is "" for other measures.
    """

    measure: str
    value: float
    result: str
    short: str = ""


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The overlap of two masks, from 0 to 1 (Dice 1945); NaN if both are empty.

    >>> dice(np.array([True, True, False]), np.array([False, True, False]))
    0.6666666666666666
    """
    size = np.count_nonzero(first) + np.count_nonzero(second)
    return float(2 * np.count_nonzero(first & second) / size) if size else UNDEFINED


def angles_to_nearest(vectors: NDArray[np.floating], peaks: NDArray[np.floating]) -> NDArray[np.float64]:
    """The angle in degrees (n,) from each axis in `vectors` (n, 3) to the nearest axis in `peaks` (n, k, 3).

    Lengths and signs have no effect. Zero vectors are not peaks; without any peak, the angle is 90.

    >>> angles_to_nearest(np.array([[0.0, 0, 1]]), np.array([[[0.0, 0, -2], [1, 0, 0]]]))
    array([0.])
    """
    cosines = np.abs(np.einsum("nkc,nc->nk", _unit(peaks), _unit(vectors))).max(axis=1)
    return np.asarray(np.degrees(np.arccos(np.clip(cosines, 0, 1))))


def median_angle(measure: str, angles: NDArray[np.float64], short: str = "") -> Measured:
    """The median of `angles` (n,), in degrees."""
    if not angles.size:
        return Measured(measure, UNDEFINED, "no voxels", short)
    median = float(np.median(angles))
    return Measured(measure, median, f"{median:.1f} degrees in {angles.size} voxels", short)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True).astype(np.float64)
    unit: NDArray[np.float64] = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0)
    return unit
