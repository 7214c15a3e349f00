"""Automatic materialization: a sensor that requests runs for missing, stale and failed derivatives.

The sensor is level-triggered: each tick requests what is to be computed now, whatever earlier ticks requested. A failed
run, an interrupted tick or a daemon that was down for a week loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from dagster import (
    AssetKey,
    AssetSelection,
    DagsterInstance,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from kwneuro_assets.assets import derivatives
from kwneuro_assets.cohort.selection import select
from kwneuro_assets.cohort.status import blocked_by_group, cohort_summary, status_of_usable
from kwneuro_assets.launchers.liveness import end_dead_runs
from kwneuro_assets.settings import AutomationSettings, PipelineSettings, load_settings
from kwneuro_assets.versioning.dagster_internals import NOT_FINISHED_STATUSES
from kwneuro_assets.versioning.staleness import CohortStatus, Status, has_active_run

SENSOR = "stale_derivatives_sensor"
SENSOR_TAG = "dagster/sensor_name"  # Dagster's tag of runs that a sensor requested

Inputs = Mapping[str, tuple[str, ...]]  # of each derivative


def stale_derivatives_sensor(loaded: PipelineSettings) -> SensorDefinition:
    """The sensor that requests runs for new or changed data and for due retries; off until the user switches it on.

    `loaded` are the settings under which the code location was loaded; each tick reads the present ones.
    """

    @sensor(
        name=SENSOR,
        description="Requests runs for derivatives of new or changed data and all that is downstream, and retries "
        "failures. Derivatives that are stale by a change of settings or code wait for the job materialize_stale. The "
        "settings section automation has the interval, the maximum number of runs and the selection of derivatives.",
        target=AssetSelection.assets(*(derivative.name for derivative in derivatives(loaded))),
        minimum_interval_seconds=loaded.automation.interval_seconds,
    )
    def stale_derivatives_sensor(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        settings = load_settings()
        for run_id in end_dead_runs(context.instance):  # whoever requested them: they occupy the run queue
            context.log.warning(f"run {run_id} was ended: its process no longer exists")
        if settings.automation.mode == "off":
            return SkipReason("automation.mode is off")
        if _inputs(settings) != _inputs(loaded):
            return SkipReason("the settings changed the inputs of derivatives: reload the code location")
        free_places = settings.automation.max_runs - _active_runs(context.instance)
        states = status_of_usable(context.instance, settings)
        blocked = blocked_by_group(context.instance, settings)
        wanted = requests(states, settings, time.time(), blocked)
        if not wanted:
            return SkipReason(cohort_summary(states, blocked))
        if free_places <= 0:
            return SkipReason(
                f"{len(wanted)} subjects wait: the maximum of {settings.automation.max_runs} runs is reached "
                "(automation.max_runs)"
            )
        return SensorResult(
            run_requests=[
                RunRequest(partition_key=subject, asset_selection=[AssetKey(name) for name in names])
                for subject, names in list(wanted.items())[:free_places]
            ]
        )

    return stale_derivatives_sensor


def requests(
    states: CohortStatus, settings: PipelineSettings, now: float, blocked: Collection[str] = ()
) -> dict[str, list[str]]:
    """The derivatives to request at `now` (seconds since 1970), by subject, in topological order.

    Subjects with a queued or running run are left out, and so are derivatives that are `blocked` by the group
    derivative.
    """
    chosen, inputs = set(select(settings, settings.automation.select)).difference(blocked), _inputs(settings)
    may_be_missing = {derivative.name: derivative.may_be_missing for derivative in derivatives(settings)}
    return {
        subject: names
        for subject, row in states.items()
        if not has_active_run(row) and (names := _due(row, chosen, inputs, may_be_missing, settings.automation, now))
    }


def _due(
    row: Mapping[str, Status],
    chosen: Collection[str],
    inputs: Inputs,
    may_be_missing: Mapping[str, frozenset[str]],
    settings: AutomationSettings,
    now: float,
) -> list[str]:
    """The derivatives of one subject that are due, and those downstream of them; none whose inputs are not ready.

    An input that may be missing is ready, too, if no attempt at it is due: it failed, or is not to be computed.
    """
    due: list[str] = []
    for name, status in row.items():
        upstream = [parent for parent in inputs[name] if parent in row]
        follows = any(parent in due for parent in upstream)
        ready = all(
            row[parent].is_up_to_date
            or parent in due
            or (parent in may_be_missing[name] and row[parent].state in ("missing", "failed"))
            for parent in upstream
        )
        wanted = name in chosen and not status.is_up_to_date and (follows or _is_trigger(status, settings))
        if wanted and ready and _may_start(status, settings, now):
            due.append(name)
    return due


def _is_trigger(status: Status, settings: AutomationSettings) -> bool:
    """Whether a derivative is requested for its own state, and not only because an input will be new."""
    if status.state == "stale":
        return settings.mode == "all" or "data" in status.causes
    return status.state in ("missing", "failed")


def _may_start(status: Status, settings: AutomationSettings, now: float) -> bool:
    """Whether the earlier attempts allow another one now."""
    if status.attempt is None or not status.recent_failures:
        return True  # no attempt, or the inputs changed after it
    if status.attempt.state != "failed":
        return False  # the user canceled it
    backoff = 60 * settings.retry_minutes * 2 ** (status.recent_failures - 1)
    return status.recent_failures < settings.attempts and now >= status.attempt.failures[-1].ended.moment + backoff


def _inputs(settings: PipelineSettings) -> Inputs:
    return {derivative.name: derivative.inputs(settings) for derivative in derivatives(settings)}


def _active_runs(instance: DagsterInstance) -> int:
    """The number of queued or running runs that the sensor requested."""
    return instance.get_runs_count(RunsFilter(tags={SENSOR_TAG: SENSOR}, statuses=list(NOT_FINISHED_STATUSES)))
