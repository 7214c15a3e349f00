"""Ingest of the source dataset: new subjects become partitions, their scans are recorded as observations.

Ingest is level-triggered: it compares the source with the event log and records the differences, so that the next
ingest completes one that was cut short by its time limit or by a crash. It opens only files that changed (see
`ingest_index`), and one process at a time ingests.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from dagster import AssetObservation, DagsterInstance, MetadataValue

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.background import BACKGROUND, WORKERS
from kwneuro_assets.ingestion.custom_layout import open_dataset
from kwneuro_assets.ingestion.dataset import SourceDataset, orphaned_subjects
from kwneuro_assets.ingestion.ingest_index import IngestIndex, LockLost, ScannedSubject, ingest_lock
from kwneuro_assets.ingestion.ingest_report import IngestReport
from kwneuro_assets.ingestion.quarantine import report_quarantine
from kwneuro_assets.ingestion.subject_files import SubjectFiles, find_files, printable, scan_files
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.files import read_bytes
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.retries import AccessDenied, StorageError
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.history import read_history
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import DATA_VERSION_TAG, FIRST_SCAN
from kwneuro_assets.versioning.source_names import MASK, SCAN, source_names

_PARTITIONS_AT_ONCE = 25
_POLL_SECONDS = 5.0  # between two heartbeats while files are read
_MAX_LISTING_AGE = 120.0  # seconds, after which the source is listed again

OnMessage = Callable[[str], object]


def ingest(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subjects: Collection[str] | None = None,
    *,
    seconds: float | None = None,
    reread_before: float = 0,
    on_message: OnMessage = lambda message: None,
) -> IngestReport:
    """Add partitions for new subjects and observe the source assets of all subjects, or of these keys.

    An observation is recorded only if its content is new, so that a repeated ingest changes nothing. A subject whose
    files cannot be used is reported and stops no other. A subject with a file that changed within the last
    `ingestion.settle_seconds` is arriving: without a time limit, ingest waits for it once.

    Args:
        instance: The Dagster instance that has the event log and the ingest index.
        settings: The pipeline settings.
        subjects: The keys to ingest, such as "sub-01_ses-02"; all if None.
        seconds: The time limit. What it leaves is counted in `IngestReport.remaining`, and the next ingest continues.
        reread_before: Read files again that were last read before this time (seconds since 1970), even if their
            fingerprints did not change.
        on_message: Called with a message before each wait.

    Raises SourceError if there is no dataset, and StorageError if it cannot be read.
    """

    def wait_for_lock(attempt: int) -> bool:
        if attempt == 1:
            on_message("another process is ingesting; waiting for it")
        return seconds is None

    with ingest_lock(instance, wait_for_lock) as heartbeat:
        if heartbeat is None:
            return IngestReport(is_busy=True)
        one = _Ingest(instance, settings, heartbeat, seconds, reread_before)
        one.scan(subjects)
        if seconds is None and one.report.arriving:
            one.wait_for_files(on_message)
            arriving, one.report.arriving = one.report.arriving, {}
            one.scan(arriving)
        one.finish(is_complete=subjects is None)
        return one.report


@dataclass(frozen=True)
class _Listing:
    """A listing of the source: when it began, its subjects, and the folders that cannot be used."""

    moment: float
    dataset: SourceDataset
    subjects: list[SubjectKey]
    refused: dict[str, InvalidData]


class _Ingest:
    """One ingest, under the lock."""

    def __init__(
        self,
        instance: DagsterInstance,
        settings: PipelineSettings,
        heartbeat: Callable[[], None],
        seconds: float | None,
        reread_before: float,
    ) -> None:
        self.report = IngestReport()
        self._instance = instance
        self._settings = settings
        self._heartbeat = heartbeat
        self._end = None if seconds is None else time.monotonic() + seconds
        self._reread_before = reread_before
        self._index = IngestIndex(instance, settings)
        self._known = set(instance.get_dynamic_partitions(PARTITIONS))
        self._new: list[str] = []  # observed, but not yet partitions
        self._sources = source_names(settings)
        self._wait_seconds = 0.0

    def scan(self, keys: Collection[str] | None) -> None:
        """Scan all subjects, or these, within the time limit."""
        listing = self._list_source(keys)
        if listing is None:
            self.report.is_listing = True
            return
        dataset, subjects, refused = listing.dataset, listing.subjects, listing.refused
        self.report.ignored = {printable(path): why for path, why in sorted(dataset.ignored.items())}
        if not (subjects or refused or keys):
            self.report.no_subjects = printable(
                f"no subject in {dataset.root}: expected {dataset.expected_files()}, found {dataset.found_instead()}"
            )
        known = [*map(str, subjects), *(self._known if keys is None else ())]
        self._records = read_history(self._instance, [], self._sources, known).records
        for name, error in refused.items():
            self._quarantine(name, error)
        to_report: list[SubjectFiles] = []
        to_read: list[SubjectFiles] = []
        for subject in subjects:
            found = self._find_files(dataset, subject)
            if found is not None:
                (to_report if self._is_up_to_date(found) else to_read).append(found)
        try:
            if keys is None:
                self._mark_removed(subjects, refused)
            for found in to_report:
                self._report(found)
            to_read.sort(key=lambda found: _urgency(self._index[str(found.subject)], found))
            denied = self._read(dataset, to_read)
        except LockLost:  # another process may have written the index
            raise
        except BaseException:
            self._save()
            raise
        self._save()
        if denied:
            self._require_own_fault(dataset, next(iter(denied.values())))
            for key, refusal in denied.items():
                self._quarantine(key, refusal)
            self._index.save()

    def _save(self) -> None:
        self._add_partitions()
        self._index.save()

    def wait_for_files(self, on_message: OnMessage) -> None:
        """Wait until the arriving files can be complete."""
        self._wait_seconds = min(self._wait_seconds, self._settings.ingestion.settle_seconds) + 0.1
        on_message(
            f"files of {len(self.report.arriving)} subjects are new: waiting {self._wait_seconds:.0f} s for more"
        )
        end = time.monotonic() + self._wait_seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_SECONDS))
            self._heartbeat()

    def finish(self, *, is_complete: bool) -> None:
        """Report the quarantine list if all subjects were listed, and sort the report."""
        if is_complete:
            report_quarantine(self._instance, self._index)
        self._index.save()
        for name in ("added", "changed", "unchanged", "removed"):
            getattr(self.report, name).sort()
        self.report.quarantined = dict(sorted(self.report.quarantined.items()))

    def _list_source(self, keys: Collection[str] | None) -> _Listing | None:
        """List the dataset; None if the time limit ends the listing."""

        def work() -> _Listing:
            dataset = open_dataset(self._settings.source)
            subjects, refused = dataset.subjects(keys, masks=MASK in self._sources)
            wanted = [subject for subject in subjects if keys is None or str(subject) in keys]
            return _Listing(time.monotonic(), dataset, wanted, refused)

        if self._end is None:
            return work()
        name = self._settings.model_dump_json(include={"source", "brain_mask"})
        found = BACKGROUND.result_within(self._left(), "list", name, work)
        while found is not None and time.monotonic() - found.moment >= _MAX_LISTING_AGE:  # of a much earlier tick
            found = BACKGROUND.result_within(self._left(), "list", name, work)
        return found

    def _find_files(self, dataset: SourceDataset, subject: SubjectKey) -> SubjectFiles | None:
        """The files of a subject; None if they do not belong together, or are not complete yet."""
        key = str(subject)
        try:
            found, newest = find_files(dataset, subject, self._settings)
        except InvalidData as error:
            if not self._is_arriving(key, dataset.changed(subject)):
                self._quarantine(key, error)
            return None
        if found.state != self._index[key].fingerprints and self._is_arriving(key, newest):
            return None
        return found

    def _is_arriving(self, key: str, newest: float) -> bool:
        """Whether a file of the subject changed so recently that more may follow."""
        settle = self._settings.ingestion.settle_seconds
        age = time.time() - newest
        if age >= settle:
            return False
        self.report.arriving[key] = f"its files are still arriving: the last changed {max(age, 0):.0f} s ago"
        self._wait_seconds = max(self._wait_seconds, settle - age)
        return True

    def _is_up_to_date(self, found: SubjectFiles) -> bool:
        scanned = self._index[str(found.subject)]
        # The fingerprints of a remote file (ETag) follow its content; those of a local file (date) need not.
        is_recent = scanned.scanned_at >= self._reread_before or not is_local(found.files[0])
        return scanned.fingerprints == found.state and is_recent

    def _read(self, dataset: SourceDataset, to_read: list[SubjectFiles]) -> dict[str, StorageError]:
        """Read the files of these subjects in parallel and report each; returns those that access is denied to."""
        denied: dict[str, StorageError] = {}
        waiting, group = deque(to_read), self._settings.source.url
        running: dict[Future[Any], SubjectFiles] = {}
        BACKGROUND.cancel_all_but(group, {found.state for found in to_read})
        while waiting or running:
            while waiting and len(running) < 2 * WORKERS and self._left() > 0:
                found = waiting.popleft()
                work = partial(scan_files, dataset, found, self._settings)
                running[BACKGROUND.submit(group, found.state, work)] = found
            done = wait(running, timeout=min(_POLL_SECONDS, self._left()), return_when=FIRST_COMPLETED).done
            self._heartbeat()
            for future in done:
                found = running.pop(future)
                BACKGROUND.discard(group, found.state)
                try:
                    scanned = future.result()
                except AccessDenied as error:
                    denied[str(found.subject)] = error
                    continue
                self._use_scan(found, scanned)
            if not done and self._left() <= 0:
                break
        self.report.remaining += len(waiting) + len(running)
        return denied

    def _use_scan(self, found: SubjectFiles, scanned: ScannedSubject | None) -> None:
        """Report a scan; None if the files changed while they were read."""
        key = str(found.subject)
        if scanned is None:
            self.report.arriving[key] = "its files changed while they were read"
            return
        before = self._index[key]
        reported = ("problem", "reason", "since", "reported", "reported_warnings")
        self._index[key] = replace(scanned, **{name: getattr(before, name) for name in reported})
        self._report(found)

    def _report(self, found: SubjectFiles) -> None:
        """Record what is known of a subject and not yet in the event log."""
        key = str(found.subject)
        scanned = self._index[key]
        if scanned.error:
            self._quarantine(key, scanned.error)
            return
        if self._left() <= 0 and not self._is_recorded(key, scanned):
            self.report.remaining += 1
            return
        if scanned.warnings:
            self.report.warnings[key] = scanned.warnings
        self._index[key] = scanned = scanned.with_problem("")
        is_new = key not in self._known
        # The first observation marks the start of a subject's history: events that Dagster has of an earlier subject of
        # this key do not count. The key becomes a partition only after it, so that no run finds it unobserved.
        has_changed = False
        for asset, version in scanned.versions.items():
            is_scan = asset == SCAN
            is_other = is_new or version != self._recorded(asset, key)
            if is_other or (is_scan and (scanned.reported or scanned.reported_warnings != scanned.warnings)):
                self._observe(found, asset, scanned, is_first=is_new and is_scan)
                has_changed |= is_other
        self._index[key] = replace(scanned, reported="", reported_warnings=scanned.warnings)
        if is_new:
            self._new.append(key)
            self.report.added.append(key)
            if len(self._new) >= _PARTITIONS_AT_ONCE:
                self._add_partitions()
        else:
            (self.report.changed if has_changed else self.report.unchanged).append(key)

    def _observe(self, found: SubjectFiles, asset: str, scanned: ScannedSubject, *, is_first: bool) -> None:
        metadata: dict[str, Any] = {
            "files": MetadataValue.json(list(found.names) if asset == SCAN else [found.mask_name]),
            **(scanned.facts if asset == SCAN else {}),
            **({"warnings": "\n".join(scanned.warnings)} if scanned.warnings and asset == SCAN else {}),
            **({FIRST_SCAN: True} if is_first else {}),
        }
        self._record(asset, str(found.subject), scanned.versions[asset], metadata)

    def _record(self, asset: str, key: str, version: str, metadata: Mapping[str, Any]) -> None:
        """Record an observation; without a data version if `version` is ""."""
        self._heartbeat()
        tags = {DATA_VERSION_TAG: version} if version else {}
        self._instance.report_runless_asset_event(AssetObservation(asset, partition=key, tags=tags, metadata=metadata))
        self.report.recorded_events += 1

    def _quarantine(self, name: str, why: object) -> None:
        key, reason = printable(name), printable(str(why))
        self.report.quarantined[key] = reason
        self._set_problem(key, "quarantined", reason)

    def _set_problem(self, key: str, problem: Literal["quarantined", "removed"], reason: str) -> None:
        """Record that a subject cannot be used as it is in the source; its recorded data version stays."""
        scanned = self._index[key].with_problem(problem, reason)
        if scanned.reported != scanned.to_report and self._left() <= 0:
            self.report.remaining += 1
        elif scanned.reported != scanned.to_report:
            with suppress(InvalidData):  # what is no subject key has no partition
                SubjectKey.parse(key)
                metadata: dict[str, Any] = {problem: reason or "it is no longer in the source"}
                self._record(SCAN, key, self._recorded(SCAN, key), metadata)
            scanned = replace(scanned, reported=scanned.to_report)
        self._index[key] = scanned

    def _mark_removed(self, subjects: Collection[SubjectKey], refused: Collection[str]) -> None:
        """Mark the partitions that are no longer in the source, and forget names that are no partitions."""
        orphaned = orphaned_subjects(self._known, subjects, refused)
        self.report.removed += orphaned
        named = {*map(str, subjects), *map(printable, refused), *self._known, ""}
        self._index.forget([key for key in self._index.subjects if key not in named])
        if subjects or refused:  # a source that is suddenly empty may be a disk that is not mounted
            for key in orphaned:
                self._set_problem(key, "removed", "")

    def _is_recorded(self, key: str, scanned: ScannedSubject) -> bool:
        is_same = all(version == self._recorded(asset, key) for asset, version in scanned.versions.items())
        return key in self._known and is_same and not scanned.reported and scanned.reported_warnings == scanned.warnings

    def _recorded(self, asset: str, key: str) -> str:
        """The data version in the event log; "" if there is none."""
        record = self._records[asset].get(key)
        return record.data_version if record else ""

    def _add_partitions(self) -> None:
        if self._new:
            self._instance.add_dynamic_partitions(PARTITIONS, self._new)
            self._known |= set(self._new)
            self._new = []
            self._index.save()

    def _left(self) -> float:
        """The seconds that are left of the time limit."""
        return _POLL_SECONDS if self._end is None else max(self._end - time.monotonic(), 0)

    def _require_own_fault(self, dataset: SourceDataset, denied: StorageError) -> None:
        """Raise `denied` unless the same credentials can still read the files of another subject."""
        if not self.report.usable:
            raise denied
        witness = dataset.series(SubjectKey.parse(self.report.usable[0]))
        with suppress(FileNotFoundError):
            read_bytes(witness.runs[0].bval)


def _urgency(scanned: ScannedSubject, found: SubjectFiles) -> tuple[int, str]:
    """New subjects first, then changed ones, then those that are read again to check their content."""
    return (0 if not scanned.fingerprints else 1 if scanned.fingerprints != found.state else 2), str(found.subject)
