"""What is missing, fresh or stale, for every subject and derivative, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from dagster import AssetKey, DagsterInstance, DagsterRunStatus
from dagster._core.execution.stats import StepEventStatus  # checked with dagster 1.13.27

from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.records import Recorded, recorded

State = Literal["missing", "fresh", "stale", "stale-upstream", "failed", "running", "not-applicable"]
SETTLED: frozenset[State] = frozenset({"fresh", "not-applicable"})


class Versioned(Protocol):
    """What is asked of a derivative here."""

    @property
    def name(self) -> str: ...
    def inputs(self, settings: PipelineSettings) -> tuple[str, ...]: ...
    def code_version(self, settings: PipelineSettings) -> str: ...


@dataclass(frozen=True)
class Status:
    """The state of one derivative of one subject, the reasons in sentences, and its recorded versions."""

    state: State
    why: tuple[str, ...] = ()
    data_version: str | None = None
    code_version: str | None = None

    def to_json(self) -> dict[str, object]:
        return {
            "state": self.state,
            "why": list(self.why),
            "data_version": self.data_version,
            "code_version": self.code_version,
        }


def cohort_status(
    instance: DagsterInstance,
    settings: PipelineSettings,
    derivatives: Sequence[Versioned],
    sources: Iterable[str],
    subjects: Iterable[str],
) -> dict[str, dict[str, Status]]:
    """The status of each derivative by subject and asset, `derivatives` in the order in which they depend."""
    attempts = {derivative.name: _open_attempts(instance, derivative.name) for derivative in derivatives}
    result: dict[str, dict[str, Status]] = {}
    for subject in subjects:
        current = {source: recorded(instance, source, subject, observed=True) for source in sources}
        states: dict[str, Status] = {}
        for derivative in derivatives:
            known = recorded(instance, derivative.name, subject)
            attempt = attempts[derivative.name].get(subject)
            states[derivative.name] = _status(derivative, settings, known, current, states, attempt)
            current[derivative.name] = known
        result[subject] = states
    return result


def _status(
    derivative: Versioned,
    settings: PipelineSettings,
    known: Recorded | None,
    current: dict[str, Recorded | None],
    states: dict[str, Status],
    attempt: State | None,
) -> Status:
    versions = (known.data_version, known.code_version) if known else (None, None)
    if attempt == "running":
        return Status("running", ("a run is making it",), *versions)
    if attempt == "failed":
        return Status("failed", ("the last attempt failed",), *versions)
    if known is None:
        return Status("missing", ("it has never been made",))
    why = _changes(derivative, settings, known, current)
    if why:
        return Status("stale", why, *versions)
    above = [name for name in derivative.inputs(settings) if name in states and states[name].state not in SETTLED]
    if above:
        return Status("stale-upstream", tuple(f"{name} is {states[name].state}" for name in above), *versions)
    reason = known.metadata.get("not_applicable")
    return Status("not-applicable", (str(reason),), *versions) if reason else Status("fresh", (), *versions)


def _changes(
    derivative: Versioned, settings: PipelineSettings, known: Recorded, current: dict[str, Recorded | None]
) -> tuple[str, ...]:
    """What differs between how it was made and how it would be made now, in sentences."""
    why = []
    wanted = derivative.code_version(settings)
    if known.code_version != wanted:
        why.append(f"its settings or code changed: version {known.code_version}, now {wanted}")
    inputs = derivative.inputs(settings)
    for name in inputs:
        before, now = known.input_data_versions.get(name), current.get(name)
        if before is None:
            why.append(f"{name} was added to its inputs")
        elif now is not None and now.data_version != before:
            why.append(f"{name} changed: version {before[:12]}, now {now.data_version[:12]}")
    why += [f"{name} is no longer among its inputs" for name in known.input_data_versions if name not in inputs]
    return tuple(why)


def _open_attempts(instance: DagsterInstance, asset: str) -> dict[str, State]:
    """Subjects whose newest attempt made nothing: `running` while its run lasts, `failed` where it failed.

    A step that was never reached, as one above it failed, has not failed itself.
    """
    storage = instance.event_log_storage
    attempts = storage.get_latest_asset_partition_materialization_attempts_without_materializations(AssetKey(asset))
    runs = {run_id: instance.get_run_by_id(run_id) for run_id in {run_id for run_id, _ in attempts.values()}}
    states: dict[str, State] = {}
    for subject, (run_id, _) in attempts.items():
        run = runs[run_id]
        if run is None:
            continue
        if not run.is_finished:
            states[subject] = "running"
        elif run.status == DagsterRunStatus.FAILURE:
            failed = {
                step.step_key for step in instance.get_run_step_stats(run_id) if step.status == StepEventStatus.FAILURE
            }
            if asset in failed or not failed:  # without a failed step, the run itself failed
                states[subject] = "failed"
    return states
