"""What preprocessing measured of a DWI series: the values of the QC files beside its images.

The values of each program have a prefix: `qsiprep_<column>`, `confounds_mean_fd`, `eddy_qc_mot_abs` (see `qc_values`).
They are QC of the series as it was acquired and preprocessed, so only the raw DWI has them. If runs are joined, one
value stands for all of them:

- numbers of something (`num_`) are added;
- of maxima (`max_`), the largest is taken;
- other numbers are averaged, weighted by the number of volumes (the mean displacement: of volumes that have one);
- text is taken if it is the same in all files.

A value that one of the files lacks is left out, and so are all values of a program that has no file for some run: they
would describe a part of the series. Excluded volumes are contained in all values.

No content of a QC file makes a scan unusable: what cannot be used is left out with a warning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from upath import UPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.qc_files import KINDS, Kind, best_files, entities_of_scan
from kwneuro_assets.ingestion.qc_values import QcValues, Value, as_warning, confounds, eddy_quad, image_qc, is_count
from kwneuro_assets.ingestion.series import Series
from kwneuro_assets.ingestion.source_file import read_text

_PREFIXES: Mapping[Kind, str] = {"image QC": "qsiprep_", "confounds": "confounds_", "eddy QUAD": "eddy_"}
_MAX_BYTES = 8 << 20  # of a QC file; a confounds table of 1,000 volumes has 0.2 MB


@dataclass(frozen=True)
class PreprocessingQc:
    """The QC values of a DWI series by name, and warnings about what was left out."""

    values: Mapping[str, Value] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _QcFile:
    """One QC file, the first image that it belongs to, and the number of volumes of all images that it belongs to."""

    path: UPath
    image: str
    volumes: int


def read_preprocessing_qc(series: Series, volumes: Sequence[int]) -> PreprocessingQc:
    """The values of the QC files of a DWI series, whose runs have these numbers of volumes.

    Raises StorageError if a file cannot be reached.
    """
    values, warnings = dict[str, Value](), list[str]()
    for kind in KINDS:
        files, problem = _files_of(kind, series, volumes)
        warnings += problem
        read = [found for file in files if (found := _read(kind, file, series, warnings))]
        if files and len(read) == len(files):
            joined = _joined(read, warnings, files)
            values |= {_PREFIXES[kind] + name: value for name, value in joined.items()}
    return PreprocessingQc(values, tuple(dict.fromkeys(warnings)))


def _files_of(kind: Kind, series: Series, volumes: Sequence[int]) -> tuple[list[_QcFile], list[str]]:
    """The files of one kind in the order of the runs; none, with a warning, if not every run has exactly one."""
    files = dict[UPath, _QcFile]()
    without = list[str]()
    for run, count in zip(series.runs, volumes, strict=True):
        paths = {path.relative_to(run.image.parent).as_posix(): path for path in series.qc_files}
        best = best_files(kind, run.image.name, series.subject, paths)
        if len(best) > 1:
            return [], [f"{run.image.name} has several files of its {kind} ({', '.join(best)}): they are not read"]
        if not best:
            without.append(run.image.name)
            continue
        path = paths[best[0]]
        known = files.get(path, _QcFile(path, run.image.name, 0))
        files[path] = _QcFile(path, known.image, known.volumes + count)
    if files and without:
        return [], [f"{', '.join(without)} has no file of its {kind}: those of the other runs are not read"]
    return list(files.values()), []


def _read(kind: Kind, file: _QcFile, series: Series, warnings: list[str]) -> QcValues | None:
    """The values of a file; None if it cannot be used. What is left out is added to `warnings`."""
    name = file.path.name if "_" in file.path.name else f"{file.path.parent.name}/{file.path.name}"
    try:
        found = _reader(kind, file, series)(read_text(file.path, _MAX_BYTES).text)
    except InvalidData as error:
        warnings.append(f"{name}: {as_warning(error)}")
        return None
    warnings += [f"{name}: {warning}" for warning in found.warnings]
    return found


def _reader(kind: Kind, file: _QcFile, series: Series) -> Callable[[str], QcValues]:
    if kind == "confounds":
        return lambda text: confounds(text, file.volumes)
    if kind == "eddy QUAD":
        return lambda text: eddy_quad(text, file.volumes)
    return lambda text: image_qc(text, entities_of_scan(file.image, series.subject), file.volumes)


def _joined(read: Sequence[QcValues], warnings: list[str], files: Sequence[_QcFile]) -> dict[str, Value]:
    """One value for all files, by name; what cannot be joined is added to `warnings`."""
    names = dict.fromkeys(name for one in read for name in one.values)
    joined = dict[str, Value]()
    left_out = list[str]()
    for name in names:
        found = [one.values[name] for one in read if name in one.values]
        value = _one_value(name, found, [one.weight for one in read]) if len(found) == len(read) else None
        if value is None:
            left_out.append(name)
        else:
            joined[name] = value
    if left_out:
        among = ", ".join(file.path.name for file in files)
        warnings.append(f"{', '.join(left_out)} cannot be joined from {among}: left out")
    return joined


def _one_value(name: str, values: Sequence[Value], weights: Sequence[float]) -> Value | None:
    """The value of all files; None if there is none."""
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) < len(values):
        return values[0] if len(set(values)) == 1 else None
    if is_count(name):
        return sum(numbers)
    if len(set(numbers)) == 1:  # a mean would round
        return numbers[0]
    if name.startswith("max_") or "_max_" in name:
        return max(numbers)
    return math.fsum(number * weight for number, weight in zip(numbers, weights, strict=True)) / math.fsum(weights)
