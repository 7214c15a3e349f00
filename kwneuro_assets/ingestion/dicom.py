"""DICOM series, converted by dcm2niix into a BIDS dataset of our own; the originals are read, never written.

What was seen of the files and what became of each series is kept in a hidden folder of the dataset, so that a look at
files that did not change opens none of them.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import string
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isal import igzip

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.settings import DicomSettings

HIDDEN, MEMORY = ".kwneuro", "dicom.json"
ENTITIES = ("acq", "ce", "dir", "rec", "run", "part")  # of a dwi, in BIDS's order
_MAPS = frozenset({"ADC", "FA", "TRACEW", "TRACE", "COLFA", "TENSOR", "EXP", "AVERAGE_DC", "FRACTIONAL_ANISO"})
_ALWAYS = ("SeriesInstanceUID", "SeriesDescription", "SeriesNumber", "ImageType", "Modality")
_PIECE = 1 << 20


class DicomError(ActionableError):
    """What concerns all series: no folder, no program, or settings that cannot be used."""


@dataclass
class DicomReport:
    """What became of the series in one look: images written now (paths below the dataset), series that wait or cannot
    be converted, each with why, and how many diffusion series were there already."""

    converted: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0


@dataclass(frozen=True)
class _Series:
    uid: str
    fields: Mapping[str, str]
    files: tuple[Path, ...]
    state: str  # of its files
    newest: float

    @property
    def title(self) -> str:
        return f"{self.fields.get('SeriesNumber', '')} {self.fields.get('SeriesDescription', '')}".strip() or self.uid


class _CannotConvert(Exception):
    """One series cannot be converted: why, in a sentence."""


def convert_new(settings: DicomSettings, target: Path, settle_seconds: float = 0) -> DicomReport:
    """Convert the series of `settings.folder` that are new or changed into the BIDS dataset `target`.

    A series is named by the first pattern of `settings.series` that fits its description; those that no pattern fits,
    and those that turn out to hold no diffusion gradients, are left out. A second series of the same name becomes
    `run-2`, and so on: names once given stay. A series of which a file changed within `settle_seconds` waits. One that
    fails is tried again when its files change. Raises DicomError where the folder or a program is not there, where one
    of the two folders lies in the other, and for a template or a mapping that cannot be used.
    """
    folder, program = _checked(settings, target)
    fields = {*_ALWAYS, *_fields(settings.subject), *_fields(settings.session or "")}
    hidden = target / HIDDEN
    hidden.mkdir(parents=True, exist_ok=True)
    for left in hidden.glob("converting-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    memory = _read_memory(hidden / MEMORY)
    report = DicomReport()
    try:
        for series in _series(folder, memory, sorted(fields)):
            known = memory["series"].get(series.uid, {})
            entities = _entities(settings, series)
            if entities is None:
                continue
            if known.get("state") == series.state and known.get("entities") == entities:
                report.unchanged += "name" in known and "failed" not in known
                if "failed" in known:
                    report.failed[series.title] = known["failed"]
            elif (age := time.time() - series.newest) < settle_seconds:
                report.waiting[series.title] = f"its files are still arriving: the last changed {max(age, 0):.0f} s ago"
            else:
                memory["series"][series.uid] = _converted(settings, series, entities, target, program, memory, report)
    finally:
        _write_whole(hidden / MEMORY, json.dumps(memory).encode())
    return report


def _converted(
    settings: DicomSettings,
    series: _Series,
    entities: str,
    target: Path,
    program: str,
    memory: dict[str, Any],
    report: DicomReport,
) -> dict[str, str]:
    """What is to be remembered of a series, after its conversion."""
    known = {"state": series.state, "entities": entities}
    before = memory["series"].get(series.uid, {}).get("name")
    try:
        with tempfile.TemporaryDirectory(prefix="converting-", dir=target / HIDDEN) as scratch:
            made = _run_dcm2niix(series, Path(scratch), program)
            if made is None:
                return known
            key = _key(settings, series, memory)
            name = _name(key, entities, series.uid, memory) if before is None else before
            _describe(target, program)
            report.converted.append(_put(made, target, key, name))
            return {**known, "name": name}
    except _CannotConvert as error:
        report.failed[series.title] = str(error)
        return {**known, "failed": str(error), **({"name": before} if before else {})}


def _run_dcm2niix(series: _Series, scratch: Path, program: str) -> Path | None:
    """The image without its extension, with bval, bvec and json beside it; None where there are no gradients."""
    inside, out = scratch / "in", scratch / "out"
    inside.mkdir()
    out.mkdir()
    for number, path in enumerate(series.files):
        (inside / f"{number:06d}.dcm").symlink_to(path)
    command = [program, "-b", "y", "-ba", "y", "-z", "n", "-f", "image", "-o", str(out), str(inside)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    images = [path.with_suffix("") for path in sorted(out.glob("*.nii")) if _is_weighted(path)]
    if len(images) > 1:
        raise _CannotConvert(f"expected one diffusion series, dcm2niix made {len(images)} of it")
    told = [
        line for line in (done.stdout + done.stderr).splitlines() if re.search(r"error|missing|incomplete", line, re.I)
    ]
    if done.returncode not in (0, 2, 5) and not images:  # 2: no image in it; 5: no DICOM that it knows
        raise _CannotConvert(f"dcm2niix ended with {done.returncode}: {' '.join(told)[:200] or 'it did not say why'}")
    if images and any(re.search(r"missing|incomplete", line, re.I) for line in told):
        raise _CannotConvert(f"dcm2niix finds it incomplete: {' '.join(told)[:200]}")
    return images[0] if images else None


def _is_weighted(image: Path) -> bool:
    """Whether dcm2niix found diffusion gradients in a series: a b-value other than zero."""
    tables = [image.with_suffix(extension) for extension in (".bval", ".bvec")]
    return all(path.exists() for path in tables) and any(float(b) > 0 for b in tables[0].read_text().split())


def _put(made: Path, target: Path, key: str, name: str) -> str:
    """Give the files their names, the image last; the path of the image below the dataset."""
    folder = target.joinpath(*key.split("_"), "dwi")
    folder.mkdir(parents=True, exist_ok=True)
    packed = made.with_suffix(".nii.gz")
    # No time in it: the same series gives the same bytes.
    with (
        made.with_suffix(".nii").open("rb") as image,
        packed.open("wb") as file,
        igzip.IGzipFile(filename="", fileobj=file, mode="wb", compresslevel=1, mtime=0) as stream,
    ):
        shutil.copyfileobj(image, stream, _PIECE)
    for extension in (".json", ".bval", ".bvec", ".nii.gz"):
        os.replace(made.with_suffix(extension), folder / f"{name}{extension}")
    return (folder / f"{name}.nii.gz").relative_to(target).as_posix()


def _key(settings: DicomSettings, series: _Series, memory: dict[str, Any]) -> str:
    """`sub-LABEL` or `sub-LABEL_ses-LABEL`. Raises _CannotConvert where there is none, or another has the same."""
    parts = []
    for kind, template in (("sub", settings.subject), ("ses", settings.session)):
        if template is None:
            continue
        value = template.format_map(series.fields)
        label = re.sub(r"[^A-Za-z0-9]", "", value)[:64]
        if not label:
            raise _CannotConvert(f"{template} is {value!r}, of which no letter or digit makes a label")
        parts.append(f"{kind}-{label}")
        owner = memory["labels"].setdefault("_".join(parts).lower(), value)
        if owner != value:
            raise _CannotConvert(f"{template} is {value!r}, whose label {label} is that of {owner!r} already")
    return "_".join(parts)


def _name(key: str, entities: str, uid: str, memory: dict[str, Any]) -> str:
    """A name that no other series has."""
    taken = {one["name"] for other, one in memory["series"].items() if "name" in one and other != uid}
    parts = dict(part.split("-", 1) for part in entities.split("_") if part)
    for number in range(1, len(taken) + 2):
        if number > 1:
            parts["run"] = str(number)
        ordered = "".join(f"_{entity}-{parts[entity]}" for entity in ENTITIES if entity in parts)
        if f"{key}{ordered}_dwi" not in taken:
            return f"{key}{ordered}_dwi"
    raise AssertionError("unreachable")


def _series(folder: Path, memory: dict[str, Any], fields: list[str]) -> list[_Series]:
    """All series below the folder, by number; only files that changed since are opened."""
    seen: dict[str, Any] = memory["files"] if memory["fields"] == fields else {}
    now: dict[str, Any] = {}
    groups: dict[str, list[tuple[Path, os.stat_result, dict[str, str]]]] = {}
    for path in _files(folder):
        try:
            stat = path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            name = str(path)
            now[name] = seen[name] if name in seen and seen[name][0] == stamp else [stamp, _header(path, fields)]
        except OSError:  # gone since, or not to be read
            continue
        header = now[name][1]
        if header:
            groups.setdefault(header["SeriesInstanceUID"], []).append((path, stat, header))
    memory["files"], memory["fields"] = now, fields
    found = []
    for uid, members in groups.items():
        state = hashlib.sha256(repr([(str(path), now[str(path)][0]) for path, *_ in members]).encode()).hexdigest()[:32]
        newest = max(stat.st_ctime for _, stat, _ in members)
        found.append(_Series(uid, members[0][2], tuple(path for path, *_ in members), state, newest))
    return sorted(found, key=lambda one: (_number(one.fields["SeriesNumber"]), one.uid))


def _files(folder: Path) -> Iterator[Path]:
    for above, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(above, name) for name in sorted(names) if name != "DICOMDIR" and not name.startswith("."))


def _header(path: Path, fields: list[str]) -> dict[str, str] | None:
    """The fields of a DICOM image of an MR scanner, as text; None of any other file."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(fields))
    except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if not header.get("SeriesInstanceUID") or header.get("Modality", "MR") != "MR":
        return None
    kinds = header.get("ImageType") or []
    return {name: str(header.get(name) or "") for name in fields} | {"ImageType": "\\".join(map(str, kinds))}


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _entities(settings: DicomSettings, series: _Series) -> str | None:
    """The entities of the first pattern that fits; None where none does, or where it is a map that a scanner made."""
    if _MAPS & set(series.fields["ImageType"].upper().split("\\")):
        return None
    described = series.fields["SeriesDescription"].lower()
    return next(
        (entities for pattern, entities in settings.series.items() if fnmatch.fnmatchcase(described, pattern.lower())),
        None,
    )


