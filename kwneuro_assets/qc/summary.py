"""Fractions and medians as cells of a QC row: None where there is nothing to divide by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.cells import number

Row = dict[str, Cell]

PPM = 1e6  # scale of a fraction in parts per million


def fraction(part: Any, of: Any, scale: float = 1.0) -> float | None:
    """`scale` times `part` divided by `of`; None if `of` is zero.

    >>> fraction(1, 4), fraction(1, 4, PPM), fraction(0, 0)
    (0.25, 250000.0, None)
    """
    return number(scale * float(part) / float(of)) if of else None


def median(values: NDArray[Any]) -> float | None:
    """The median of all values; None if there are none."""
    return number(float(np.median(values))) if values.size else None
