"""Runs in this process, as the command line and notebooks start them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from dagster import AssetSelection, DagsterInstance, Definitions
from dagster import DagsterEventType as Event

from kwneuro_assets.assets import COHORT_DERIVATIVES, GROUP_DERIVATIVE, build_assets, derivatives
from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.assets.group_response import OF, members
from kwneuro_assets.assets.mechanism.freshness import FORCE_TAG
from kwneuro_assets.cohort.result import Result, run_results, skipped_result
from kwneuro_assets.cohort.selection import to_compute, with_upstream
from kwneuro_assets.cohort.status import downstream_of_group, status_of, status_of_group
from kwneuro_assets.launchers.liveness import PROCESS_TAG, this_process
from kwneuro_assets.resources import build_resources
from kwneuro_assets.resources.step_progress import ProgressReporter
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import GROUP, SubjectKey
from kwneuro_assets.threads import map_ahead
from kwneuro_assets.versioning.dagster_internals import was_interrupted
from kwneuro_assets.versioning.records import report_missing_from_store
from kwneuro_assets.versioning.staleness import Status, has_active_run, out_of_date

_AHEAD = 4  # subjects whose derivatives are checked in the store at the same time


class StepDisplay(ProgressReporter, Protocol):
    """Displays the steps of one subject, or of the group, while they run."""

    def finish(self, results: Sequence[Result]) -> None:
        """Display the outcome of each step."""


class DisplayFactory(Protocol):
    """Returns the display for the derivatives of one subject; those in `added` appear when their step starts."""

    def __call__(
        self, subject: str, assets: Sequence[str], added: Collection[str] = ()
    ) -> AbstractContextManager[StepDisplay]: ...


@dataclass(frozen=True)
class Request:
    """The derivatives to bring up to date.

    Attributes:
        named: The requested derivatives; may include the group derivative.
        only: Do not add upstream derivatives that are missing or out of date.
        force: Rematerialize the named derivatives even if they are up to date.
        trust_log: Use only the event log, without checking the store.
        with_group: Whether the group derivative may be materialized.
        refresh_group: Rematerialize the group derivative with the current members of the group.
    """

    named: Sequence[str]
    only: bool = False
    force: bool = False
    trust_log: bool = False
    with_group: bool = True
    refresh_group: bool = False

    def assets(self, settings: PipelineSettings) -> list[str]:
        """All derivatives that are up to date after the run."""
        return list(self.named) if self.only else with_upstream(settings, self.named)


def update_cohort(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subjects: Sequence[str],
    request: Request,
    display: DisplayFactory,
) -> list[Result]:
    """Materialize what the request asks for, one subject after the other.

    The order is: derivatives of the subjects upstream of the group response, the group response, those downstream, and
    derivatives of the cohort. Raises SettingsError if no subject belongs to the group, before anything is computed.
    """
    results = _update_subjects(instance, settings, subjects, request, display)
    wanted = set(request.assets(settings)) if request.with_group else set()
    for derivative in COHORT_DERIVATIVES:
        if derivative.name in wanted:
            with display(str(GROUP), [derivative.name]) as shown:
                force = request.force and derivative.name in request.named
                result = update_group(instance, settings, derivative, shown, refresh=True, force=force)
                shown.finish([result])
            results.append(replace(result, added=derivative.name not in request.named))
    return results


def _update_subjects(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subjects: Sequence[str],
    request: Request,
    display: DisplayFactory,
) -> list[Result]:
    """Bring derivatives of the subjects up to date, and the group response in between."""
    group = GROUP_DERIVATIVE.name
    assets = set(request.assets(settings))
    of_subjects = assets - {group}.union(derivative.name for derivative in COHORT_DERIVATIVES)
    if group not in assets or not request.with_group:
        return _update_each(instance, settings, dict.fromkeys(subjects, of_subjects), request, display)
    present, after = members(instance, settings), downstream_of_group(settings)
    before = dict.fromkeys(subjects, of_subjects - after)
    if not request.only:
        before |= {
            subject: before[subject].union(with_upstream(settings, [OF])) for subject in present if subject in before
        }
    results = _update_each(instance, settings, before, request, display)
    with display(str(GROUP), [group]) as shown:
        force = request.force and group in request.named
        result = update_group(instance, settings, GROUP_DERIVATIVE, shown, refresh=request.refresh_group, force=force)
        result = replace(result, added=group not in request.named)
        shown.finish([result])
    if not result.added or result.outcome != "skipped":
        results.append(result)
    return results + _update_each(instance, settings, dict.fromkeys(subjects, of_subjects & after), request, display)


def _update_each(
    instance: DagsterInstance,
    settings: PipelineSettings,
    wanted: Mapping[str, Collection[str]],
    request: Request,
    display: DisplayFactory,
) -> list[Result]:
    """Bring derivatives up to date; `wanted` has their names by subject."""
    ordered = [derivative.name for derivative in derivatives(settings)]
    assets = {subject: [name for name in ordered if name in names] for subject, names in wanted.items() if names}
    checked: Iterable[tuple[str, Mapping[str, str]]]
    if request.trust_log:
        states = status_of(instance, settings, list(assets))
        checked = [(subject, {}) for subject, names in assets.items() if out_of_date(states[subject], names)]
    else:
        checked = _check_store_ahead(instance, settings, assets)
    results: list[Result] = []
    for subject, in_store in checked:
        added = [name for name in assets[subject] if name not in request.named]
        with display(subject, assets[subject], added) as shown:
            of_subject = update_subject(
                instance, settings, subject, assets[subject], shown,
                added=added, force=request.force, trust_log=request.trust_log, in_store=in_store,
            )  # fmt: skip
            shown.finish(of_subject)
        results += of_subject
    return results


def update_subject(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subject: str,
    assets: Sequence[str],
    progress: ProgressReporter | None = None,
    *,
    added: Collection[str] = (),
    force: bool = False,
    trust_log: bool = False,
    in_store: Mapping[str, str] | None = None,
) -> list[Result]:
    """Materialize those of the derivatives of one subject that are not up to date; all if `force`.

    A derivative that turns out to be missing or damaged during the run is computed again, once. If another run of the
    subject is queued or running, nothing is computed unless `force`.

    Args:
        instance: The Dagster instance.
        settings: The pipeline settings.
        subject: The subject key.
        assets: Names of the derivatives, in topological order.
        progress: Receives the progress of each step.
        added: Those of `assets` that were added as upstream derivatives: never forced, and reported only if they ran.
        force: Also rematerialize derivatives that are up to date.
        trust_log: Do not check whether the store has the derivatives that are up to date by the event log.
        in_store: Data versions by asset that a previous check found in the store, so that they are not checked again.
    """
    named = [name for name in assets if name not in added]
    states = subject_status(instance, settings, subject)
    if not trust_log and _report_missing_from_store(instance, settings, subject, assets, states, in_store or {}):
        states = subject_status(instance, settings, subject)
    if has_active_run(states) and not force:
        why = (
            "another run of this subject is queued or running; "
            "if its machine no longer exists, terminate it in the UI, or use --force"
        )
        return [Result(subject, name, "upstream-failed", why) for name in named or assets]
    results: dict[str, Result] = {}
    recomputed = {name for name in assets if states[name].is_missing_from_store}
    forced = set(named) if force else set()
    wanted = to_compute(settings, assets, forced.union(out_of_date(states, assets)))
    while wanted:
        results |= {one.asset: one for one in _run(instance, settings, subject, wanted, progress, forced)}
        states, forced = subject_status(instance, settings, subject), set()
        missing = {name for name in assets if states[name].is_missing_from_store}
        # Only once per derivative: if it is missing again at once, another run would not help.
        wanted = to_compute(settings, assets, out_of_date(states, assets)) if missing - recomputed else []
        recomputed |= missing
    tried: list[str] = []
    # Again if one of them fails that others can lack; not if the run ended before its first step.
    while (left_out := _without_failed(settings, assets, results)) and left_out != tried:
        tried = left_out
        results |= {one.asset: one for one in _run(instance, settings, subject, left_out, progress, ())}
        states = subject_status(instance, settings, subject)
    reported = [name for name in assets if name in named or name in results]
    outcomes = [results.get(name) or skipped_result(subject, name, states[name]) for name in reported]
    return [replace(_with_reason(one, states), added=one.asset in added) for one in outcomes]


def _without_failed(settings: PipelineSettings, assets: Sequence[str], results: Mapping[str, Result]) -> list[str]:
    """The derivatives that Dagster left out because an input failed that may be missing: computed without it now."""
    failed = {name for name, result in results.items() if not result.succeeded}
    left_out: list[str] = []
    for derivative in derivatives(settings):
        result = results.get(derivative.name)
        if derivative.name in assets and result and result.outcome == "upstream-failed":
            lacking = failed.intersection(derivative.inputs(settings)).difference(left_out)
            if lacking <= derivative.may_be_missing:
                left_out.append(derivative.name)
    return left_out


def _check_store_ahead(
    instance: DagsterInstance, settings: PipelineSettings, assets: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each subject with the data versions, by asset, that both event log and store have.

    The store is checked a few subjects ahead of the one that is computed.
    """
    store = DerivativeStore(settings.store.url)
    states = status_of(instance, settings, list(assets))

    def check(subject: str) -> tuple[str, Mapping[str, str]]:
        versions = _up_to_date_versions(states[subject], assets[subject])
        found = store.held(SubjectKey.parse(subject), versions)
        return subject, {name: version for name, version in versions.items() if name in found}

    return map_ahead(check, assets, _AHEAD)


