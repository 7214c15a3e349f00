"""Conversion of DICOM series by dcm2niix into a BIDS dataset; the DICOM files are read, never written.

A hidden folder of the dataset has two records: the index of the DICOM files, and the outcome of each series. The name
of a series is recorded before any file has it, so that the next conversion continues one that was killed at any
moment. Each change is appended to a journal as one line, and merged into the record at the end or at the next start.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import string
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upath import UPath

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.ingestion.dcm2niix import EXTENSIONS, CannotConvert, run_dcm2niix, version_of
from kwneuro_assets.ingestion.dicom_series import FIELDS, DicomSeries, find_series
from kwneuro_assets.settings import DicomSettings
from kwneuro_assets.storage.local_staging import sync_folder
from kwneuro_assets.storage.stage import Stage
from kwneuro_assets.storage.staging import staged, write_complete
from kwneuro_assets.subjects import BIDS_VERSION

HIDDEN, OUTCOMES, INDEX = ".kwneuro", "dicom.json", "dicom_files.json"
JOURNAL = "dicom_changes.jsonl"
# The entities of a dwi and their labels, in the order of BIDS (schema: rules/files/raw/dwi.yaml).
ENTITIES = {"acq": "[A-Za-z0-9]+", "rec": "[A-Za-z0-9]+", "dir": "[A-Za-z0-9]+", "run": "[0-9]+",
            "part": "mag|phase|real|imag"}  # fmt: skip
_MAX_LABEL = 64
_SCRATCH = "converting-"

Known = dict[str, Any]


class DicomError(ActionableError):
    """An error that concerns all series: no folder, no program, or settings that cannot be used."""


@dataclass
class DicomReport:
    """The outcome of one conversion.

    Attributes:
        converted: The images that were written, relative to the dataset.
        waiting: Series whose files are arriving, with the reason.
        failed: Series that cannot be converted, with the reason.
        unchanged: The number of series that were converted before.
    """

    converted: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0


def convert_new(settings: DicomSettings, target: Path, settle_seconds: float = 0) -> DicomReport:
    """Convert the series of `settings.folder` that are new or changed into the BIDS dataset `target`, by dcm2niix
    (Li et al. 2016, doi:10.1016/j.jneumeth.2016.03.001).

    The first pattern of `settings.series` that matches the description of a series gives its name. Series that match no
    pattern or have no diffusion gradients are left out. A second series of the same name becomes `run-2`, and so on, in
    the order of acquisition. A name stays the same unless the labels or entities change: then the files are renamed. A
    series with a file that changed within the last `settle_seconds` waits. A failed series is retried when its files or
    the settings change. One process converts at a time; others wait for it.

    Raises DicomError if the folder or a program is missing, if one of the two folders contains the other, if a template
    or pattern cannot be used, or if `target` cannot be written.
    """
    folder, program = _checked(settings, target)
    hidden = target / HIDDEN
    try:
        with staged(UPath(str(hidden)), OUTCOMES, {OUTCOMES, INDEX}.__contains__) as stage:
            for folder_of_killed in hidden.glob(f"{_SCRATCH}*"):
                shutil.rmtree(folder_of_killed, ignore_errors=True)
            return _Conversion(settings, target, program, stage, _Outcomes(hidden, stage)).run(folder, settle_seconds)
    except OSError as error:
        raise DicomError(f"converting DICOM into {target}: {error}") from None


class _Outcomes:
    """The stored outcome of each series, by its UID; for one process at a time."""

    def __init__(self, hidden: Path, stage: Stage) -> None:
        self.stage = stage
        self.journal = hidden / JOURNAL
        self.series: dict[str, Known] = _read_json(hidden / OUTCOMES).get("series", {})
        if self.journal.exists():  # left by a process that was killed
            self.series |= _read_journal(self.journal)
            self.merge()

    def __setitem__(self, uid: str, known: Known) -> None:
        self.series[uid] = known
        is_new = not self.journal.exists()
        with self.journal.open("ab") as file:
            file.write(json.dumps([uid, known], separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:  # the file name must survive a power failure, too
            sync_folder(self.journal.parent)

    def merge(self) -> None:
        """Merge the journal into the record. A second merge changes nothing, so this may be killed, too."""
        if self.journal.exists():
            _write_json(self.stage, OUTCOMES, {"series": self.series})
            self.journal.unlink()


class _Conversion:
    """One scan of the DICOM folder, under the lock of the hidden folder."""

    def __init__(self, settings: DicomSettings, target: Path, program: str, stage: Stage, outcomes: _Outcomes) -> None:
        self.settings = settings
        self.target = target
        self.program = program
        self.stage = stage
        self.report = DicomReport()
        self.outcomes = outcomes
        self.found: dict[str, Known] = {}  # the inputs of the conversion of each series that exists now

    def run(self, folder: Path, settle_seconds: float) -> DicomReport:
        fields = sorted({*FIELDS, *_fields(self.settings.subject), *_fields(self.settings.session or "")})
        stored = _read_json(self.target / HIDDEN / INDEX)
        index = stored.get("files", {}) if stored.get("fields") == fields else {}
        found, now = find_series(folder, index, fields)
        if now != index:
            _write_json(self.stage, INDEX, {"fields": fields, "files": now})
        # All series first: a label belongs to the patient in the headers now, not to the one at the time of conversion.
        self.found = {series.uid: wanted for series in found if (wanted := self._wanted(series)) is not None}
        for series in found:
            if series.uid not in self.found:
                continue
            wanted, known = self.found[series.uid], self.outcomes.series.get(series.uid, {})
            if wanted.items() <= known.items() and self._is_up_to_date(series, known):
                self.report.unchanged += "stem" in known and "failed" not in known
                if "failed" in known:
                    self._fail(series, known["failed"])
            elif (age := time.time() - series.changed) < settle_seconds:
                self.report.waiting[self._title(series, self.report.waiting)] = (
                    f"its files are still arriving: the last changed {max(age, 0):.0f} s ago"
                )
            else:
                self._convert(series, wanted)
        self.outcomes.merge()
        return self.report

    def _wanted(self, series: DicomSeries) -> Known | None:
        """The inputs of the conversion of a series; None if no pattern matches, or if it is a map of the scanner."""
        if series.is_map:
            return None
        described = series.fields["SeriesDescription"].lower()
        for pattern, entities in self.settings.series.items():
            if fnmatch.fnmatchcase(described, pattern.lower()):
                session = self.settings.session
                return {
                    "state": series.state,
                    "entities": entities,
                    "patient": series.fields["PatientID"],
                    "subject": self.settings.subject.format_map(series.fields),
                    "session": session.format_map(series.fields) if session is not None else None,
                }
        return None

    def _is_up_to_date(self, series: DicomSeries, known: Known) -> bool:
        """Whether the outcome still applies: a label may be free now, or the images may be missing."""
        if known.get("blocked_by"):
            return _exists(self.target / known["blocked_by"])
        if known.get("clash"):
            try:
                self._key(series.uid, known)
            except CannotConvert:
                return True
            return False
        if "stem" not in known or "failed" in known:
            return True
        return "at" in known and (self.target / f"{known['stem']}.nii.gz").exists()

    def _convert(self, series: DicomSeries, wanted: Known) -> None:
        before = self.outcomes.series.get(series.uid, {})
        known: Known = {**{name: before[name] for name in ("stem", "named") if name in before}, **wanted}
        try:
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self.target / HIDDEN) as scratch:
                image = run_dcm2niix(series, Path(scratch), self.program)
                if image is not None:
                    known = self._put(series, image, wanted, before)
                else:
                    self._remove(known.pop("stem", None))
                    known.pop("named", None)
        except CannotConvert as error:
            known |= {"failed": str(error), "clash": error.clash, "blocked_by": error.blocked_by}
            self._fail(series, str(error))
        self.outcomes[series.uid] = known

    def _put(self, series: DicomSeries, image: Path, wanted: Known, before: Known) -> Known:
        """Rename the files to their places, the image last; returns the outcome."""
        key = self._key(series.uid, wanted)
        old, named = before.get("stem"), before.get("named", {})
        if named and (_key_of(named), named["entities"]) == (key, wanted["entities"]):
            stem = old
        else:
            stem = self._free_stem(series.uid, key, wanted["entities"], image)
        known = {**wanted, "stem": stem, "named": {name: wanted[name] for name in wanted if name != "state"}}
        # Without "at" it counts as not converted: if this is killed from here on, it is repeated under the same name.
        self.outcomes[series.uid] = {**known, **({"old": old} if old != stem else {})}
        self._describe()
        place = self.target / str(stem)
        place.parent.mkdir(parents=True, exist_ok=True)
        for extension in EXTENSIONS:
            os.replace(f"{image}{extension}", f"{place}{extension}")
        for former in {old, before.get("old")} - {stem}:
            self._remove(former)
        self.report.converted.append(f"{stem}.nii.gz")
        return {**known, "at": time.time()}

    def _remove(self, stem: str | None) -> None:
        """Remove the files of a former conversion, the image first."""
        for extension in reversed(EXTENSIONS) if stem else ():
            Path(f"{self.target / str(stem)}{extension}").unlink(missing_ok=True)

    def _key(self, uid: str, wanted: Known) -> str:
        """`sub-LABEL` or `sub-LABEL_ses-LABEL`. Raises CannotConvert if there is none, or if another patient has it."""
        for kind in ("subject", "session"):
            value = wanted[kind]
            if value is not None and not 0 < len(_label(value)) <= _MAX_LABEL:
                raise CannotConvert(
                    f"dicom.{kind} {getattr(self.settings, kind)} is {value!r}: expected 1 to {_MAX_LABEL} letters or "
                    "digits"
                )
        for other, one in self.outcomes.series.items():
            if other == uid or "named" not in one:
                continue
            has: Known = self.found.get(other) or one["named"]
            if _label(has["subject"]).lower() != _label(wanted["subject"]).lower():
                continue
            for kind in ("subject", "patient", "session"):
                own, its = wanted[kind] or "", has[kind] or ""
                same_label = kind == "patient" or _label(own).lower() == _label(its).lower()
                if own != its and same_label:
                    label = _label(wanted["session" if kind == "session" else "subject"])
                    raise CannotConvert(
                        f"its {kind} is {own!r}, whose label {label} already belongs to {its!r}", clash=True
                    )
        return _key_of(wanted)

    def _free_stem(self, uid: str, key: str, entities: str, image: Path) -> str:
        """A name that no other series has: the first free one, or that of identical files if the record is missing."""
        others = [one for other, one in self.outcomes.series.items() if other != uid]
        taken = {one[name] for one in others for name in ("stem", "old") if name in one}
        labels = dict(part.split("-", 1) for part in entities.split("_") if part)
        free: list[str] = []
        number = 1
        while not free or _exists(self.target / free[-1]):
            if number > 1:
                labels["run"] = str(number)
            ordered = "".join(f"_{entity}-{labels[entity]}" for entity in ENTITIES if entity in labels)
            stem = f"{key.replace('_', '/')}/dwi/{key}{ordered}_dwi"
            if stem not in taken and stem not in free:
                free.append(stem)
            number += 1
        for stem in free:
            if all(
                _same(Path(f"{image}{extension}"), Path(f"{self.target / stem}{extension}")) for extension in EXTENSIONS
            ):
                return stem
        if _exists(self.target / free[0]):
            raise CannotConvert(
                f"{free[0]}.* exists already and was not converted from a known series: move it to another folder",
                blocked_by=free[0],
            )
        return free[0]

    def _describe(self) -> None:
        path = self.target / "dataset_description.json"
        if not path.exists():
            generator = {"Name": "dcm2niix", "Version": version_of(self.program)}
            description = {"Name": "converted from DICOM", "BIDSVersion": BIDS_VERSION, "DatasetType": "raw"}
            text = json.dumps({**description, "GeneratedBy": [generator]}, indent=2) + "\n"
            write_complete(UPath(str(path)), text.encode())

    def _fail(self, series: DicomSeries, why: str) -> None:
        self.report.failed[self._title(series, self.report.failed)] = why

    def _title(self, series: DicomSeries, others: Mapping[str, str]) -> str:
        return series.title if series.title not in others else f"{series.title} ({series.uid})"


def _write_json(stage: Stage, name: str, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, separators=(",", ":")).encode()
    stage.write(name, lambda file: file.write(text))
    stage.commit(name)


def _checked(settings: DicomSettings, target: Path) -> tuple[Path, str]:
    """The folder of the series and the program. Raises DicomError."""
    folder = Path(settings.folder or "").expanduser().absolute()
    if not settings.folder or not folder.is_dir():
        raise DicomError(f"dicom.folder {settings.folder}: expected a folder of DICOM series, found no such folder")
    here, there = target.absolute().resolve(), folder.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise DicomError(f"dicom.folder {folder} and the source {target}: expected that neither contains the other")
    try:
        import dcm2niix
        import pydicom  # noqa: F401
    except ImportError as error:
        raise DicomError(f"converting DICOM needs {error.name}: pip install 'kwneuro-assets[dicom]'") from None
    for template in (settings.subject, settings.session or ""):
        _fields(template)
    for pattern, entities in settings.series.items():
        parts = [part.partition("-") for part in entities.split("_")] if entities else []
        names = [name for name, _, _ in parts]
        if names != [name for name in ENTITIES if name in names] or not all(
            re.fullmatch(ENTITIES[name], label) for name, _, label in parts
        ):
            raise DicomError(
                f"dicom.series, pattern {pattern!r}: expected entities of {', '.join(ENTITIES)} in this order, such as "
                f"acq-98dir_dir-AP: run with a number, part with mag, phase, real or imag, the others with letters and "
                f"digits; found {entities!r}"
            )
    return folder, str(dcm2niix.bin)


def _fields(template: str) -> list[str]:
    """The DICOM fields that a template names. Raises DicomError if DICOM has no such field."""
    from pydicom.datadict import tag_for_keyword

    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        unknown = next((name for name in names if not name or tag_for_keyword(name) is None), None)
        if unknown is None:
            template.format_map(dict.fromkeys(names, "text"))
    except (ValueError, LookupError, AttributeError) as error:
        raise DicomError(f"dicom: the template {template!r} cannot be read: {error}") from None
    if unknown is not None:
        raise DicomError(f"dicom: the template {template!r} names {unknown!r}: expected a DICOM keyword like PatientID")
    return names


def _label(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", value)


def _key_of(wanted: Known) -> str:
    session = wanted["session"]
    return f"sub-{_label(wanted['subject'])}" + (f"_ses-{_label(session)}" if session is not None else "")


def _exists(place: Path) -> bool:
    return any(Path(f"{place}{extension}").exists() for extension in EXTENSIONS)


def _same(one: Path, other: Path) -> bool:
    import filecmp

    return other.exists() and filecmp.cmp(one, other, shallow=False)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):  # not yet written, or broken
        return {}
    return content if isinstance(content, dict) else {}


def _read_journal(path: Path) -> dict[str, Known]:
    """The complete lines of the journal; an incomplete last line had no effect yet."""
    changes: dict[str, Known] = {}
    for line in path.read_bytes().splitlines():
        try:
            uid, known = json.loads(line)
        except ValueError:
            break
        changes[uid] = known
    return changes
