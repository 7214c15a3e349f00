"""What the event log says of a whole cohort, read in one pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dagster import DagsterInstance, DagsterRunStatus

from kwneuro_assets.dagster_internals import (
    MADE,
    OBSERVED,
    PLANNED,
    Event,
    RunEnd,
    Steps,
    newest_events,
    newest_with,
    planned_runs,
    run_ends,
    run_statuses,
    steps_of_ended_runs,
)
from kwneuro_assets.versioning.records import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    FIRST_LOOK,
    INPUT_DATA_VERSIONS,
    LOST,
    NOT_APPLICABLE,
    SCAN,
)

FEW = 2000  # subjects up to which only their events are read; above, one pass over all is quicker

_QUEUED = (DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED)
_ENDED_BADLY = (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class Record:
    """The newest materialization or observation: its event, versions, and the reason of what is not applicable."""

    event_id: int
    data_version: str
    code_version: str  # "" where none was recorded
    input_data_versions: Mapping[str, str]
    not_applicable: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that failed: in which run, why, and when that run ended (event, and seconds since 1970)."""

    run_id: str
    why: str
    ended: RunEnd


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came after the newest materialization: a run that waits or works, failures (oldest first), or a run that
    a person cancelled, `interrupted` where that was in the middle of this step."""

    state: Literal["queued", "running", "failed", "interrupted", "cancelled"]
    run_id: str
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class History:
    """By asset and subject: the newest records, the attempts that made nothing, and what the store has lost."""

    records: Mapping[str, Mapping[str, Record]] = field(default_factory=dict)
    attempts: Mapping[str, Mapping[str, Attempt]] = field(default_factory=dict)
    lost: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_history(
    instance: DagsterInstance, derivatives: Collection[str], sources: Collection[str], subjects: Collection[str]
) -> History:
    """The history of these subjects, each since it was last added."""
    of = subjects if len(subjects) <= FEW else None
    wanted = set(subjects)
    begins = newest_with(instance, OBSERVED, SCAN, FIRST_LOOK, of)
    records: dict[str, dict[str, Record]] = {name: {} for name in (*sources, *derivatives)}
    observed: dict[str, dict[str, Event]] = {name: {} for name in derivatives}
    planned: dict[str, dict[str, Event]] = {name: {} for name in derivatives}
    kinds = {MADE: derivatives, OBSERVED: {*sources, *derivatives}, PLANNED: derivatives}
    share = _Sharing()
    for event in newest_events(instance, kinds, of):
        if event.partition not in wanted or event.id < begins.get(event.partition, 0):
            continue
        if event.kind == PLANNED:
            planned[event.asset][event.partition] = event
        elif event.kind == OBSERVED and event.asset in observed:
            observed[event.asset][event.partition] = event
        else:
            records[event.asset][event.partition] = share.record(event)
    lost = {name: _lost(observed[name], records[name]) for name in derivatives}
    return History(records, _attempts(instance, planned, records, begins), lost)


class _Sharing:
    """Makes records that share the texts that many of them have."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def record(self, event: Event) -> Record:
        inputs = event.metadata(INPUT_DATA_VERSIONS) or {}
        return Record(
            event.id,
            self._shared(event.tag(DATA_VERSION_TAG) or ""),
            self._shared(event.tag(CODE_VERSION_TAG) or ""),
            {self._shared(name): self._shared(version) for name, version in inputs.items()},
            event.metadata(NOT_APPLICABLE),
        )

    def _shared(self, text: str) -> str:
        return self._texts.setdefault(text, text)


def _lost(observed: Mapping[str, Event], records: Mapping[str, Record]) -> dict[str, str]:
    found = {}
    for subject, event in observed.items():
        why = event.metadata(LOST)
        if why is not None and subject in records and event.id > records[subject].event_id:
            found[subject] = str(why)
    return found


def _attempts(
    instance: DagsterInstance,
    planned: Mapping[str, Mapping[str, Event]],
    records: Mapping[str, Mapping[str, Record]],
    begins: Mapping[str, int],
) -> dict[str, dict[str, Attempt]]:
    """Newest plans that no materialization followed, as far as their runs still wait or work, or failed."""
    open_plans = {
        name: {
            subject: event
            for subject, event in events.items()
            if subject not in records[name] or event.id > records[name][subject].event_id
        }
        for name, events in planned.items()
    }
    statuses = run_statuses(instance, {event.run_id for events in open_plans.values() for event in events.values()})
    attempts: dict[str, dict[str, Attempt]] = {}
    for name, events in open_plans.items():
        under_way: dict[str, Attempt] = {}
        ended: list[str] = []
        for subject, event in events.items():
            status = statuses.get(event.run_id)
            if status in _ENDED_BADLY:
                ended.append(subject)
            elif status is not None and status != DagsterRunStatus.SUCCESS:
                under_way[subject] = Attempt("queued" if status in _QUEUED else "running", event.run_id)
        since = {
            subject: max(begins.get(subject, 0), records[name][subject].event_id if subject in records[name] else 0)
            for subject in ended
        }
        attempts[name] = under_way | _failures(instance, name, since)
    return attempts


def _failures(instance: DagsterInstance, asset: str, since: Mapping[str, int]) -> dict[str, Attempt]:
    """The attempts at an asset that failed after an event; none where the newest did not fail in this very step."""
    plans: dict[str, list[str]] = {}
    for subject, event_id, run_id in list(planned_runs(instance, asset, since)):
        if event_id > since[subject]:
            plans.setdefault(subject, []).append(run_id)
    run_ids = {run_id for runs in plans.values() for run_id in runs}
    ends = run_ends(instance, run_ids)
    steps = steps_of_ended_runs(instance, ends)
    statuses = run_statuses(instance, ends)
    found: dict[str, Attempt] = {}
    for subject, runs in plans.items():
        newest = runs[-1]
        if statuses.get(newest) == DagsterRunStatus.CANCELED:
            begun = asset in steps[newest].begun
            found[subject] = Attempt("interrupted" if begun else "cancelled", newest)
            continue
        failures = [
            Failure(run_id, why, ends[run_id])
            for run_id in runs
            if statuses.get(run_id) == DagsterRunStatus.FAILURE and (why := _why_failed(asset, steps[run_id]))
        ]
        if failures and failures[-1].run_id == newest:
            found[subject] = Attempt("failed", newest, tuple(failures))
    return found


def _why_failed(step: str, steps: Steps) -> str | None:
    """Why a step failed in a run that failed; None where it was never reached, as one above it failed."""
    if step in steps.failed:
        return steps.failed[step]
    if step in steps.begun and step not in steps.succeeded:
        return "its run ended in the middle of it"
    return None if steps.begun else "its run failed before the first step"
