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
    Kind,
    Newest,
    Plan,
    RunEnd,
    Steps,
    event_runs,
    event_texts,
    newest_events,
    newest_with,
    planned_runs,
    plans_of_runs,
    run_ends,
    run_statuses,
    steps_of_ended_runs,
    unfinished_runs,
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
    """One attempt that failed or was cancelled: in which run, why, and when that run ended."""

    run_id: str
    why: str
    ended: RunEnd


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came after the newest materialization: a run that waits or works, failures (oldest first), or a run that
    a person cancelled, `interrupted` where that was in the middle of this step (the one in `failures`)."""

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
    kinds = {MADE: derivatives, OBSERVED: {*sources, *derivatives}, PLANNED: derivatives}
    newest: dict[Kind, list[Newest]] = {kind: [] for kind in kinds}
    for event in newest_events(instance, kinds, of):
        if event.partition in wanted and event.id >= begins.get(event.partition, 0):
            newest[event.kind].append(event)
    seen = [event for event in newest[OBSERVED] if event.asset in sources]
    records = _records(instance, [*seen, *newest[MADE]], (*sources, *derivatives))
    lost = _lost(instance, [event for event in newest[OBSERVED] if event.asset not in sources], records)
    return History(records, _attempts(instance, newest[PLANNED], records, begins, derivatives, wanted), lost)


Records = Mapping[str, Mapping[str, Record]]


def _records(instance: DagsterInstance, events: Collection[Newest], assets: Collection[str]) -> Records:
    """What the events record, by asset and subject; texts that many of them have are shared."""
    texts: dict[str, str] = {}

    def shared(text: str) -> str:
        return texts.setdefault(text, text)

    of = {event.id: event for event in events}
    records: dict[str, dict[str, Record]] = {name: {} for name in assets}
    for event_id, text in event_texts(instance, of):
        records[of[event_id].asset][of[event_id].partition] = Record(
            event_id,
            shared(text.tag(DATA_VERSION_TAG) or ""),
            shared(text.tag(CODE_VERSION_TAG) or ""),
            {shared(name): shared(version) for name, version in (text.metadata(INPUT_DATA_VERSIONS) or {}).items()},
            text.metadata(NOT_APPLICABLE),
        )
    return records


def _lost(instance: DagsterInstance, observations: Collection[Newest], records: Records) -> dict[str, dict[str, str]]:
    """Why derivatives are not in the store, where that was noticed after they were made."""
    after = {
        event.id: event
        for event in observations
        if (record := records[event.asset].get(event.partition)) and event.id > record.event_id
    }
    found: dict[str, dict[str, str]] = {name: {} for name in records}
    for event_id, text in event_texts(instance, after):
        if (why := text.metadata(LOST)) is not None:
            found[after[event_id].asset][after[event_id].partition] = str(why)
    return found


def _attempts(
    instance: DagsterInstance,
    plans: Collection[Newest],
    records: Records,
    begins: Mapping[str, int],
    derivatives: Collection[str],
    subjects: Collection[str],
) -> dict[str, dict[str, Attempt]]:
    """What came of plans that no materialization followed: runs that wait or work, or else the newest attempt."""

    def is_answered(plan: Newest | Plan) -> bool:
        return plan.id <= max(begins.get(plan.partition, 0), _made(records[plan.asset], plan.partition))

    waiting = unfinished_runs(instance)
    under_way: dict[str, dict[str, Attempt]] = {name: {} for name in derivatives}
    for planned in plans_of_runs(instance, waiting):
        if planned.asset in under_way and planned.partition in subjects and not is_answered(planned):
            state: Literal["queued", "running"] = "queued" if waiting[planned.run_id] in _QUEUED else "running"
            if state == "running" or planned.partition not in under_way[planned.asset]:
                under_way[planned.asset][planned.partition] = Attempt(state, planned.run_id)
    unanswered = [plan for plan in plans if not is_answered(plan)]
    runs = event_runs(instance, [plan.id for plan in unanswered])
    statuses = run_statuses(instance, set(runs.values()))
    ended: dict[str, dict[str, int]] = {name: {} for name in derivatives}
    for plan in unanswered:
        if statuses.get(runs.get(plan.id, "")) in _ENDED_BADLY:
            since = max(begins.get(plan.partition, 0), _made(records[plan.asset], plan.partition))
            ended[plan.asset][plan.partition] = since
    return {name: _failures(instance, name, ended[name]) | under_way[name] for name in derivatives}


def _made(records: Mapping[str, Record], subject: str) -> int:
    """The event with which a derivative was last made; 0 where it never was."""
    record = records.get(subject)
    return record.event_id if record else 0


def _failures(instance: DagsterInstance, asset: str, since: Mapping[str, int]) -> dict[str, Attempt]:
    """The attempts at an asset that failed after an event; none where the newest did not fail in this very step."""
    plans: dict[str, list[str]] = {}
    for subject, event_id, run_id in planned_runs(instance, asset, since):
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
            state: Literal["interrupted", "cancelled"] = "interrupted" if asset in steps[newest].begun else "cancelled"
            found[subject] = Attempt(state, newest, (Failure(newest, "it was cancelled", ends[newest]),))
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