def _checked(settings: DicomSettings, target: Path) -> tuple[Path, str]:
    """The folder of the series and the program. Raises DicomError."""
    folder = Path(settings.folder or "").expanduser().absolute()
    if not settings.folder or not folder.is_dir():
        raise DicomError(f"dicom.folder {settings.folder}: expected a folder of DICOM series, found none")
    here, there = target.absolute().resolve(), folder.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise DicomError(f"dicom.folder {folder} and the source {target}: expected that neither lies in the other")
    for template in (settings.subject, settings.session or ""):
        _fields(template)
    for pattern, entities in settings.series.items():
        parts = [part.partition("-") for part in entities.split("_")] if entities else []
        names = [name for name, _, _ in parts]
        known = [name for name in ENTITIES if name in names]
        if names != known or not all(re.fullmatch("[A-Za-z0-9]+", label) for _, _, label in parts):
            raise DicomError(
                f"dicom.series, pattern {pattern!r}: expected entities of {', '.join(ENTITIES)} in this order with "
                f"labels of letters and digits, such as acq-98dir_dir-AP, found {entities!r}"
            )
    try:
        import dcm2niix
        import pydicom  # noqa: F401
    except ImportError as error:
        raise DicomError(f"converting DICOM needs {error.name}: pip install 'kwneuro-assets[dicom]'") from None
    return folder, str(dcm2niix.bin)


