"""The numbers of a cohort as few bytes: 10,000 subjects x 60 metrics are about 2 MB of text in the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.metrics import CheckName, Metric
from kwneuro_assets.reports.cohort_content import PARTICIPANT, SESSION, CohortContent
from kwneuro_assets.reports.embedding import json_block, packed
from kwneuro_assets.subjects import SubjectKey

CHECKS: tuple[CheckName, ...] = get_args(CheckName)
DIGITS = 4  # significant digits of a number on the page
Z_UNIT = 0.1  # of the z-scores on the page

# A float32 has 23 bits of mantissa after the first. 14 of them hold a number of four digits: their rounding error,
# 2^-15 = 3.1e-5, is below half a unit of the fourth digit, at least 5e-5 of the number. Zeros compress to nothing.
_DROPPED_BITS = np.uint32(23 - 14)
_HAS_REPORT, _HAS_IMAGE, _IS_SUBJECT = 1, 2, 4


def cohort_packs(content: CohortContent) -> dict[str, str]:
    """The data blocks of the page, by name, each to be read by `static/cohort_data.js`.

    - `values`: (metrics, subjects) float32 in four planes of one byte per number, lowest first; NaN for a missing
      value; a text is its position among the sorted texts of its column.
    - `outliers`: (metrics, subjects) int16, the z-score in units of `Z_UNIT` of what is beyond the limit, 0 of the
      rest, in two planes.
    - `subjects`: (3, subjects) of one byte: bits of the failed checks, bits of the links, and the group plus 1 in the
      third and a fourth plane.
    - `labels`: JSON of all names and texts.
    """
    values = np.empty((len(content.metric_columns), content.table.row_count), np.float32)
    texts: list[list[str] | None] = []
    for column, row in zip(content.metric_columns, values, strict=True):
        row[:], labels = _packed_column(content.table.columns[column], content.table.kinds[column])
        texts.append(labels)
    groups = sorted(set(content.groups.values()), key=_natural)
    return {
        "values": packed(_planes(values)),
        "outliers": packed(_planes(_beyond(content))),
        "subjects": packed(_flags(content).tobytes() + _planes(_group_codes(content, groups))),
        "labels": packed(_labels(content, texts, groups)),
    }


def short_floats(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The values with `DIGITS` significant digits, as float32 whose lowest bits are zero; NaN remains NaN.

    JavaScript's `toPrecision(4)` of the result has the digits of the rounded value.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exponent = np.floor(np.log10(np.abs(values)))
        # Dividing by a positive power of ten is exact to the last bit; multiplying by 0.001 is not.
        scale = 10.0 ** np.abs(DIGITS - 1 - exponent)
        small = exponent < DIGITS - 1
        digits = np.round(np.where(small, values * scale, values / scale))
        rounded = np.where(small, digits / scale, digits * scale)
    usable = np.isfinite(rounded) & (np.abs(values) > np.finfo(np.float32).tiny)
    return _without_low_bits(np.where(usable, rounded, np.where(np.isnan(values), np.nan, 0.0)))


def _without_low_bits(values: NDArray[np.float64]) -> NDArray[np.float32]:
    bounded = np.clip(values, -1e38, 1e38).astype(np.float32)
    bits = bounded.view(np.uint32)
    half = np.uint32(1) << (_DROPPED_BITS - np.uint32(1))
    rounded = ((bits + half) >> _DROPPED_BITS << _DROPPED_BITS).view(np.float32)
    return np.where(np.isnan(bounded), np.float32(np.nan), rounded)


def _packed_column(cells: Sequence[Cell], kind: str) -> tuple[NDArray[np.float32], list[str] | None]:
    """The numbers of a column, and the texts that they stand for if it is one of texts."""
    if kind == "text":
        labels = sorted({str(cell) for cell in cells if cell is not None})
        codes = {label: float(code) for code, label in enumerate(labels)}
        return np.array([np.nan if cell is None else codes[str(cell)] for cell in cells], np.float32), labels
    values = np.array(cells, np.float64)  # None becomes NaN
    exact = kind == "integer" and bool(np.all(~(np.abs(values) >= 2**24)))  # float32 has these integers exactly
    return (values.astype(np.float32) if exact else short_floats(values)), None


def _beyond(content: CohortContent) -> NDArray[np.int16]:
    """(metrics, subjects) the z-scores beyond the limit; the lowest unit at least, so that none of them becomes 0."""
    result = np.zeros((len(content.metric_columns), content.table.row_count), np.int16)
    units = np.clip(np.nan_to_num(content.outliers.z) / Z_UNIT, -32767, 32767)
    units = np.where(units < 0, np.minimum(np.round(units), -1), np.maximum(np.round(units), 1))
    for index, name in enumerate(content.outliers.columns):
        if name in content.metric_columns:
            result[content.metric_columns.index(name)] = np.where(content.outliers.beyond, units, 0)[:, index]
    return result


def _flags(content: CohortContent) -> NDArray[np.uint8]:
    """(2, subjects): the bits of failed checks, in the order of `CHECKS`, and those of report, image and valid key.

    A key that is not made of BIDS labels has no links, as it could lead out of the store, and cannot be rated.
    """
    failed = [
        sum(1 << bit for bit, check in enumerate(CHECKS) if check in content.failed_checks.get(key, ()))
        for key in content.keys
    ]
    reports, images = frozenset(content.reports), frozenset(content.images)
    links = [
        _IS_SUBJECT + _HAS_REPORT * (key in reports) + _HAS_IMAGE * (key in images) if _is_subject(key) else 0
        for key in content.keys
    ]
    return np.array([failed, links], np.uint8).reshape(2, -1)


def _group_codes(content: CohortContent, groups: Sequence[str]) -> NDArray[np.uint16]:
    """(subjects,) the group, counted from 1; 0 for none."""
    codes = {group: code for code, group in enumerate(groups, 1)}
    return np.array([codes.get(content.groups.get(key, ""), 0) for key in content.keys], np.uint16)


def _labels(content: CohortContent, texts: Sequence[list[str] | None], groups: Sequence[str]) -> bytes:
    columns = content.table.columns
    return json_block(
        {
            "participants": list(columns[PARTICIPANT]),
            "sessions": list(columns[SESSION]) if SESSION in columns else None,
            "metrics": [
                _metric(name, content.metrics[name], labels, content.table.kinds[name] == "integer")
                for name, labels in zip(content.metric_columns, texts, strict=True)
            ],
            "checks": list(CHECKS),
            "groups": list(groups),
            "groupName": content.group_name,
            "ratings": [[*_split(key), *_rating(content, key)] for key in sorted(content.ratings)],
            "dataset": content.dataset,
            "zUnit": Z_UNIT,
            "maxZ": content.max_z,
        }
    ).encode()


def _metric(name: str, metric: Metric, texts: list[str] | None, integer: bool) -> Mapping[str, Any]:
    return {
        "name": name,
        "label": metric.label,
        "description": metric.description,
        "unit": _shown_unit(metric.unit),
        "better": metric.better,
        "check": metric.check,
        "texts": texts,
        "integer": integer,
    }


def _shown_unit(unit: str) -> str:
    """A unit as people write it; empty for a ratio.

    >>> _shown_unit("1e-3 mm^2/s")
    '10⁻³ mm²/s'
    """
    for written, shown in (("^2", "²"), ("^3", "³"), ("1e-3 ", "10⁻³ ")):
        unit = unit.replace(written, shown)
    return "" if unit == "1" else unit


def _rating(content: CohortContent, key: str) -> Iterable[str]:
    rating = content.ratings[key]
    return rating.verdict, rating.comment, rating.rater, rating.date


def _natural(text: str) -> tuple[list[str], str]:
    """Numbers in a text by their size: `scanner 2` is before `scanner 10`."""
    return [part.zfill(20) if part.isdecimal() else part for part in re.split(r"(\d+)", text)], text


def _split(key: str) -> tuple[str, str]:
    """The `participant_id` and `session_id` of a key; an empty text for no session."""
    participant, found, session = key.partition("_ses-")
    return participant, f"ses-{session}" if found else ""


def _is_subject(key: str) -> bool:
    try:
        SubjectKey.parse(key)
    except InvalidData:
        return False
    return True


def _planes(values: NDArray[Any]) -> bytes:
    """The lowest bytes of all numbers, then the next: bytes of one kind compress better side by side."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return np.ascontiguousarray(little.view(np.uint8).reshape(-1, values.itemsize).T).tobytes()
