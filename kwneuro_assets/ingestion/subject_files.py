"""The source files of one subject as a listing shows them, and what reading them gives."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from upath import UPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.ingest_index import ScannedSubject
from kwneuro_assets.ingestion.read_mask import scan_mask
from kwneuro_assets.ingestion.read_source import scan_dwi
from kwneuro_assets.ingestion.sanity_checks import facts, require_sane, warnings
from kwneuro_assets.ingestion.series import Series
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.files import Fingerprint, fingerprint_of
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.source_names import MASK, SCAN

SCAN_VERSION = 2  # raise it where reading a scan finds more than before, so that all scans are read again
_READ_SETTINGS = ("subsample", "b0_threshold", "exclude_volumes", "scale_runs", "mask_threshold")  # of section source


@dataclass(frozen=True)
class SubjectFiles:
    """The files of one subject.

    Attributes:
        subject: The subject key.
        series: The runs of its DWI series.
        mask: The provided brain mask, if the settings ask for one.
        names: The paths of the files of the series, relative to the root of the dataset.
        mask_name: The path of the mask, relative to the root.
        state: Digest of the fingerprints of all files and of the settings that they are read under.
    """

    subject: SubjectKey
    series: Series
    mask: UPath | None
    names: tuple[str, ...] = ()
    mask_name: str = ""
    state: str = ""

    @property
    def files(self) -> list[UPath]:
        return [*self.series.files(), *self.series.sidecars(), *([self.mask] if self.mask else [])]


def find_files(dataset: SourceDataset, subject: SubjectKey, settings: PipelineSettings) -> tuple[SubjectFiles, float]:
    """The files of a subject, and when the newest of them was last written, seconds since 1970. Opens no file.

    Raises InvalidData if files are missing or do not belong together.
    """
    has_masks = settings.brain_mask.method == "provided"
    series = dataset.series(subject)
    mask = dataset.mask(subject, series) if has_masks else None
    found = SubjectFiles(subject, series, mask)
    names = [dataset.relative(path) for path in found.files]
    fingerprints, newest = dataset.fingerprints(subject, names)
    found = replace(
        found,
        names=tuple(names[: len(series.files())]),
        mask_name=names[-1] if mask else "",
        state=_state(fingerprints, series, settings),
    )
    return found, newest


def _state(fingerprints: Mapping[str, Fingerprint], series: Series, settings: PipelineSettings) -> str:
    state = {
        "scan": SCAN_VERSION,
        "files": {name: (fingerprint.size, fingerprint.tag) for name, fingerprint in fingerprints.items()},
        "interpolated": series.interpolated,
        **settings.source.model_dump(include=set(_READ_SETTINGS)),
        "checks": settings.checks.model_dump(),
        "mask": settings.brain_mask.method == "provided",
    }
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]


def scan_files(dataset: SourceDataset, found: SubjectFiles, settings: PipelineSettings) -> ScannedSubject | None:
    """Read and check the files of a subject; None if one of them changed meanwhile.

    Files that cannot be used give a ScannedSubject with an `error`. Raises StorageError if a file cannot be reached.
    """
    began = time.time()
    before = {path: dataset.tree.fingerprint(dataset.relative(path)) for path in found.files}
    scanned = ScannedSubject(fingerprints=found.state, scanned_at=began)
    try:
        mask = scan_mask(dataset, found.mask) if found.mask else None
        dwi = scan_dwi(dataset, found.series, check_gradients=settings.checks.gradients, mask=mask)
        with located(", ".join(str(run.image) for run in found.series.runs)):
            require_sane(dwi, settings.checks)
        versions, messages = {SCAN: dwi.version}, warnings(dwi)
        if mask:
            versions[MASK] = mask.version
            messages += mask.warnings
        scanned = replace(scanned, versions=versions, facts=facts(dwi), warnings=tuple(map(printable, messages)))
    except InvalidData as error:
        scanned = replace(scanned, error=printable(str(error)))
    return scanned if all(fingerprint_of(path) == fingerprint for path, fingerprint in before.items()) else None


def printable(text: str) -> str:
    """The text as any database can store it: file names need not be valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
