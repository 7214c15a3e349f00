"""A look at the source dataset: new subjects become partitions, what they hold is observed.

The look is level-triggered: it compares what lies there with what the event log says and reports the difference, so
that one that was cut short, by its time or by a crash, is completed by the next. Only files that changed are opened
(see `ledger`). One process at a time looks.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from dagster import AssetObservation, DagsterInstance, MetadataValue
from upath import UPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.volume import require_same_grid
from kwneuro_assets.ingestion.background import BACKGROUND, WORKERS
from kwneuro_assets.ingestion.dataset import Series, SourceDataset, gone_from
from kwneuro_assets.ingestion.ledger import Ledger, Seen, TurnLost, turn
from kwneuro_assets.ingestion.plain import open_dataset
from kwneuro_assets.ingestion.plausible import facts, require_plausible, warnings
from kwneuro_assets.ingestion.quarantine import report_quarantine
from kwneuro_assets.ingestion.read import look_at_dwi, look_at_mask
from kwneuro_assets.ingestion.source import MASK, source_names
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.files import Stamp, read_bytes, stamp_of
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.patience import AccessDenied, StorageError
from kwneuro_assets.subjects import PARTITIONS, SubjectKey
from kwneuro_assets.versioning.history import read_history
from kwneuro_assets.versioning.records import DATA_VERSION_TAG, FIRST_LOOK, SCAN

LOOK = 1  # raised where a look tells more, so that everything is looked at again
_PARTITIONS_AT_ONCE = 25
_BEAT = 5.0  # seconds between two signs of life while files are read
_OLD = 120.0  # seconds after which a listing is made anew

Tell = Callable[[str], object]


@dataclass
class IngestReport:
    """What one look found, by subject key.

    `quarantined` and `arriving` give the reason of each that cannot be used, or cannot be used yet; `warnings` what a
    person should look at. `waiting` counts those that the time of this look did not suffice for; `is_listing` tells
    that it did not suffice to list the source, `is_busy` that another process looked, and so this one did not.
    """

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    quarantined: dict[str, str] = field(default_factory=dict)
    arriving: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    waiting: int = 0
    is_listing: bool = False
    is_busy: bool = False

    @property
    def usable(self) -> list[str]:
        return sorted([*self.added, *self.changed, *self.unchanged])

    def to_json(self) -> dict[str, Any]:
        """What scripts get: those that are still arriving cannot be used, like those in quarantine."""
        told = {name: sorted(getattr(self, name)) for name in ("added", "changed", "removed")}
        return {**told, "quarantined": {**self.quarantined, **self.arriving}}

    def sentence(self) -> str:
        """All of it in one line."""
        if self.is_busy:
            return "another process looks at the source"
        if self.is_listing:
            return "the source is still being listed"
        lists = ("added", "changed", "unchanged", "removed", "quarantined", "arriving")
        counts = [f"{len(getattr(self, name))} {name}" for name in lists if getattr(self, name)]
        counts += [f"{self.waiting} wait for the next look"] if self.waiting else []
        return ", ".join(counts) or "there are no subjects"


def ingest(
    instance: DagsterInstance,
    settings: PipelineSettings,
    only: Collection[str] | None = None,
    *,
    seconds: float | None = None,
    anew_since: float = 0,
    tell: Tell = lambda sentence: None,
) -> IngestReport:
    """Add partitions for new subjects and observe the source assets of all, or of those in `only`.

    An observation is recorded only where the content is new, so that looking again changes nothing. A subject
    whose files cannot be used is reported and stops no other. A subject of which a file has changed within
    `ingestion.settle_seconds` waits: without `seconds`, the time that this look may take, it is waited for once. Files
    that were last read before `anew_since` (seconds since 1970) are read again, whatever their size and date. `tell`
    gets a sentence when something is waited for.

    Raises SourceError where there is no dataset, and StorageError where it cannot be read.
    """

    def wait_for_turn(number: int) -> bool:
        if number == 1:
            tell("another process looks at the source; waiting for it")
        return seconds is None

    with turn(instance, wait_for_turn) as keep_turn:
        if keep_turn is None:
            return IngestReport(is_busy=True)
        look = _Look(instance, settings, keep_turn, seconds, anew_since)
        look.take_in(only)
        if seconds is None and look.report.arriving:
            look.wait_for_files(tell)
            arriving, look.report.arriving = look.report.arriving, {}
            look.take_in(arriving)
        look.close(is_whole=only is None)
        return look.report


@dataclass(frozen=True)
class _Listed:
    """A dataset, when it was listed, and the subjects that lie in it."""

    moment: float
    dataset: SourceDataset
    subjects: list[SubjectKey]
    refused: dict[str, InvalidData]


@dataclass(frozen=True)
class _Found:
    """A subject as it lies there."""

    subject: SubjectKey
    series: Series
    mask: UPath | None
    names: tuple[str, ...] = ()  # of its files below the root, the mask's last
    state: str = ""  # of its files and of the settings under which they are looked at

    @property
    def files(self) -> list[UPath]:
        return [*self.series.files(), *([self.mask] if self.mask else [])]


class _Look:
    """One look while it lasts."""

    def __init__(
        self,
        instance: DagsterInstance,
        settings: PipelineSettings,
        keep_turn: Callable[[], None],
        seconds: float | None,
        anew_since: float,
    ) -> None:
        self.report = IngestReport()
        self._instance = instance
        self._settings = settings
        self._keep_turn = keep_turn
        self._end = None if seconds is None else time.monotonic() + seconds
        self._anew_since = anew_since
        self._ledger = Ledger(instance, settings)
        self._known = set(instance.get_dynamic_partitions(PARTITIONS))
        self._new: list[str] = []  # observed, but no partitions yet
        self._sources = source_names(settings)
        self._has_masks = MASK in self._sources
        self._wait_seconds = 0.0

    def take_in(self, only: Collection[str] | None) -> None:
        """All subjects, or those in `only`, as far as the time suffices."""
        listed = self._listed(only)
        if listed is None:
            self.report.is_listing = True
            return
        dataset, subjects, refused = listed.dataset, listed.subjects, listed.refused
        known = [*map(str, subjects), *(self._known if only is None else ())]
        self._records = read_history(self._instance, [], self._sources, known).records
        for name, error in refused.items():
            self._refuse(name, error)
        to_report: list[_Found] = []
        to_read: list[_Found] = []
        for subject in subjects:
            found = self._found(dataset, subject)
            if found is not None:
                (to_report if self._is_known(found) else to_read).append(found)
        try:
            if only is None:
                self._mark_removed(subjects, refused)
            for found in to_report:
                self._report(found)
            to_read.sort(key=lambda found: _urgency(self._ledger[str(found.subject)], found))
            denied = self._read(dataset, to_read)
        except TurnLost:  # what this process knows is no longer to be kept
            raise
        except BaseException:
            self._keep()
            raise
        self._keep()
        if denied:
            self._require_own_fault(dataset, next(iter(denied.values())))
            for key, refusal in denied.items():
                self._refuse(key, refusal)
            self._ledger.save()

    def _keep(self) -> None:
        """Keep what was taken in."""
        self._add_partitions()
        self._ledger.save()

    def wait_for_files(self, tell: Tell) -> None:
        """Until what is arriving can have settled."""
        self._wait_seconds = min(self._wait_seconds, self._settings.ingestion.settle_seconds) + 0.1
        tell(f"files of {len(self.report.arriving)} subjects are new: waiting {self._wait_seconds:.0f} s for more")
        end = time.monotonic() + self._wait_seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _BEAT))
            self._keep_turn()

    def close(self, *, is_whole: bool) -> None:
        """What is told once in a look."""
        if is_whole:
            report_quarantine(self._instance, self._ledger)
        self._ledger.save()
        for name in ("added", "changed", "unchanged", "removed"):
            getattr(self.report, name).sort()
        self.report.quarantined = dict(sorted(self.report.quarantined.items()))

    def _listed(self, only: Collection[str] | None) -> _Listed | None:
        """The dataset and what lies in it; None where the time of this look does not suffice to tell."""

        def work() -> _Listed:
            dataset = open_dataset(self._settings.source)
            subjects, refused = dataset.subjects(only, masks=self._has_masks)
            wanted = [subject for subject in subjects if only is None or str(subject) in only]
            return _Listed(time.monotonic(), dataset, wanted, refused)

        if self._end is None:
            return work()
        name = self._settings.model_dump_json(include={"source", "brain_mask"})
        found = BACKGROUND.within(self._left(), "list", name, work)
        while found is not None and time.monotonic() - found.moment >= _OLD:  # asked for by a look of long ago
            found = BACKGROUND.within(self._left(), "list", name, work)
        return found

    def _found(self, dataset: SourceDataset, subject: SubjectKey) -> _Found | None:
        """The subject's files; None where they do not belong together, or may not be whole yet."""
        key = str(subject)
        try:
            series = dataset.series(subject)
            # By its name, before anything large is read.
            mask = dataset.mask(subject) if self._has_masks else None
            found = _Found(subject, series, mask)
            stamps, newest = dataset.stamps(subject, found.files)
        except InvalidData as error:
            if not self._is_arriving(key, dataset.changed(subject)):
                self._refuse(key, error)
            return None
        found = replace(found, names=tuple(stamps), state=self._state_of(stamps, series))
        if found.state != self._ledger[key].stamps and self._is_arriving(key, newest):
            return None
        return found

    def _state_of(self, stamps: dict[str, Stamp], series: Series) -> str:
        settings = self._settings
        state = {
            "look": LOOK,
            "files": {name: (stamp.size, stamp.tag) for name, stamp in stamps.items()},
            "interpolated": series.interpolated,
            "subsample": settings.source.subsample,
            "b0_threshold": settings.source.b0_threshold,
            "checks": settings.checks.model_dump(),
            "mask": self._has_masks,
        }
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]

    def _is_arriving(self, key: str, newest: float) -> bool:
        """Whether a file of the subject changed so lately that more may follow."""
        settle = self._settings.ingestion.settle_seconds
        age = time.time() - newest
        if age >= settle:
            return False
        self.report.arriving[key] = f"its files are still arriving: the last changed {max(age, 0):.0f} s ago"
        self._wait_seconds = max(self._wait_seconds, settle - age)
        return True

    def _is_known(self, found: _Found) -> bool:
        seen = self._ledger[str(found.subject)]
        # What a remote place tells of a file follows its content; dates on a disk need not.
        is_new_enough = seen.looked >= self._anew_since or not is_local(found.files[0])
        return seen.stamps == found.state and is_new_enough

    def _read(self, dataset: SourceDataset, to_read: list[_Found]) -> dict[str, StorageError]:
        """Read these subjects' files in parallel and report each; those that may not be read are returned."""
        denied: dict[str, StorageError] = {}
        waiting, group = deque(to_read), self._settings.source.url
        running: dict[Future[Any], _Found] = {}
        BACKGROUND.drop_all_but(group, {found.state for found in to_read})
        while waiting or running:
            while waiting and len(running) < 2 * WORKERS and self._left() > 0:
                found = waiting.popleft()
                work = partial(_look_at, dataset, found, self._settings)
                running[BACKGROUND.ask(group, found.state, work)] = found
            done = wait(running, timeout=min(_BEAT, self._left()), return_when=FIRST_COMPLETED).done
            self._keep_turn()
            for future in done:
                found = running.pop(future)
                BACKGROUND.take(group, found.state)
                try:
                    seen = future.result()
                except AccessDenied as error:
                    denied[str(found.subject)] = error
                    continue
                self._taken(found, seen)
            if not done and self._left() <= 0:
                break
        self.report.waiting += len(waiting) + len(running)
        return denied

    def _taken(self, found: _Found, seen: Seen | None) -> None:
        """What came of reading a subject's files; None where they changed meanwhile."""
        key = str(found.subject)
        if seen is None:
            self.report.arriving[key] = "its files changed while they were read"
            return
        before = self._ledger[key]
        marked = {name: getattr(before, name) for name in ("mark", "reason", "since", "told")}
        self._ledger[key] = replace(seen, **marked)
        self._report(found)

    def _report(self, found: _Found) -> None:
        """Record what is known of a subject and not in the event log yet."""
        key = str(found.subject)
        seen = self._ledger[key]
        if seen.refused:
            self._refuse(key, seen.refused)
            return
        if self._left() <= 0 and not self._is_recorded(key, seen):
            self.report.waiting += 1
            return
        if seen.warnings:
            self.report.warnings[key] = seen.warnings
        self._ledger[key] = seen = seen.marked("")
        is_new = key not in self._known
        # Its first observation begins its life: what Dagster has kept of an earlier one does not count. It becomes a
        # partition only then, so that there is no moment in which it could be run unobserved.
        moved = False
        for asset, version in seen.versions.items():
            is_scan = asset == SCAN
            changed = is_new or version != self._recorded(asset, key)
            if changed or (is_scan and seen.told):
                self._observe(found, asset, seen, begins=is_new and is_scan)
                moved |= changed
        self._ledger[key] = replace(seen, told="")
        if is_new:
            self._new.append(key)
            self.report.added.append(key)
            if len(self._new) >= _PARTITIONS_AT_ONCE:
                self._add_partitions()
        else:
            (self.report.changed if moved else self.report.unchanged).append(key)

    def _observe(self, found: _Found, asset: str, seen: Seen, *, begins: bool) -> None:
        self._keep_turn()
        series = found.names[:-1] if found.mask else found.names
        metadata: dict[str, Any] = {
            "files": MetadataValue.json(list(series if asset == SCAN else found.names[-1:])),
            **(seen.facts if asset == SCAN else {}),
            **({"warnings": "\n".join(seen.warnings)} if seen.warnings and asset == SCAN else {}),
            **({FIRST_LOOK: True} if begins else {}),
        }
        self._instance.report_runless_asset_event(
            AssetObservation(
                asset, partition=str(found.subject), tags={DATA_VERSION_TAG: seen.versions[asset]}, metadata=metadata
            )
        )

    def _refuse(self, name: str, why: object) -> None:
        """Put a subject into quarantine."""
        key, reason = _printable(name), _printable(str(why))
        self.report.quarantined[key] = reason
        self._mark(key, "quarantined", reason)

    def _mark(self, key: str, mark: Literal["quarantined", "removed"], reason: str) -> None:
        """Record that a subject is not to be used as it lies there; its data version stays what it was."""
        seen = self._ledger[key].marked(mark, reason)
        if seen.told != seen.to_tell and self._left() <= 0:
            self.report.waiting += 1
        elif seen.told != seen.to_tell:
            with suppress(InvalidData):  # no key, no partition
                SubjectKey.parse(key)
                version = self._recorded(SCAN, key)
                self._keep_turn()
                self._instance.report_runless_asset_event(
                    AssetObservation(
                        SCAN,
                        partition=key,
                        tags={DATA_VERSION_TAG: version} if version else {},
                        metadata={mark: reason or "it is no longer in the source"},
                    )
                )
            seen = replace(seen, told=seen.to_tell)
        self._ledger[key] = seen

    def _mark_removed(self, subjects: Collection[SubjectKey], refused: Collection[str]) -> None:
        """Mark the partitions that are no longer in the source, and forget what was no partition."""
        gone = gone_from(self._known, subjects, refused)
        self.report.removed += gone
        named = {*map(str, subjects), *map(_printable, refused), *self._known, ""}
        self._ledger.forget([key for key in self._ledger.seen if key not in named])
        if subjects or refused:  # a source that is empty all at once may be a disk that is not there
            for key in gone:
                self._mark(key, "removed", "")

    def _is_recorded(self, key: str, seen: Seen) -> bool:
        is_same = all(version == self._recorded(asset, key) for asset, version in seen.versions.items())
        return key in self._known and is_same and not seen.told

    def _recorded(self, asset: str, key: str) -> str:
        """The data version of the event log; "" where there is none."""
        record = self._records[asset].get(key)
        return record.data_version if record else ""

    def _add_partitions(self) -> None:
        if self._new:
            self._instance.add_dynamic_partitions(PARTITIONS, self._new)
            self._known |= set(self._new)
            self._new = []
            self._ledger.save()

    def _left(self) -> float:
        """Seconds that this look has left."""
        return _BEAT if self._end is None else max(self._end - time.monotonic(), 0)

    def _require_own_fault(self, dataset: SourceDataset, denied: StorageError) -> None:
        """Files that are denied are closed themselves only where the same credentials still read another's."""
        if not self.report.usable:
            raise denied
        witness = dataset.series(SubjectKey.parse(self.report.usable[0]))
        with suppress(FileNotFoundError):
            read_bytes(witness.runs[0].bval)


