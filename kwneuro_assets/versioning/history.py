"""The history of a cohort in the event log, read in one pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from dagster import DagsterInstance, DagsterRunStatus

from kwneuro_assets.versioning.dagster_internals import (
    MATERIALIZED,
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
    newest_with_metadata,
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
    FIRST_SCAN,
    INPUT_DATA_VERSIONS,
    MISSING_FROM_STORE,
    NOT_APPLICABLE,
)
from kwneuro_assets.versioning.source_names import SCAN

FEW = 2000  # up to so many subjects, only their events are read; for more, one pass over all events is faster

_QUEUED = (DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED)
_ENDED_BADLY = (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class Record:
    """The newest materialization or observation: its event, versions, and why it is not applicable if so."""

    event_id: int
    data_version: str
    code_version: str  # "" if none was recorded
    input_data_versions: Mapping[str, str]
    not_applicable: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed or canceled attempt: the run, the reason, and the end of that run."""

    run_id: str
    why: str
    ended: RunEnd


@dataclass(frozen=True, slots=True)
class Attempt:
    """What happened after the newest materialization.

    Attributes:
        state: `queued` or `running` if a run is; `failed` if the newest run failed in this step; `interrupted` if the
            newest run was canceled during this step, and `canceled` if before it.
        run_id: The run.
        failures: The failed attempts, oldest first, or the canceled one.
    """

    state: Literal["queued", "running", "failed", "interrupted", "canceled"]
    run_id: str
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class History:
    """The history by asset and subject.

    Attributes:
        records: The newest materialization or observation.
        attempts: Runs after it that are unfinished, failed or were canceled.
        missing_from_store: Why the store does not have the derivative.
    """

    records: Mapping[str, Mapping[str, Record]] = field(default_factory=dict)
    attempts: Mapping[str, Mapping[str, Attempt]] = field(default_factory=dict)
    missing_from_store: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_history(
    instance: DagsterInstance, derivatives: Collection[str], sources: Collection[str], subjects: Collection[str]
) -> History:
    """The history of these subjects. Events from before a subject was last added do not count."""
    partitions = subjects if len(subjects) <= FEW else None
    wanted = set(subjects)
    starts = newest_with_metadata(instance, OBSERVED, SCAN, FIRST_SCAN, partitions)
    kinds = {MATERIALIZED: derivatives, OBSERVED: {*sources, *derivatives}, PLANNED: derivatives}
    newest: dict[Kind, list[Newest]] = {kind: [] for kind in kinds}
    for event in newest_events(instance, kinds, partitions):
        if event.partition in wanted and event.id >= starts.get(event.partition, 0):
            newest[event.kind].append(event)
    seen = [event for event in newest[OBSERVED] if event.asset in sources]
    records = _records(instance, [*seen, *newest[MATERIALIZED]], (*sources, *derivatives))
    missing = _missing_from_store(
        instance, [event for event in newest[OBSERVED] if event.asset not in sources], records
    )
    return History(records, _attempts(instance, newest[PLANNED], records, starts, derivatives, wanted), missing)


Records = Mapping[str, Mapping[str, Record]]


def _records(instance: DagsterInstance, events: Collection[Newest], assets: Collection[str]) -> Records:
    """The records of these events, by asset and subject. Equal strings share memory."""
    texts: dict[str, str] = {}
    shared = texts.setdefault
    by_id = {event.id: event for event in events}
    records: dict[str, dict[str, Record]] = {name: {} for name in assets}
    for event_id, text in event_texts(instance, by_id):
        records[by_id[event_id].asset][by_id[event_id].partition] = Record(
            event_id,
            shared(data_version := text.tag(DATA_VERSION_TAG) or "", data_version),
            shared(code_version := text.tag(CODE_VERSION_TAG) or "", code_version),
            {
                shared(name, name): shared(version, version)
                for name, version in (text.metadata(INPUT_DATA_VERSIONS) or {}).items()
            },
            text.metadata(NOT_APPLICABLE),
        )
    return records


def _missing_from_store(
    instance: DagsterInstance, observations: Collection[Newest], records: Records
) -> dict[str, dict[str, str]]:
    """Why the store does not have a derivative, if that was reported after its newest materialization."""
    after = {
        event.id: event
        for event in observations
        if (record := records[event.asset].get(event.partition)) and event.id > record.event_id
    }
    found: dict[str, dict[str, str]] = {name: {} for name in records}
    for event_id, text in event_texts(instance, after):
        if (why := text.metadata(MISSING_FROM_STORE)) is not None:
            found[after[event_id].asset][after[event_id].partition] = str(why)
    return found


def _attempts(
    instance: DagsterInstance,
    plans: Collection[Newest],
    records: Records,
    starts: Mapping[str, int],
    derivatives: Collection[str],
    subjects: Collection[str],
) -> dict[str, dict[str, Attempt]]:
    """The outcome of plans that no materialization followed: an unfinished run, else the newest attempt."""

    def is_materialized(plan: Newest | Plan) -> bool:
        return plan.id <= max(starts.get(plan.partition, 0), _materialized(records[plan.asset], plan.partition))

    unfinished = unfinished_runs(instance)
    active: dict[str, dict[str, Attempt]] = {name: {} for name in derivatives}
    for planned in plans_of_runs(instance, unfinished):
        if planned.asset in active and planned.partition in subjects and not is_materialized(planned):
            state: Literal["queued", "running"] = "queued" if unfinished[planned.run_id] in _QUEUED else "running"
            if state == "running" or planned.partition not in active[planned.asset]:
                active[planned.asset][planned.partition] = Attempt(state, planned.run_id)
    unfulfilled = [plan for plan in plans if not is_materialized(plan)]
    runs = event_runs(instance, [plan.id for plan in unfulfilled])
    statuses = run_statuses(instance, set(runs.values()))
    ended: dict[str, dict[str, int]] = {name: {} for name in derivatives}
    for plan in unfulfilled:
        if statuses.get(runs.get(plan.id, "")) in _ENDED_BADLY:
            since = max(starts.get(plan.partition, 0), _materialized(records[plan.asset], plan.partition))
            ended[plan.asset][plan.partition] = since
    return {name: _failures(instance, name, ended[name]) | active[name] for name in derivatives}


def _materialized(records: Mapping[str, Record], subject: str) -> int:
    """The id of the newest materialization; 0 if there is none."""
    record = records.get(subject)
    return record.event_id if record else 0


def _failures(instance: DagsterInstance, asset: str, since: Mapping[str, int]) -> dict[str, Attempt]:
    """The failed attempts after an event, by subject; none if the newest run did not fail in the step of this asset."""
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
            state: Literal["interrupted", "canceled"] = "interrupted" if asset in steps[newest].started else "canceled"
            found[subject] = Attempt(state, newest, (Failure(newest, "the run was canceled", ends[newest]),))
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
    """Why a step failed in a failed run; None if it was not reached because a step upstream failed."""
    if step in steps.failed:
        return steps.failed[step]
    if step in steps.started and step not in steps.succeeded:
        return "the run ended during this step"
    return None if steps.started else "the run failed before its first step"