def run_subject(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subject: str,
    assets: Collection[str],
    progress: ProgressReporter | None = None,
    *,
    force: bool = False,
) -> list[Result]:
    """One run of derivatives of one subject; skips steps that are up to date when they start, unless `force`.

    A step that fails stops only the steps downstream of it. Raises KeyboardInterrupt if the run was interrupted, which
    Dagster itself only records.
    """
    return _run(instance, settings, subject, assets, progress, assets if force else ())


def _run(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subject: str | None,
    assets: Collection[str],
    progress: ProgressReporter | None,
    forced: Collection[str],
) -> list[Result]:
    definitions = Definitions(assets=build_assets(settings), resources=build_resources(settings, progress))
    job = definitions.resolve_implicit_global_asset_job_def()
    result = job.get_subset(
        asset_selection=AssetSelection.assets(*assets).resolve(definitions.resolve_asset_graph())
    ).execute_in_process(
        instance=instance,
        partition_key=subject,
        raise_on_error=False,
        tags={PROCESS_TAG: this_process(), **({FORCE_TAG: ",".join(sorted(forced))} if forced else {})},
        # The caller prints the results; Dagster's own messages are in the event log.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    failures = [event for event in result.all_events if event.event_type == Event.STEP_FAILURE]
    if any(was_interrupted(event) for event in failures):
        raise KeyboardInterrupt
    return run_results(result, subject or str(GROUP), assets)


def update_group(
    instance: DagsterInstance,
    settings: PipelineSettings,
    derivative: Derivative,
    progress: ProgressReporter | None = None,
    *,
    refresh: bool = False,
    force: bool = False,
) -> Result:
    """Materialize a derivative of the group, unless it is up to date and in the store.

    `refresh` runs it with the current members of the group: it is skipped if these and their versions are the recorded
    ones. `force` rematerializes it in any case.
    """
    name = derivative.name
    status = status_of_group(instance, settings, derivative)
    store = DerivativeStore(settings.store.url)
    if status.is_up_to_date and not store.holds(name, GROUP, status.data_version or ""):
        report_missing_from_store(instance, name, None, _missing_version(store))
        status = status_of_group(instance, settings, derivative)
    if status.is_up_to_date and not (refresh or force):
        return skipped_result(str(GROUP), name, status)
    return _run(instance, settings, None, [name], progress, [name] if force else [])[0]


def subject_status(instance: DagsterInstance, settings: PipelineSettings, subject: str) -> dict[str, Status]:
    """The status of each derivative of one subject."""
    return status_of(instance, settings, [subject])[subject]


def _report_missing_from_store(
    instance: DagsterInstance,
    settings: PipelineSettings,
    subject: str,
    assets: Sequence[str],
    states: Mapping[str, Status],
    in_store: Mapping[str, str],
) -> bool:
    """Record which up-to-date derivatives the store does not have; whether there are any.

    Versions in `in_store` were already found in the store.
    """
    store = DerivativeStore(settings.store.url)
    versions = _up_to_date_versions(states, assets)
    unchecked = {name: version for name, version in versions.items() if in_store.get(name) != version}
    found = store.held(SubjectKey.parse(subject), unchecked)
    missing = [name for name in unchecked if name not in found]
    for name in missing:
        report_missing_from_store(instance, name, subject, _missing_version(store))
    return bool(missing)


def _missing_version(store: DerivativeStore) -> str:
    return f"the store {store.root} does not have the version of the event log"


def _up_to_date_versions(states: Mapping[str, Status], assets: Sequence[str]) -> dict[str, str]:
    """The data versions of the derivatives that are up to date by the event log."""
    return {name: states[name].data_version or "" for name in assets if states[name].is_up_to_date}


def _with_reason(result: Result, states: Mapping[str, Status]) -> Result:
    """The result, with the reason why a derivative that is in the store is not up to date."""
    status = states[result.asset]
    return replace(result, reason=status.why[0]) if result.succeeded and not status.is_up_to_date else result