def _look_at(dataset: SourceDataset, found: _Found, settings: PipelineSettings) -> Seen | None:
    """What a subject's files hold; None where one of them changed meanwhile. Raises StorageError."""
    began = time.time()
    before = {path: dataset.tree.stamp(dataset.relative(path)) for path in found.files}
    seen = Seen(stamps=found.state, looked=began)
    try:
        look = look_at_dwi(dataset, found.series, check_gradients=settings.checks.gradients)
        with located(", ".join(str(run.image) for run in found.series.runs)):
            require_plausible(look, settings.checks)
        versions = {SCAN: look.version}
        if found.mask is not None:
            grid, versions[MASK] = look_at_mask(dataset, found.mask)
            with located(found.mask):
                require_same_grid(grid, look.grid, "the brain mask", found.series.runs[0].image.name)
        seen = replace(seen, versions=versions, facts=facts(look), warnings=warnings(look))
    except InvalidData as error:
        seen = replace(seen, refused=_printable(str(error)))
    return seen if all(stamp_of(path) == stamp for path, stamp in before.items()) else None


def _urgency(seen: Seen, found: _Found) -> tuple[int, str]:
    """What was never read comes first, then what changed, then what is read again to be sure."""
    return (0 if not seen.stamps else 1 if seen.stamps != found.state else 2), str(found.subject)


def _printable(text: str) -> str:
    """A text that any database takes: names on a disk need not be Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
