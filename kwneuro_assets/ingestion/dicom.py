"""DICOM series, converted by dcm2niix into a BIDS dataset of our own; the originals are read, never written.

What was seen of the files and what became of each series is kept in a hidden folder of the dataset. A name is noted
there before any file has it, so that a conversion that is killed at any moment is taken up by the next.
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
from kwneuro_assets.storage.staging import Stage, staged, write_whole

HIDDEN, MEMORY, INDEX = ".kwneuro", "dicom.json", "dicom_files.json"
# What the entities of a dwi may be, in BIDS's order (its schema, rules/files/raw/dwi.yaml).
ENTITIES = {"acq": "[A-Za-z0-9]+", "rec": "[A-Za-z0-9]+", "dir": "[A-Za-z0-9]+", "run": "[0-9]+",
            "part": "mag|phase|real|imag"}  # fmt: skip
_MAX_LABEL = 64
_SCRATCH = "converting-"

Known = dict[str, Any]


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


def convert_new(settings: DicomSettings, target: Path, settle_seconds: float = 0) -> DicomReport:
    """Convert the series of `settings.folder` that are new or changed into the BIDS dataset `target`, by dcm2niix
    (Li et al. 2016, doi:10.1016/j.jneumeth.2016.03.001).

    A series is named by the first pattern of `settings.series` that fits its description; those that no pattern fits,
    and those that turn out to hold no diffusion gradients, are left out. A second series of the same name becomes
    `run-2`, and so on, in the order of acquisition; names once given stay, unless the labels or entities themselves
    change: then the files move. A series of which a file changed within `settle_seconds` waits. One that fails is tried
    again when its files or the settings change. One process converts at a time; others wait for it.

    Raises DicomError where the folder or a program is not there, where one of the two folders lies in the other, for a
    template or a mapping that cannot be used, and where `target` cannot be written.
    """
    folder, program = _checked(settings, target)
    hidden = target / HIDDEN
    try:
        with staged(UPath(str(hidden)), MEMORY, {MEMORY, INDEX}.__contains__) as stage:
            for left in hidden.glob(f"{_SCRATCH}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            return _Look(settings, target, program, stage).at(folder, settle_seconds)
    except OSError as error:
        raise DicomError(f"converting DICOM into {target}: {error}") from None


class _Look:
    """One look at the folder, by the only process that has one."""

    def __init__(self, settings: DicomSettings, target: Path, program: str, stage: Stage) -> None:
        self.settings = settings
        self.target = target
        self.program = program
        self.stage = stage
        self.report = DicomReport()
        self.memory: dict[str, Known] = _read_json(target / HIDDEN / MEMORY).get("series", {})
        self.found: dict[str, Known] = {}  # what is wanted of each series that is there now

    def at(self, folder: Path, settle_seconds: float) -> DicomReport:
        fields = sorted({*FIELDS, *_fields(self.settings.subject), *_fields(self.settings.session or "")})
        kept = _read_json(self.target / HIDDEN / INDEX)
        index = kept.get("files", {}) if kept.get("fields") == fields else {}
        found, now = find_series(folder, index, fields)
        if now != index:
            self._keep(INDEX, {"fields": fields, "files": now})
        # All first: a label belongs to whom the headers name now, not to whom they named when it was given.
        self.found = {series.uid: wanted for series in found if (wanted := self._wanted(series)) is not None}
        for series in found:
            if series.uid not in self.found:
                continue
            wanted, known = self.found[series.uid], self.memory.get(series.uid, {})
            if wanted.items() <= known.items() and self._still_holds(series, known):
                self.report.unchanged += "stem" in known and "failed" not in known
                if "failed" in known:
                    self._fail(series, known["failed"])
            elif (age := time.time() - series.changed) < settle_seconds:
                self.report.waiting[self._title(series, self.report.waiting)] = (
                    f"its files are still arriving: the last changed {max(age, 0):.0f} s ago"
                )
            else:
                self._convert(series, wanted)
        return self.report

    def _wanted(self, series: DicomSeries) -> Known | None:
        """All that decides what becomes of a series; None where no pattern fits, or where it is a scanner's map."""
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

    def _still_holds(self, series: DicomSeries, known: Known) -> bool:
        """Whether what is known of it needs no second try: labels may have become free, images may have gone."""
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
        before = self.memory.get(series.uid, {})
        known: Known = {**{name: before[name] for name in ("stem", "named") if name in before}, **wanted}
        try:
            with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self.target / HIDDEN) as scratch:
                made = run_dcm2niix(series, Path(scratch), self.program)
                if made is not None:
                    known = self._put(series, made, wanted, before)
                else:
                    self._remove(known.pop("stem", None))
                    known.pop("named", None)
        except CannotConvert as error:
            known |= {"failed": str(error), "clash": error.clash, "blocked_by": error.blocked_by}
            self._fail(series, str(error))
        self._remember(series.uid, known)

    def _put(self, series: DicomSeries, made: Path, wanted: Known, before: Known) -> Known:
        """Give the files their names, the image last."""
        key = self._key(series.uid, wanted)
        old, named = before.get("stem"), before.get("named", {})
        if named and (_key_of(named), named["entities"]) == (key, wanted["entities"]):
            stem = old
        else:
            stem = self._free_stem(series.uid, key, wanted["entities"], made)
        known = {**wanted, "stem": stem, "named": {name: wanted[name] for name in wanted if name != "state"}}
        # Without "at", and thus not yet there: what is killed from here on is done again, under the same name.
        self._remember(series.uid, {**known, **({"old": old} if old != stem else {})})
        self._describe()
        place = self.target / str(stem)
        place.parent.mkdir(parents=True, exist_ok=True)
        for extension in EXTENSIONS:
            os.replace(f"{made}{extension}", f"{place}{extension}")
        for left in {old, before.get("old")} - {stem}:
            self._remove(left)
        self.report.converted.append(f"{stem}.nii.gz")
        return {**known, "at": time.time()}

    def _remove(self, stem: str | None) -> None:
        """Take away what was made of a series before, the image first."""
        for extension in reversed(EXTENSIONS) if stem else ():
            Path(f"{self.target / str(stem)}{extension}").unlink(missing_ok=True)

    def _key(self, uid: str, wanted: Known) -> str:
        """`sub-LABEL` or `sub-LABEL_ses-LABEL`. Raises CannotConvert where there is none, or another has the same."""
        for kind in ("subject", "session"):
            value = wanted[kind]
            if value is not None and not 0 < len(_label(value)) <= _MAX_LABEL:
                raise CannotConvert(
                    f"dicom.{kind} {getattr(self.settings, kind)} is {value!r}: expected 1 to {_MAX_LABEL} letters or "
                    "digits"
                )
        for other, one in self.memory.items():
            if other == uid or "named" not in one:
                continue
            has: Known = self.found.get(other) or one["named"]
            if _label(has["subject"]).lower() != _label(wanted["subject"]).lower():
                continue
            for kind in ("subject", "patient", "session"):
                mine, its = wanted[kind] or "", has[kind] or ""
                alike = kind == "patient" or _label(mine).lower() == _label(its).lower()
                if mine != its and alike:
                    label = _label(wanted["session" if kind == "session" else "subject"])
                    raise CannotConvert(
                        f"its {kind} is {mine!r}, whose label {label} is that of {its!r} already", clash=True
                    )
        return _key_of(wanted)

    def _free_stem(self, uid: str, key: str, entities: str, made: Path) -> str:
        """A name that no other series has: the first, or that of the very same files where the memory was lost."""
        others = [one for other, one in self.memory.items() if other != uid]
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
                _same(Path(f"{made}{extension}"), Path(f"{self.target / stem}{extension}")) for extension in EXTENSIONS
            ):
                return stem
        if _exists(self.target / free[0]):
            raise CannotConvert(
                f"{free[0]}.* is there already and was not made from a series that is known: move it away",
                blocked_by=free[0],
            )
        return free[0]

    def _describe(self) -> None:
        path = self.target / "dataset_description.json"
        if not path.exists():
            generator = {"Name": "dcm2niix", "Version": version_of(self.program)}
            description = {"Name": "converted from DICOM", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
            text = json.dumps({**description, "GeneratedBy": [generator]}, indent=2) + "\n"
            write_whole(UPath(str(path)), text.encode())

    def _fail(self, series: DicomSeries, why: str) -> None:
        self.report.failed[self._title(series, self.report.failed)] = why

    def _title(self, series: DicomSeries, others: Mapping[str, str]) -> str:
        return series.title if series.title not in others else f"{series.title} ({series.uid})"

    def _remember(self, uid: str, known: Known) -> None:
        self.memory[uid] = known
        self._keep(MEMORY, {"series": self.memory})

    def _keep(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, separators=(",", ":")).encode()
        self.stage.write(name, lambda file: file.write(text))
        self.stage.commit(name)


def _checked(settings: DicomSettings, target: Path) -> tuple[Path, str]:
    """The folder of the series and the program. Raises DicomError."""
    folder = Path(settings.folder or "").expanduser().absolute()
    if not settings.folder or not folder.is_dir():
        raise DicomError(f"dicom.folder {settings.folder}: expected a folder of DICOM series, found none")
    here, there = target.absolute().resolve(), folder.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise DicomError(f"dicom.folder {folder} and the source {target}: expected that neither lies in the other")
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
    """The DICOM fields that a template names. Raises DicomError for one that there is not."""
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
    except (OSError, ValueError):  # never written, or lost
        return {}
    return content if isinstance(content, dict) else {}
