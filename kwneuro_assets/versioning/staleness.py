"""The state of each derivative of each subject, and the reasons for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from dagster import DagsterInstance

from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.code import Code
from kwneuro_assets.versioning.history import Attempt, History, Record, read_history
from kwneuro_assets.versioning.records import is_missing_from_store, recorded

State = Literal["missing", "fresh", "stale", "stale-upstream", "failed", "running", "not-applicable"]
Cause = Literal["code", "data", "dependencies"]
UP_TO_DATE: frozenset[State] = frozenset({"fresh", "not-applicable"})
SHORT = 12  # digits of a version that messages and tables show


class VersionedDerivative(Protocol):
    """What the state of a derivative depends on."""

    @property
    def name(self) -> str: ...
    @property
    def may_be_missing(self) -> frozenset[str]: ...
    @property
    def follows_members(self) -> bool: ...
    def inputs(self, settings: PipelineSettings) -> tuple[str, ...]: ...
    def code(self, settings: PipelineSettings) -> Code: ...


@dataclass(frozen=True, slots=True)
class Status:
    """The state of one derivative of one subject.

    Attributes:
        state: The state.
        why: The reasons, one line each.
        data_version: The recorded data version; None if there is no materialization.
        code_version: The recorded code version; None if there is no materialization.
        causes: What made it stale, also if the state is `failed` or `running`.
        attempt: The runs after the last materialization.
        recent_failures: Failures in a row with the current inputs.
    """

    state: State
    why: tuple[str, ...] = ()
    data_version: str | None = None
    code_version: str | None = None
    causes: frozenset[Cause] = frozenset()
    attempt: Attempt | None = None
    recent_failures: int = 0

    @property
    def is_up_to_date(self) -> bool:
        """Whether it is fresh or not applicable."""
        return self.state in UP_TO_DATE

    @property
    def is_missing_from_store(self) -> bool:
        """Whether it was materialized and the store no longer has it."""
        return self.state == "missing" and self.data_version is not None

    def to_json(self) -> dict[str, object]:
        """State, reasons and recorded versions."""
        return {
            "state": self.state,
            "why": list(self.why),
            "data_version": self.data_version,
            "code_version": self.code_version,
        }


CohortStatus = dict[str, dict[str, Status]]


def cohort_status(
    instance: DagsterInstance,
    settings: PipelineSettings,
    derivatives: Sequence[VersionedDerivative],
    sources: Collection[str],
    subjects: Collection[str],
) -> CohortStatus:
    """The status of each derivative, by subject and asset, from one pass over the event log.

    `derivatives` are in topological order. An input that is neither one of them nor in `sources` is a group derivative:
    its recorded version counts as current until the user rematerializes it.
    """
    names = [derivative.name for derivative in derivatives]
    history = read_history(instance, names, sources, subjects)
    of_group = {name for one in derivatives for name in one.inputs(settings)}.difference(names, sources)
    shared = {name: _group_records(instance, name, subjects) for name in of_group}
    history = replace(history, records={**history.records, **shared})
    evaluators = [_Evaluator(instance, settings, derivative) for derivative in derivatives]
    result: CohortStatus = {}
    for subject in subjects:
        states: dict[str, Status] = {}
        for evaluator in evaluators:
            states[evaluator.name] = evaluator.status(subject, history, states)
        result[subject] = states
    return result


def group_status(
    instance: DagsterInstance, settings: PipelineSettings, derivative: VersionedDerivative, members: Collection[str]
) -> Status:
    """The status of a group derivative, computed from a derivative of all `members` or from one of the group.

    Members that were added or removed later are reported. They make it stale only if it `follows_members`; otherwise,
    its members are selected when it is materialized.
    """
    known = recorded(instance, derivative.name, None)
    if known is None:
        return Status("missing", (_NEVER_MATERIALIZED,))
    versions = (known.data_version, known.code_version)
    if is_missing_from_store(instance, derivative.name, None, known):
        return Status("missing", ("the store does not have the recorded version",), *versions)
    (of,) = derivative.inputs(settings)
    before = known.input_data_versions
    if of in before:  # an input of the group is recorded under its name
        current = recorded(instance, of, None)
        now = {of: current.data_version} if current else {}
        members = [of]
    else:
        records = read_history(instance, [of], [], {*members, *before}).records[of]
        now = {subject: record.data_version for subject, record in records.items()}
    changed = [label for label in before if label in now and now[label] != before[label]]
    added = [one for one in members if one in now and one not in before]
    removed = [one for one in before if one not in members]
    code = derivative.code(settings).changes_since(known.code_version, known.values)
    causes: set[Cause] = set()
    if code:
        causes.add("code")
    if changed or (derivative.follows_members and (added or removed)):
        causes.add("data")
    differences = {
        f"{of} changed": changed,
        "members added since it was materialized": added,
        "members removed since it was materialized": removed,
    }
    why = (*code, *(f"{what}: {_some(subjects)}" for what, subjects in differences.items() if subjects))
    if causes:
        return Status("stale", why, *versions, frozenset(causes))
    if known.not_applicable is not None:
        return Status("not-applicable", (known.not_applicable, *why), *versions)
    return Status("fresh", why, *versions)


def _some(subjects: Sequence[str], most: int = 3) -> str:
    more = f" and {len(subjects) - most} more" if len(subjects) > most else ""
    return ", ".join(subjects[:most]) + more


def _group_records(instance: DagsterInstance, asset: str, subjects: Collection[str]) -> dict[str, Record]:
    """The record of a group derivative, for each of the subjects."""
    known = recorded(instance, asset, None)
    if known is None:
        return {}
    record = Record(known.event_id, known.data_version, known.code_version or "", {}, known.not_applicable)
    return dict.fromkeys(subjects, record)


class _Evaluator:
    """Determines the status of one derivative under the current settings, for one subject after the other."""

    def __init__(self, instance: DagsterInstance, settings: PipelineSettings, derivative: VersionedDerivative) -> None:
        self.name = derivative.name
        self._instance = instance
        self._inputs = derivative.inputs(settings)
        self._may_be_missing = derivative.may_be_missing
        self._code = derivative.code(settings)
        self._code_version = self._code.version
        self._code_changes_since: dict[str, tuple[str, ...]] = {}  # by recorded code version

    def status(self, subject: str, history: History, states: Mapping[str, Status]) -> Status:
        record = history.records[self.name].get(subject)
        attempt = history.attempts[self.name].get(subject)
        why, causes = self._changes(subject, record, history) if record else ((), frozenset())
        state: State
        why_missing = history.missing_from_store[self.name].get(subject)
        failures = self._recent_failures(subject, attempt, history)
        if attempt and attempt.state in ("queued", "running"):
            state, why = "running", (f"run {attempt.run_id[:8]} is {attempt.state}",)
        elif attempt and attempt.state == "interrupted":
            state, why = "failed", (f"run {attempt.run_id[:8]} was canceled during this step",)
        elif attempt and attempt.state == "failed":
            state, why = "failed", (_failed(attempt),)
        elif record is None:
            state, why = "missing", (_NEVER_MATERIALIZED,)
        elif why_missing is not None:
            state, why = "missing", (why_missing,)
        elif why:
            state = "stale"
        elif above := [name for name in self._inputs if name in states and not self._is_final(name, record, states)]:
            state, why = "stale-upstream", tuple(f"{name} is {states[name].state}" for name in above)
        elif record.not_applicable is not None:
            state, why = "not-applicable", (record.not_applicable,)
        else:
            state = "fresh"
        data_version, code_version = (record.data_version, record.code_version) if record else (None, None)
        return Status(state, why, data_version, code_version, causes, attempt, failures)

    def _is_final(self, name: str, record: Record, states: Mapping[str, Status]) -> bool:
        """Whether nothing is to come from an input: it is up to date, or was left out because it does not exist."""
        status = states[name]
        was_left_out = name in self._may_be_missing and name not in record.input_data_versions
        return status.is_up_to_date or (was_left_out and status.state in ("missing", "failed"))

    def _changes(self, subject: str, record: Record, history: History) -> tuple[tuple[str, ...], frozenset[Cause]]:
        """The differences between the recorded code and inputs and the current ones, as messages and as causes."""
        causes: set[Cause] = set()
        why: list[str] = []
        if record.code_version != self._code_version:
            causes.add("code")
            why += self._code_changes(subject, record.code_version)
        before = record.input_data_versions
        for name in self._inputs:
            now = history.records[name].get(subject)
            if name not in before and name in self._may_be_missing:
                if now is not None:
                    causes.add("data")
                    why.append(f"{name} was missing, and exists now")
            elif name not in before:
                causes.add("dependencies")
                why.append(f"{name} is a new input")
            elif now is not None and now.data_version != before[name]:
                causes.add("data")
                why.append(f"{name} changed: version {before[name][:SHORT]}, now {now.data_version[:SHORT]}")
        for name in before:
            if name not in self._inputs:
                causes.add("dependencies")
                why.append(f"{name} is no longer an input")
        return tuple(why), frozenset(causes)

    def _code_changes(self, subject: str, code_version: str) -> tuple[str, ...]:
        """The differences in code and settings. One record per code version is read: all others have the same."""
        if code_version not in self._code_changes_since:
            record = recorded(self._instance, self.name, subject)
            changes = self._code.changes_since(code_version, record.values if record else {})
            self._code_changes_since[code_version] = changes
        return self._code_changes_since[code_version]

    def _recent_failures(self, subject: str, attempt: Attempt | None, history: History) -> int:
        """Failures in a row after the newest input version: a retry would repeat them."""
        if attempt is None or not attempt.failures:
            return 0
        inputs = [one for name in self._inputs if (one := history.records[name].get(subject))]
        newest = max((one.event_id for one in inputs), default=0)
        return sum(failure.ended.event_id > newest for failure in attempt.failures)


def count_states(states: CohortStatus) -> dict[str, dict[State, int]]:
    """The number of subjects in each state, by asset."""
    counts: dict[str, dict[State, int]] = {}
    for row in states.values():
        for name, status in row.items():
            of_asset = counts.setdefault(name, {})
            of_asset[status.state] = of_asset.get(status.state, 0) + 1
    return counts


def out_of_date(states: Mapping[str, Status], names: Iterable[str]) -> list[str]:
    """The named derivatives of a subject that are not up to date, in the order of `states`."""
    wanted = set(names)
    return [name for name, status in states.items() if name in wanted and not status.is_up_to_date]


def has_active_run(states: Mapping[str, Status]) -> bool:
    """Whether a run of the subject is queued or running."""
    return any(status.state == "running" for status in states.values())


_NEVER_MATERIALIZED = "it has not been materialized"


def _failed(attempt: Attempt) -> str:
    count, why = len(attempt.failures), attempt.failures[-1].why
    return f"the last attempt failed: {why}" if count == 1 else f"the last {count} attempts failed: {why}"
