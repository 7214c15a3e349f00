"""The values in the QC files of preprocessing: QSIPrep's table and confounds, and eddy QUAD's qc.json.

The files come from other programs, so nothing in them is trusted. A file that is not what its name says raises
InvalidData; a single value that cannot be used is left out with a warning.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.bids_names import comparable, entities_of
from kwneuro_assets.ingestion.patterns import label_of

Value = float | int | str

FD_LIMIT = 0.5  # mm: Power 2012 (doi:10.1016/j.neuroimage.2011.10.018), for fMRI; diffusion MRI has no agreed limit
_FD, _FD_FILE = "framewise_displacement", "original_file"
_LARGEST = 2.0**53  # above it float64 does not hold every integer; no QC value is that large
_MAX_TEXT = 200  # characters
_MAX_COLUMNS = 500  # QSIPrep's table has about 80
_MAX_SHOWN = 40  # characters of a value in a message
_NAME = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MISSING = ("", "n/a")
_NOT_FINITE = ("nan", "inf", "infinity")

# Columns that say whose row it is, with the entity of file names.
_ROW_ENTITIES = {
    "subject_id": "sub", "participant_id": "sub", "session_id": "ses", "task_id": "task", "acq_id": "acq",
    "dir_id": "dir", "rec_id": "rec", "run_id": "run", "space_id": "space",
}  # fmt: skip
_FILE_NAME = "file_name"

# Keys of eddy QUAD's qc.json, with the key that says whether eddy wrote what they are computed from ("": always).
_QUAD_SCALARS = {
    "qc_mot_abs": "", "qc_mot_rel": "", "qc_outliers_tot": "qc_ol_flag", "qc_vox_displ_std": "qc_field_flag",
}  # fmt: skip
_QUAD_SHELLS = {
    "qc_outliers_b": ("qc_outliers_b{}", "qc_ol_flag"),
    "qc_cnr_avg": ("qc_cnr_avg_b{}", "qc_cnr_flag"),
    "qc_cnr_std": ("qc_cnr_std_b{}", "qc_cnr_flag"),
}


@dataclass(frozen=True)
class QcValues:
    """The values of one QC file.

    Attributes:
        values: The values, by their names in the file.
        weight: The number of volumes that they summarize, with which means of several files are weighted.
        warnings: What was left out.
    """

    values: Mapping[str, Value]
    weight: float
    warnings: list[str] = field(default_factory=list)


def image_qc(text: str, own: Mapping[str, str], volumes: int) -> QcValues:
    """The row of QSIPrep's `*_desc-image_qc.tsv` that belongs to the scan with the entities `own`.

    Counts (`num_` in their name) are integers, other numbers are floats; text remains text. Columns that identify the
    row, missing values (`n/a` or empty) and values that cannot be used are left out.

    Raises InvalidData if it is no table, or does not have exactly one row of the scan.
    """
    rows = [row for row in _rows(text) if _is_row_of(row, own)]
    if len(rows) != 1:
        raise InvalidData("table", expected="one row of this scan", found=f"{len(rows)}")
    values, warnings = dict[str, Value](), list[str]()
    for name, cell in rows[0].items():
        if name in _ROW_ENTITIES or name == _FILE_NAME or cell.lower() in _MISSING:
            continue
        try:
            values[name] = _value(name, cell)
        except InvalidData as error:
            warnings.append(as_warning(error))
    return QcValues(values, volumes, warnings)


def confounds(text: str, volumes: int) -> QcValues:
    """The summary of the column `framewise_displacement`, in mm, of a confounds table with one row per volume.

    `mean_fd` and `max_fd` are the mean and the maximum over all volumes that have a value, `num_fd` is their number,
    and `num_fd_above_0_5` the number of those above 0.5 mm. The first volume has no value (`n/a`), and the first one of
    each further `original_file` is not counted: its displacement is that between two acquisitions.

    Raises InvalidData if it is no table, lacks the column, has another number of rows than `volumes`, or if a value is
    not a number of 0 or more.
    """
    rows = _rows(text)
    if _FD not in rows[0]:
        raise InvalidData("table", expected=f"a column {_FD}", found=_shown(", ".join(rows[0])))
    if len(rows) != volumes:
        raise InvalidData("table", expected=f"{volumes} rows, one for each volume", found=f"{len(rows)}")
    files = [row.get(_FD_FILE) for row in rows]
    same_file = [True, *(one == other for one, other in itertools.pairwise(files))]
    cells = [row[_FD] for row, counts in zip(rows, same_file, strict=True) if counts]
    values = [_displacement(cell) for cell in cells if cell.lower() not in _MISSING]
    if not values:
        raise InvalidData("table", expected=f"values of {_FD}", found="none")
    summary = {
        "mean_fd": math.fsum(values) / len(values),
        "max_fd": max(values),
        "num_fd": len(values),
        "num_fd_above_0_5": sum(value > FD_LIMIT for value in values),
    }
    return QcValues(summary, len(values))


def eddy_quad(text: str, volumes: int) -> QcValues:
    """The values in the `qc.json` of FSL's eddy QUAD (Bastiani 2019, doi:10.1016/j.neuroimage.2018.09.073).

    These are `qc_mot_abs` and `qc_mot_rel`, mean motion relative to the first and to the previous volume in mm;
    `qc_outliers_tot`, outlier slices in %; `qc_vox_displ_std`, standard deviation of the displacement by the
    susceptibility field in voxels; and of each shell, with its b-value rounded to 100: `qc_outliers_b<shell>` in %, and
    `qc_cnr_avg_b<shell>` and `qc_cnr_std_b<shell>`, mean and standard deviation of the CNR (b0: of the SNR). What eddy
    did not estimate, as QUAD's flags say, is left out.

    Raises InvalidData if it is not a JSON object with keys of QUAD.
    """
    tree = _json_object(text)
    if not any(key in tree for key in (*_QUAD_SCALARS, *_QUAD_SHELLS)):
        raise InvalidData("qc.json", expected="keys of eddy QUAD, such as qc_mot_abs", found=_shown(", ".join(tree)))
    values, warnings = dict[str, Value](), list[str]()
    for key, number in _quad_numbers(tree, warnings):
        try:
            values[key] = _checked(key, number)
        except InvalidData as error:
            warnings.append(as_warning(error))
    return QcValues(values, volumes, warnings)


def as_warning(error: InvalidData) -> str:
    """The message of a value or file that is left out."""
    return f"{error.problem}: expected {error.expected}, found {error.found}: left out"


def is_count(name: str) -> bool:
    """Whether a value is a number of something, by its name: `raw_num_bad_slices`."""
    return name.startswith("num_") or "_num_" in name


def _rows(text: str) -> list[dict[str, str]]:
    """The rows of a table with tabs between its cells, by column, without columns that have no proper name.

    Raises InvalidData if it is no such table, or has no row.
    """
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    header, *body = (line.split("\t") for line in lines)
    names = [name.strip() for name in header]
    proper = [name for name in names if _NAME.fullmatch(name)]
    if len(names) < 2 or not proper:
        raise InvalidData("table", expected="tabs between names of columns", found=_shown(lines[0]))
    if len(set(proper)) < len(proper) or len(names) > _MAX_COLUMNS:
        found = f"{len(names)} columns, {len(set(proper))} different names"
        raise InvalidData("table", expected=f"at most {_MAX_COLUMNS} columns of different names", found=found)
    if not body:
        raise InvalidData("table", expected="at least one row", found="none")
    for number, row in enumerate(body, 2):
        if len(row) != len(names):
            raise InvalidData(f"line {number} of the table", expected=f"{len(names)} cells", found=f"{len(row)}")
    known = set(proper)
    return [{name: cell.strip() for name, cell in zip(names, row, strict=True) if name in known} for row in body]


def _is_row_of(row: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Whether no entity that a row has differs from that of the scan."""
    entities = dict(entities_of(row.get(_FILE_NAME, "").rpartition("/")[2]))
    for name, entity in _ROW_ENTITIES.items():
        if row.get(name, "").lower() not in _MISSING:
            entities[entity] = label_of(row[name].removeprefix(f"{entity}-"))
    entities.pop("desc", None)
    return all(comparable(key, own.get(key, label)) == comparable(key, label) for key, label in entities.items())


