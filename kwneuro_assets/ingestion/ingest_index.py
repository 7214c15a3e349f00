"""The ingest index: the last scan of each subject, so that an ingest opens only files that changed.

The index is stored in the Dagster instance beside its cursors, one text per subject, and so is common to all
machines that use the instance. It is a cache: without it, or if it has an older form, one ingest reads all files and
writes it again. What counts is the event log.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from dagster import DagsterInstance

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.location import canonical_url
from kwneuro_assets.versioning.dagster_internals import acquire_lock, read_values, release_lock, write_values
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.source_names import SCAN

LOCK_SECONDS = 90.0  # without a heartbeat, after which another process may acquire the lock
_PREFIX = "kwneuro_assets/source"
LOCK_NAME = f"{_PREFIX}/lock"
_HEARTBEAT_SECONDS = LOCK_SECONDS / 6
_POLL_SECONDS = 1.0  # between two attempts to acquire the lock

Problem = Literal["", "quarantined", "removed"]


@dataclass(frozen=True)
class ScannedSubject:
    """The last scan of one subject.

    Attributes:
        fingerprints: Digest of the fingerprints of its files and of the settings that they were read under; "" if no
            file was read.
        scanned_at: When the scan began, seconds since 1970.
        versions: Data version by source asset.
        facts: Grid, voxel size, shells and how the runs were joined.
        warnings: What was repaired or is doubtful.
        error: Why the files cannot be used; "" if they can.
        problem: Why the subject is excluded now: "quarantined", "removed" from the source, or "".
        reason: The message that goes with `problem`.
        since: When `problem` began, seconds since 1970.
        reported: The problem that the event log has of this subject, in the form of `to_report`.
        reported_warnings: The warnings that the event log has of it.
    """

    fingerprints: str = ""
    scanned_at: float = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""
    problem: Problem = ""
    reason: str = ""
    since: float = 0
    reported: str = ""
    reported_warnings: tuple[str, ...] = ()

    def with_problem(self, problem: Problem, reason: str = "") -> ScannedSubject:
        """The same scan with this problem; `since` is now if the problem or its reason is another one."""
        if (problem, reason) == (self.problem, self.reason):
            return self
        return replace(self, problem=problem, reason=reason, since=time.time())

    @property
    def explanation(self) -> str:
        """Why the subject cannot be used."""
        return self.reason or "it is no longer in the source; kwneuro-assets prune removes its derivatives"

    def to_json(self) -> dict[str, Any]:
        """The scan in the form of the states of derivatives, with its warnings."""
        return {
            "state": self.problem or "fresh",
            "why": [self.explanation] if self.problem else [],
            "data_version": self.versions.get(SCAN),
            "code_version": None,
            "warnings": list(self.warnings),
        }

    @property
    def to_report(self) -> str:
        """The problem as the event log must have it; "" if there is none."""
        return f"{self.problem}: {self.reason}" if self.problem else ""


class IngestIndex:
    """The scanned subjects of one source dataset, by subject key. Changes are stored by `save`."""

    def __init__(self, instance: DagsterInstance, settings: PipelineSettings) -> None:
        self._instance = instance
        url = canonical_url(settings.source.url)
        self._prefix = f"{_PREFIX}/{hashlib.sha256(url.encode()).hexdigest()[:16]}/"
        self._changed: dict[str, str | None] = {}
        self.subjects: dict[str, ScannedSubject] = {}
        for name, text in read_values(instance, self._prefix).items():
            self.subjects[name.removeprefix(self._prefix)] = _parsed(text)

    def __getitem__(self, key: str) -> ScannedSubject:
        return self.subjects.get(key, ScannedSubject())

    def __setitem__(self, key: str, scanned: ScannedSubject) -> None:
        if self.subjects.get(key) != scanned:
            self.subjects[key] = scanned
            self._changed[self._prefix + key] = json.dumps(asdict(scanned), separators=(",", ":"))

    def forget(self, keys: Collection[str]) -> None:
        """Remove these subjects from the index."""
        for key in keys:
            if self.subjects.pop(key, None) is not None:
                self._changed[self._prefix + key] = None

    def save(self) -> None:
        """Store what changed since the last call."""
        if self._changed:
            write_values(self._instance, self._changed)
            self._changed = {}


def scanned_subjects(instance: DagsterInstance, settings: PipelineSettings) -> dict[str, ScannedSubject]:
    """The last scan of all subjects, by key, sorted."""
    return {key: one for key, one in sorted(IngestIndex(instance, settings).subjects.items()) if key}


def unusable_subjects(instance: DagsterInstance, settings: PipelineSettings) -> dict[str, ScannedSubject]:
    """The last scan of the subjects that are quarantined or no longer in the source, by key, sorted."""
    return {key: one for key, one in scanned_subjects(instance, settings).items() if one.problem}


def usable_subjects(instance: DagsterInstance, settings: PipelineSettings) -> list[str]:
    """The known subjects, sorted, without those that are quarantined or no longer in the source."""
    return sorted(set(instance.get_dynamic_partitions(PARTITIONS)) - unusable_subjects(instance, settings).keys())


class LockLost(ActionableError):
    """This process gave no heartbeat for so long that another one acquired the lock."""


@contextmanager
def ingest_lock(instance: DagsterInstance, wait: Callable[[int], bool]) -> Iterator[Callable[[], None] | None]:
    """The lock under which one process at a time ingests; yields its heartbeat, or None if another process has it.

    While another process has it, `wait` is called with the number of the attempt (1, 2, ...) and returns whether to try
    again. The caller calls the heartbeat regularly. It extends the lock, and raises LockLost if another process has it.
    """
    holder, acquired = secrets.token_hex(8), 0.0

    def acquire() -> bool:
        nonlocal acquired
        began = time.monotonic()
        if acquire_lock(instance, LOCK_NAME, holder, LOCK_SECONDS):
            acquired = began
            return True
        return False

    def heartbeat() -> None:
        if time.monotonic() - acquired > _HEARTBEAT_SECONDS and not acquire():
            raise LockLost(
                "expected to have the lock of the source, found that another process has it: this one gave no "
                f"heartbeat for {LOCK_SECONDS:.0f} s. Try again."
            )

    attempts = itertools.count(1)
    while not acquire():
        if not wait(next(attempts)):
            yield None
            return
        time.sleep(_POLL_SECONDS)
    try:
        yield heartbeat
    finally:
        release_lock(instance, LOCK_NAME, holder)


def _parsed(text: str) -> ScannedSubject:
    """A stored scan; an empty one if it has an older form, so that the subject is scanned again."""
    try:
        tree = json.loads(text)
    except ValueError:
        return ScannedSubject()
    if not isinstance(tree, dict) or tree.keys() != {one.name for one in fields(ScannedSubject)}:
        return ScannedSubject()
    return ScannedSubject(**{**tree, **{name: tuple(tree[name]) for name in ("warnings", "reported_warnings")}})
