"""Outliers of a cohort: the robust z-score of each QC metric among comparable subjects.

z = (value - median) / (1.4826 MAD), the modified z-score of Iglewicz and Hoaglin (How to Detect and Handle Outliers,
ASQC Basic References in Quality Control 16, 1993), with their limit of 3.5. MAD is the median absolute deviation from
the median; 1.4826 MAD estimates the standard deviation of normal values and ignores up to half of them being wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.imaging.table import Cell, Table
from kwneuro_assets.qc.catalog import metric_of
from kwneuro_assets.qc.metrics import Better

MAX_Z = 3.5  # Iglewicz and Hoaglin 1993
# Of normal values, 1.7 % are beyond 3.5 by chance in groups of 10, 5.3 % in groups of 5, 0.05 % in very large ones.
MIN_GROUP_SIZE = 10

_PER_MAD = 1 / 0.6744897501960817  # standard deviations of a normal distribution per MAD
_PER_MEAN_DEVIATION = np.sqrt(np.pi / 2)  # the same per mean absolute deviation
_ROUNDING = 5e-5  # relative: QC metrics have five significant digits


@dataclass(frozen=True, eq=False)
class Outliers:
    """The robust z-scores of a table, and which of them are beyond the limit.

    Attributes:
        columns: The columns of the table that are numbers, k of them, in its order.
        z: (rows, k) robust z-scores; NaN where a value is missing, or its group too small.
        beyond: (rows, k) True where a value is an outlier on the side that is worse.
    """

    columns: tuple[str, ...]
    z: NDArray[np.float64]
    beyond: NDArray[np.bool_]


def outliers(
    table: Table,
    groups: Sequence[str | None] | None = None,
    *,
    max_z: float = MAX_Z,
    min_group_size: int = MIN_GROUP_SIZE,
) -> Outliers:
    """The outliers of a cohort's QC table, one row per subject.

    `groups` names the scanner or site of each row. Each group is judged by itself, so that a scanner is compared with
    itself only; rows without one (None) form a group. A column is judged in a group that has at least `min_group_size`
    values of it: from fewer, a MAD is too uncertain. A value is beyond the limit if its z exceeds `max_z` in the
    direction that is worse by `Metric.better`, or in either direction for a metric without one.

    Raises ValueError if there is not one group for each row.
    """
    columns = tuple(name for name, kind in table.kinds.items() if kind != "text")
    values = np.empty((table.row_count, len(columns)))
    for index, name in enumerate(columns):
        values[:, index] = np.array(table.columns[name], np.float64)  # None becomes NaN
    if groups is not None and len(groups) != table.row_count:
        raise ValueError(f"groups: expected {table.row_count}, one for each row, found {len(groups)}")
    z = np.full(values.shape, np.nan)
    for rows in _rows_of_groups(groups, table.row_count):
        enough = np.count_nonzero(~np.isnan(values[rows]), axis=0) >= min_group_size
        z[np.ix_(rows, enough)] = robust_z(values[np.ix_(rows, enough)])
    worse = np.array([_WORSE[_better(name)] for name in columns]).reshape(-1, 2)
    with np.errstate(invalid="ignore"):  # NaN is not beyond a limit
        beyond = ((z < -max_z) & worse[:, 0]) | ((z > max_z) & worse[:, 1])
    return Outliers(columns, z, beyond)


def robust_z(values: ArrayLike | Sequence[Cell]) -> NDArray[np.float64]:
    """The robust z-scores of `values` (n,) or of each column of `values` (n, k), in the same shape.

    NaN and None are missing values and remain NaN. If more than half of the values are equal, as counts that are
    usually 0, MAD is 0, and 1.2533 times the mean absolute deviation from the median takes its place (Iglewicz and
    Hoaglin): a value that differs is then beyond 3.5 if fewer than 23 % of all do. A scale below the rounding of the
    values to five digits is raised to it, so that differences of the last digit are none; z is 0 if all are equal.

    >>> robust_z([1.0, 2.0, 3.0, 4.0, None, 13.0]).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, nan, 6.74]
    >>> robust_z([0, 0, 0, 0, 0, 0, 0, 0, 0, 2]).round(2).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.98]
    """
    given = np.asarray(values, np.float64)
    columns = given if given.ndim == 2 else given[:, None]
    center = _medians(columns)
    deviation = np.abs(columns - center)
    mad = _medians(deviation)
    count = np.maximum(np.count_nonzero(~np.isnan(deviation), axis=0), 1)
    # A sum in the order of the magnitudes does not depend on the order of the subjects.
    mean_deviation = np.nansum(np.sort(deviation, axis=0), axis=0) / count
    rounding = _ROUNDING * np.abs(center)
    scale = np.where(mad > rounding, _PER_MAD * mad, _PER_MEAN_DEVIATION * mean_deviation)
    scale = np.maximum(scale, rounding)
    z: NDArray[np.float64] = (columns - center) / np.where(scale > 0, scale, 1)
    return z.reshape(given.shape)


def _medians(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median (k,) of each column (n, k) without its NaN; NaN for a column that has nothing else.

    np.nanmedian does the same, 30 times slower for many columns.
    """
    if not len(columns):
        return np.full(columns.shape[1], np.nan)
    ordered = np.sort(columns, axis=0)  # NaN last
    count = np.count_nonzero(~np.isnan(columns), axis=0)
    low, high = np.take_along_axis(ordered, np.stack([np.maximum(count - 1, 0) // 2, count // 2]), axis=0)
    return np.asarray(np.where(count > 0, low / 2 + high / 2, np.nan))


def _rows_of_groups(groups: Sequence[str | None] | None, count: int) -> Iterator[NDArray[np.intp]]:
    """The rows of each group, by its first row."""
    if groups is None:
        yield np.arange(count)
        return
    rows: dict[str | None, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    for found in rows.values():
        yield np.array(found, np.intp)


_WORSE: dict[Better, tuple[bool, bool]] = {  # whether a low and a high value is worse
    "higher": (True, False),
    "lower": (False, True),
    "neither": (True, True),
}


def _better(column: str) -> Better:
    try:
        return metric_of(column).better
    except KeyError:  # a column of another tool
        return "neither"