def _value(name: str, cell: str) -> Value:
    if _NUMBER.fullmatch(cell):
        return _checked(name, float(cell))
    if cell.lower().lstrip("+-") in _NOT_FINITE:
        return _checked(name, math.nan)
    if len(cell) > _MAX_TEXT or not cell.isprintable() or cell.startswith('"'):
        expected = f"a number, or printable text of at most {_MAX_TEXT} characters"
        raise InvalidData(name, expected=expected, found=_shown(cell))
    return cell


def _checked(name: str, number: object) -> float | int:
    """The number, an integer if it is a count. Raises InvalidData if it is none, or not finite, or too large.

    A value has the same type for all subjects, so that it can be a column of one kind.
    """
    if isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= _LARGEST:
        value = float(number) + 0.0  # negative zero becomes zero
        if not is_count(name):
            return value
        if value.is_integer():
            return int(value)
        raise InvalidData(name, expected="an integer", found=_shown(number))
    raise InvalidData(name, expected="a finite number below 2^53", found=_shown(number))


def _displacement(cell: str) -> float:
    if not _NUMBER.fullmatch(cell) or not 0 <= float(cell) <= _LARGEST:
        raise InvalidData(_FD, expected="numbers of 0 or more, in mm", found=_shown(cell))
    return float(cell) + 0.0


