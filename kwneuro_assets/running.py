"""Making derivatives in this process: what the command line and a notebook call."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dagster import AssetSelection, DagsterInstance, ExecuteInProcessResult
from dagster import DagsterEventType as Event

from kwneuro_assets.assets import GROUP_DERIVATIVE
from kwneuro_assets.assets.derivative import FORCE_TAG, KEPT
from kwneuro_assets.assets.progress import ProgressReporter
from kwneuro_assets.cohort import status_of, status_of_group
from kwneuro_assets.dagster_internals import failure_sentence, was_interrupted
from kwneuro_assets.definitions import build
from kwneuro_assets.processes import PROCESS_TAG, this_process
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import GROUP, SubjectKey
from kwneuro_assets.versioning.cohort import Status, under_way, unsettled
from kwneuro_assets.versioning.records import CODE_VERSION_TAG, DATA_VERSION_TAG, report_lost

Outcome = Literal["made", "fresh", "not-applicable", "failed", "skipped"]


@dataclass(frozen=True)
class Result:
    """What became of one derivative of one subject in a run; `reason` where it was not made."""

    subject: str
    asset: str
    outcome: Outcome
    reason: str = ""
    seconds: float | None = None
    data_version: str = ""
    code_version: str = ""

    @property
    def is_there(self) -> bool:
        """Whether the derivative, or the reason why there is none, is in the store, made from what lies there."""
        return self.outcome in ("made", "fresh", "not-applicable")


def update_subject(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subject: str,
    assets: Sequence[str],
    progress: ProgressReporter | None = None,
    *,
    force: bool = False,
    trust_log: bool = False,
) -> list[Result]:
    """Make what is not fresh of these derivatives of one subject in this process, or all of them where `force` is set.

    Unless the event log is to be trusted, what it calls fresh is looked for in the store, too. A derivative that turns
    out to be lost or damaged is made again where it is among `assets`. Where another run of the subject waits or works,
    nothing is done, unless by force.
    """
    states = subject_status(instance, settings, subject)
    if not trust_log and _report_lost(instance, settings, subject, assets, states):
        states = subject_status(instance, settings, subject)
    if under_way(states) and not force:
        why = "another run of this subject waits or works; where its machine is gone, end it in the UI, or use --force"
        return [Result(subject, name, "skipped", why) for name in assets]
    results: dict[str, Result] = {}
    mended = {name for name in assets if states[name].lost}  # once each: what is lost again at once has another cause
    wanted = list(assets) if force else unsettled(states, assets)
    while wanted:
        results |= {one.asset: one for one in run_subject(instance, settings, subject, wanted, progress, force=force)}
        states, force = subject_status(instance, settings, subject), False
        lost = {name for name in assets if states[name].lost}
        wanted = unsettled(states, assets) if lost - mended else []
        mended |= lost
    return [_with_what_waits(results.get(name) or _untouched(subject, name, states[name]), states) for name in assets]


def subjects_to_update(
    instance: DagsterInstance, settings: PipelineSettings, subjects: Sequence[str], assets: Sequence[str]
) -> list[str]:
    """Those of the subjects of which one of the derivatives is not fresh, by the event log alone."""
    states = status_of(instance, settings, subjects)
    return [subject for subject in subjects if unsettled(states[subject], assets)]


def run_subject(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subject: str,
    assets: Collection[str],
    progress: ProgressReporter | None = None,
    *,
    force: bool = False,
) -> list[Result]:
    """One run of derivatives of one subject in this process; a step that is fresh when its turn comes is kept as it is,
    unless `force` is set, and one that fails stops only what follows from it.

    Raises KeyboardInterrupt where the run was interrupted, which Dagster itself only records.
    """
    return _run(instance, settings, subject, assets, progress, force)


def _run(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subject: str | None,
    assets: Collection[str],
    progress: ProgressReporter | None,
    force: bool,
) -> list[Result]:
    definitions = build(settings, progress)
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.get_subset(
        asset_selection=AssetSelection.assets(*assets).resolve(definitions.resolve_asset_graph())
    ).execute_in_process(
        instance=instance,
        partition_key=subject,
        raise_on_error=False,
        tags={PROCESS_TAG: this_process(), **({FORCE_TAG: "true"} if force else {})},
        # What matters is told by the caller; Dagster's own account is in the event log.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    failures = [event for event in result.all_events if event.event_type == Event.STEP_FAILURE]
    if any(was_interrupted(event) for event in failures):
        raise KeyboardInterrupt
    return _results(result, subject or str(GROUP), assets)


def update_group(
    instance: DagsterInstance,
    settings: PipelineSettings,
    progress: ProgressReporter | None = None,
    *,
    anew: bool = False,
    force: bool = False,
) -> Result:
    """Make the derivative of the group in this process, unless it is as it was made and the store has it.

    `anew` asks for the group as it is now, with those who came since; `force` for it in any case.
    """
    name = GROUP_DERIVATIVE.name
    status = status_of_group(instance, settings)
    if status.settled and not DerivativeStore(settings.store.url).holds(name, GROUP, status.data_version or ""):
        report_lost(instance, name, None, f"the store {settings.store.url} does not hold it")
        status = status_of_group(instance, settings)
    if status.settled and not (anew or force):
        return _untouched(str(GROUP), name, status)
    return _run(instance, settings, None, [name], progress, force)[0]


def subject_status(instance: DagsterInstance, settings: PipelineSettings, subject: str) -> dict[str, Status]:
    """The status of each derivative of one subject."""
    return status_of(instance, settings, [subject])[subject]


def _report_lost(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subject: str,
    assets: Sequence[str],
    states: Mapping[str, Status],
) -> bool:
    """Record which of the derivatives are not in the store as the event log has them; whether there are any."""
    store, key = DerivativeStore(settings.store.url), SubjectKey.parse(subject)
    lost = [
        name for name in assets if states[name].settled and not store.holds(name, key, states[name].data_version or "")
    ]
    for name in lost:
        report_lost(instance, name, subject, f"the store {store.root} does not hold the version of the event log")
    return bool(lost)


def _with_what_waits(result: Result, states: Mapping[str, Status]) -> Result:
    """A derivative that is there, made from what is not fresh itself, says so."""
    status = states[result.asset]
    return replace(result, reason=status.why[0]) if result.is_there and not status.settled else result


def _untouched(subject: str, name: str, status: Status) -> Result:
    """Of a derivative that there was no need to make."""
    outcome: Outcome = "not-applicable" if status.state == "not-applicable" else "fresh"
    reason = status.why[0] if status.why else ""
    return Result(subject, name, outcome, reason, None, status.data_version or "", status.code_version or "")


def _results(result: ExecuteInProcessResult, subject: str, assets: Collection[str]) -> list[Result]:
    made: dict[str, Result] = {}
    for event in result.all_events:
        if event.event_type == Event.ASSET_MATERIALIZATION:
            materialization = event.step_materialization_data.materialization
            metadata = {key: value.value for key, value in materialization.metadata.items()}
            tags = materialization.tags or {}
            name = materialization.asset_key.to_user_string()
            reason = str(metadata.get("not_applicable", ""))
            made[name] = Result(
                subject,
                name,
                "not-applicable" if reason else "fresh" if KEPT in metadata else "made",
                reason,
                metadata.get("seconds"),  # type: ignore[arg-type]  # the mechanism's own number
                tags.get(DATA_VERSION_TAG, ""),
                tags.get(CODE_VERSION_TAG, ""),
            )
        elif event.event_type == Event.STEP_FAILURE and event.step_key:
            made[event.step_key] = Result(subject, event.step_key, "failed", failure_sentence(event))
    return [made.get(name) or Result(subject, name, "skipped", "something above it failed") for name in assets]
