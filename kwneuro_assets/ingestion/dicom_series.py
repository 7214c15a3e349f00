"""The DICOM series of a folder, from their headers; files that did not change since the last scan are not opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIELDS = (
    "ImageType", "Modality", "PatientID", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "StudyDate",
    "StudyTime",
)  # fmt: skip
_MAPS = frozenset({"ADC", "FA", "TRACEW", "TRACE", "COLFA", "TENSOR", "EXP", "AVERAGE_DC", "FRACTIONAL_ANISO"})
# The b-value elements of DICOM, Siemens, Philips and GE; and the sequences that contain them in enhanced files.
_BVALUES = (0x00189087, 0x0019100C, 0x20011003, 0x00431039)
_FRAMES = (0x52009229, 0x52009230)

Index = dict[str, Any]  # by path: [size, mtime, ctime] and the header fields, which are None if it is no MR image


@dataclass(frozen=True)
class DicomSeries:
    """The files of one SeriesInstanceUID.

    Attributes:
        folder: The folder of its first file, relative to the DICOM folder.
        fields: The header fields of its first file.
        files: All files.
        state: Digest of the fingerprints of the files.
        changed: When a file last changed, seconds since 1970.
    """

    folder: str
    fields: dict[str, str]
    files: tuple[Path, ...]
    state: str
    changed: float

    @property
    def uid(self) -> str:
        return self.fields["SeriesInstanceUID"]

    @property
    def title(self) -> str:
        named = f"{self.fields['SeriesNumber']} {self.fields['SeriesDescription']}".strip() or self.uid
        return named if self.folder == "." else f"{self.folder}: {named}"

    @property
    def is_map(self) -> bool:
        """Whether it is a map that the scanner computed from a DWI series."""
        return bool(_MAPS & set(self.fields["ImageType"].upper().split("\\")))

    def has_diffusion(self) -> bool:
        """Whether any header has a b-value other than zero. Opens the files."""
        from pydicom import dcmread

        for path in self.files:
            header = dcmread(path, stop_before_pixels=True, specific_tags=[*_BVALUES, *_FRAMES], force=True)
            for element in header.iterall():
                # GE adds multiples of 10^9 that name one of its gradient tables.
                values = element.value if element.VM > 1 else [element.value]
                if element.tag in _BVALUES and values and _bvalue(values[0]) % 1_000_000_000:
                    return True
        return False


def find_series(folder: Path, index: Index, fields: Collection[str]) -> tuple[list[DicomSeries], Index]:
    """All MR series below the folder in the order of acquisition, and the index for the next scan.

    `index` is the index of the last scan with the same fields; files that are in it and did not change are not opened.
    """
    now: Index = {}
    groups: dict[str, list[str]] = {}
    for name in _files(folder):
        try:
            stat = os.stat(name)
            fingerprint = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            known = index.get(name)
            now[name] = known if known and known[0] == fingerprint else [fingerprint, _header(name, fields)]
        except OSError:  # removed meanwhile, or not readable
            continue
        if now[name][1]:
            groups.setdefault(now[name][1]["SeriesInstanceUID"], []).append(name)
    found = []
    for names in groups.values():
        state = hashlib.sha256(repr([(name, now[name][0]) for name in names]).encode()).hexdigest()[:32]
        changed = max(max(now[name][0][1:]) for name in names) / 1e9
        place = os.path.relpath(os.path.dirname(names[0]), folder)
        found.append(DicomSeries(place, now[names[0]][1], tuple(map(Path, names)), state, changed))
    return sorted(found, key=_order), now


def _order(series: DicomSeries) -> tuple[str, str, int, str]:
    number = series.fields["SeriesNumber"]
    return series.fields["StudyDate"], series.fields["StudyTime"], int(number) if number.isdecimal() else 0, series.uid


def _files(folder: Path) -> Iterator[str]:
    for above, folders, names in os.walk(folder):
        folders.sort()
        yield from (os.path.join(above, name) for name in sorted(names) if name != "DICOMDIR" and name[0] != ".")


def _header(name: str, fields: Collection[str]) -> dict[str, str] | None:
    """The header fields of an MR image as text; None for any other file."""
    from pydicom import dcmread
    from pydicom.config import disable_value_validation

    try:
        with disable_value_validation():  # it warns about each long UID of an anonymizer
            header = dcmread(name, stop_before_pixels=True, specific_tags=[*fields])
            values = {field: _text(header.get(field)) for field in fields}
    except OSError:
        raise
    except Exception:  # any error that the parser raises for broken files and files that are no DICOM
        return None
    return values if values["SeriesInstanceUID"] and values["Modality"] in ("MR", "") else None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, (list, tuple)) or hasattr(value, "append") else str(value)


def _bvalue(value: Any) -> int:
    """The b-value of an element; -1 if it is in a private encoding."""
    try:
        return round(float(value))
    except (TypeError, ValueError):
        return -1 if value else 0
