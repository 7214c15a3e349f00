"""Ticks of a sensor (by default the stale-derivatives sensor) as in a code server, and the requested runs."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping

from dagster import AssetKey, DagsterInstance, DagsterRun, JobDefinition, build_sensor_context
from dagster._core.definitions.sensor_definition import SensorExecutionData  # checked with dagster 1.13.27
from dagster._core.storage.tags import PARTITION_NAME_TAG

from kwneuro_assets.automation.stale_sensor import SENSOR
from kwneuro_assets.definitions import build
from kwneuro_assets.settings import PipelineSettings, load_settings


def tick(instance: DagsterInstance, loaded: PipelineSettings | None = None, name: str = SENSOR) -> SensorExecutionData:
    """One tick of a code location loaded with these settings, or the present ones, with all of Dagster's checks."""
    definitions = build(loaded or load_settings())
    sensor = definitions.resolve_sensor_def(name)
    opened = build_sensor_context(
        instance=instance, instance_ref=instance.get_ref(), definitions=definitions, sensor_name=name
    )
    with opened as context:
        return sensor.evaluate_tick(context)


def requested_steps(data: SensorExecutionData) -> dict[str, str]:
    """The steps of each requested run by subject, comma-separated and in order."""
    found: dict[str, str] = {}
    for request in data.run_requests or []:
        subject = request.partition_key
        assert subject is not None
        assert subject not in found
        found[subject] = ",".join(key.to_user_string() for key in request.asset_selection or [])
    return found


def create_runs(
    instance: DagsterInstance, data: SensorExecutionData, subjects: Collection[str] = ()
) -> dict[str, DagsterRun]:
    """Create the requested runs, before they enter the queue; returns them by subject, optionally only `subjects`."""
    steps, runs = requested_steps(data), dict[str, DagsterRun]()
    for request in data.run_requests or []:
        subject = str(request.partition_key)
        if not subjects or subject in subjects:
            runs[subject] = create_run(instance, subject, steps[subject], request.tags)
    return runs


def create_run(
    instance: DagsterInstance,
    subject: str,
    steps: str,
    tags: Mapping[str, str] | None = None,
    parent: DagsterRun | None = None,
) -> DagsterRun:
    """Create a run of these comma-separated derivatives, before it enters the queue."""
    keys = frozenset(AssetKey(name) for name in steps.split(","))
    return instance.create_run_for_job(
        _job().get_subset(asset_selection=set(keys)),
        tags={PARTITION_NAME_TAG: subject, **(tags or {})},
        asset_selection=keys,
        parent_run_id=parent.run_id if parent else None,
        root_run_id=parent.run_id if parent else None,
    )


@functools.cache
def _job() -> JobDefinition:
    return build(PipelineSettings()).resolve_implicit_global_asset_job_def()
