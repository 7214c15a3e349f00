"""What is missing, fresh or stale, for every subject and derivative, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from dagster import DagsterInstance

from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.code import Code
from kwneuro_assets.versioning.history import Attempt, History, Record, read_history
from kwneuro_assets.versioning.records import is_lost, recorded

State = Literal["missing", "fresh", "stale", "stale-upstream", "failed", "running", "not-applicable"]
Cause = Literal["code", "data", "dependencies"]
SETTLED: frozenset[State] = frozenset({"fresh", "not-applicable"})
SHORT = 12  # digits of a version that a person compares


class Versioned(Protocol):
    """What is asked of a derivative here."""

    @property
    def name(self) -> str: ...
    def inputs(self, settings: PipelineSettings) -> tuple[str, ...]: ...
    def code(self, settings: PipelineSettings) -> Code: ...


@dataclass(frozen=True, slots=True)
class Status:
    """The state of one derivative of one subject, the reasons in sentences, and its recorded versions.

    `causes` tells what made it stale, also where the state is `failed` or `running`; `attempt` what came after it was
    last made, and `recent_failures` how many attempts failed since anything that it is made from was new.
    """

    state: State
    why: tuple[str, ...] = ()
    data_version: str | None = None
    code_version: str | None = None
    causes: frozenset[Cause] = frozenset()
    attempt: Attempt | None = None
    recent_failures: int = 0

    @property
    def settled(self) -> bool:
        """Whether it is there, and made from what is there now."""
        return self.state in SETTLED

    @property
    def lost(self) -> bool:
        """Whether it was made, and the store no longer has it."""
        return self.state == "missing" and self.data_version is not None

    def to_json(self) -> dict[str, object]:
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
    derivatives: Sequence[Versioned],
    sources: Collection[str],
    subjects: Collection[str],
) -> CohortStatus:
    """The status of each derivative by subject and asset, `derivatives` in the order in which they depend.

    An input that is neither among `derivatives` nor among `sources` is made of all subjects together; it stands as it
    was made until a person makes it again. One pass over the event log, whatever the number of subjects.
    """
    names = [derivative.name for derivative in derivatives]
    history = read_history(instance, names, sources, subjects)
    shared = {name for one in derivatives for name in one.inputs(settings)}.difference(names, sources)
    of_all = {name: _of_all(instance, name, subjects) for name in shared}
    history = replace(history, records={**history.records, **of_all})
    questions = [_Question(instance, settings, derivative) for derivative in derivatives]
    result: CohortStatus = {}
    for subject in subjects:
        states: dict[str, Status] = {}
        for question in questions:
            states[question.name] = question.answer(subject, history, states)
        result[subject] = states
    return result


def group_status(
    instance: DagsterInstance, settings: PipelineSettings, derivative: Versioned, members: Collection[str]
) -> Status:
    """The status of what is made of one derivative of all `members` of the group together.

    Members that came or went since are told and do not make it stale: who is in the group is decided when it is made.
    """
    known = recorded(instance, derivative.name, None)
    if known is None:
        return Status("missing", ("it has never been made",))
    versions = (known.data_version, known.code_version)
    if is_lost(instance, derivative.name, None, known):
        return Status("missing", ("the store does not hold it as it was made",), *versions)
    (of,) = derivative.inputs(settings)
    before = known.input_data_versions
    now = read_history(instance, [of], [], {*members, *before}).records[of]
    changed = [subject for subject in before if subject in now and now[subject].data_version != before[subject]]
    code = derivative.code(settings).changes_since(known.code_version, known.values)
    causes: set[Cause] = set()
    if code:
        causes.add("code")
    if changed:
        causes.add("data")
    told = {
        f"{of} changed of": changed,
        "since it was made, there are also": [one for one in members if one in now and one not in before],
        "no longer there are": [one for one in before if one not in members],
    }
    why = (*code, *(f"{what} {_some(subjects)}" for what, subjects in told.items() if subjects))
    if causes:
        return Status("stale", why, *versions, frozenset(causes))
    if known.not_applicable is not None:
        return Status("not-applicable", (known.not_applicable, *why), *versions)
    return Status("fresh", why, *versions)


def _some(subjects: Sequence[str], most: int = 3) -> str:
    more = f" and {len(subjects) - most} more" if len(subjects) > most else ""
    return ", ".join(subjects[:most]) + more


def _of_all(instance: DagsterInstance, asset: str, subjects: Collection[str]) -> dict[str, Record]:
    """What is recorded of an asset without partitions, for each of the subjects."""
    known = recorded(instance, asset, None)
    if known is None:
        return {}
    record = Record(known.event_id, known.data_version, known.code_version or "", {}, known.not_applicable)
    return dict.fromkeys(subjects, record)


class _Question:
    """One derivative under the present settings, asked about one subject after the other."""

    def __init__(self, instance: DagsterInstance, settings: PipelineSettings, derivative: Versioned) -> None:
        self.name = derivative.name
        self._instance = instance
        self._inputs = derivative.inputs(settings)
        self._code = derivative.code(settings)
        self._code_version = self._code.version
        self._told: dict[str, tuple[str, ...]] = {}  # what differs, by the code version that was recorded

    def answer(self, subject: str, history: History, states: Mapping[str, Status]) -> Status:
        record = history.records[self.name].get(subject)
        attempt = history.attempts[self.name].get(subject)
        why, causes = self._changes(subject, record, history) if record else ((), frozenset())
        state: State
        lost = history.lost[self.name].get(subject)
        failures = self._recent_failures(subject, attempt, history)
        if attempt and attempt.state in ("queued", "running"):
            state, why = "running", (f"run {attempt.run_id[:8]} {_UNDER_WAY[attempt.state]}",)
        elif attempt and attempt.state == "interrupted":
            state, why = "failed", (f"run {attempt.run_id[:8]} was cancelled in the middle of it",)
        elif attempt and attempt.state == "failed":
            state, why = "failed", (_failed(attempt),)
        elif record is None:
            state, why = "missing", ("it has never been made",)
        elif lost is not None:
            state, why = "missing", (lost,)
        elif why:
            state = "stale"
        elif above := [name for name in self._inputs if name in states and not states[name].settled]:
            state, why = "stale-upstream", tuple(f"{name} is {states[name].state}" for name in above)
        elif record.not_applicable is not None:
            state, why = "not-applicable", (record.not_applicable,)
        else:
            state = "fresh"
        data_version, code_version = (record.data_version, record.code_version) if record else (None, None)
        return Status(state, why, data_version, code_version, causes, attempt, failures)

    def _changes(self, subject: str, record: Record, history: History) -> tuple[tuple[str, ...], frozenset[Cause]]:
        """What differs between how it was made and how it would be made now, in sentences and by kind."""
        causes: set[Cause] = set()
        why: list[str] = []
        if record.code_version != self._code_version:
            causes.add("code")
            why += self._code_changes(subject, record.code_version)
        before = record.input_data_versions
        for name in self._inputs:
            now = history.records[name].get(subject)
            if name not in before:
                causes.add("dependencies")
                why.append(f"{name} was added to its inputs")
            elif now is not None and now.data_version != before[name]:
                causes.add("data")
                why.append(f"{name} changed: version {before[name][:SHORT]}, now {now.data_version[:SHORT]}")
        for name in before:
            if name not in self._inputs:
                causes.add("dependencies")
                why.append(f"{name} is no longer among its inputs")
        return tuple(why), frozenset(causes)

    def _code_changes(self, subject: str, code_version: str) -> tuple[str, ...]:
        """What differs in code and settings; all of one code version were made in the same way, so one is looked up."""
        if code_version not in self._told:
            record = recorded(self._instance, self.name, subject)
            self._told[code_version] = self._code.changes_since(code_version, record.values if record else {})
        return self._told[code_version]

    def _recent_failures(self, subject: str, attempt: Attempt | None, history: History) -> int:
        """Failures in a row since anything that it is made from was new: those that another attempt would repeat."""
        if attempt is None or not attempt.failures:
            return 0
        inputs = [one for name in self._inputs if (one := history.records[name].get(subject))]
        newest = max((one.event_id for one in inputs), default=0)
        return sum(failure.ended.event_id > newest for failure in attempt.failures)


def counted(states: CohortStatus) -> dict[str, dict[State, int]]:
    """How many subjects are in each state, by asset."""
    counts: dict[str, dict[State, int]] = {}
    for row in states.values():
        for name, status in row.items():
            of_asset = counts.setdefault(name, {})
            of_asset[status.state] = of_asset.get(status.state, 0) + 1
    return counts


def unsettled(states: Mapping[str, Status], names: Iterable[str]) -> list[str]:
    """Those of the named derivatives of a subject that are to be made, in the order of `states`."""
    wanted = set(names)
    return [name for name, status in states.items() if name in wanted and not status.settled]


def under_way(states: Mapping[str, Status]) -> bool:
    """Whether a run of the subject waits or works."""
    return any(status.state == "running" for status in states.values())


_UNDER_WAY = {"queued": "waits for its turn", "running": "is making it"}


def _failed(attempt: Attempt) -> str:
    count, why = len(attempt.failures), attempt.failures[-1].why
    return f"the last attempt failed: {why}" if count == 1 else f"the last {count} attempts failed: {why}"