def _fields(template: str) -> list[str]:
    """The DICOM fields that a template names. Raises DicomError for one that there is not."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise DicomError(f"dicom: the template {template!r} cannot be read: {error}") from None
    if names:
        try:
            from pydicom.datadict import tag_for_keyword
        except ImportError:
            raise DicomError("converting DICOM needs pydicom: pip install 'kwneuro-assets[dicom]'") from None
        for name in names:
            if tag_for_keyword(name) is None:
                raise DicomError(
                    f"dicom: the template {template!r} names {name!r}: expected a DICOM keyword like PatientID"
                )
    return names


def _describe(target: Path, program: str) -> None:
    path = target / "dataset_description.json"
    if not path.exists():
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()
        generator = {"Name": "dcm2niix", "Version": told[-1] if told else ""}
        description = {"Name": "converted from DICOM", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
        _write_whole(path, (json.dumps({**description, "GeneratedBy": [generator]}, indent=2) + "\n").encode())


def _read_memory(path: Path) -> dict[str, Any]:
    try:
        memory: dict[str, Any] = json.loads(path.read_bytes())
        return {name: memory[name] for name in ("files", "fields", "series", "labels")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"files": {}, "fields": [], "series": {}, "labels": {}}


def _write_whole(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_bytes(content)
    new.replace(path)