def _json_object(text: str) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):  # ValueError is also raised for integers of thousands of digits
        tree = None
    if not isinstance(tree, dict):
        raise InvalidData("qc.json", expected="a JSON object", found=_shown(text.lstrip()))
    return tree


def _quad_numbers(tree: Mapping[str, Any], warnings: list[str]) -> Iterator[tuple[str, Any]]:
    """The numbers of QUAD by their name here; what is no list of one number per shell is added to `warnings`."""
    for key, flag in _QUAD_SCALARS.items():
        if key in tree and tree.get(flag, True):
            value = tree[key]
            yield key, value[0] if isinstance(value, list) and len(value) == 1 else value
    for key, (name, flag) in _QUAD_SHELLS.items():
        if key in tree and tree.get(flag, True):
            try:
                shells = _quad_shells(tree, has_b0=key != "qc_outliers_b")
                if not isinstance(tree[key], list) or len(tree[key]) != len(shells):
                    raise InvalidData(key, expected=f"{len(shells)} numbers, one per shell", found=_shown(tree[key]))
                yield from ((name.format(shell), value) for shell, value in zip(shells, tree[key], strict=True))
            except InvalidData as error:
                warnings.append(as_warning(error))


def _quad_shells(tree: Mapping[str, Any], *, has_b0: bool) -> list[int]:
    """The b-values of the shells, rounded to 100; CNR has a value of b=0, too, the first."""
    bvalues = tree.get("data_unique_bvals")
    try:
        shells = [int(_checked("b-value", bvalue) / 100 + 0.5) * 100 for bvalue in bvalues or []]
    except (InvalidData, TypeError):
        shells = []
    if not shells or len(set(shells)) < len(shells) or min(shells) <= 0:
        raise InvalidData("data_unique_bvals", expected="the b-values of distinct shells", found=_shown(bvalues))
    return [0, *shells] if has_b0 else shells


def _shown(value: object) -> str:
    """A value in a message, on one line and short."""
    text = repr(value)[: 4 * _MAX_SHOWN] if not isinstance(value, str) else repr(value[:_MAX_SHOWN])
    return text if len(text) <= _MAX_SHOWN + 2 else f"{text[:_MAX_SHOWN]}..."
