"""Ticks of a sensor (of automation, by default) as a code server makes them, and the runs that come of it."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping

from dagster import AssetKey, DagsterInstance, DagsterRun, JobDefinition, build_sensor_context
from dagster._core.definitions.sensor_definition import SensorExecutionData  # checked with dagster 1.13.27
from dagster._core.storage.tags import PARTITION_NAME_TAG

from kwneuro_assets.automation import SENSOR
from kwneuro_assets.definitions import build
from kwneuro_assets.settings import PipelineSettings, load_settings


def tick(instance: DagsterInstance, loaded: PipelineSettings | None = None, name: str = SENSOR) -> SensorExecutionData:
    """One tick of a code location that was loaded under these settings, or just now, with all of Dagster's checks."""
    definitions = build(loaded or load_settings())
    sensor = definitions.resolve_sensor_def(name)
    opened = build_sensor_context(
        instance=instance, instance_ref=instance.get_ref(), definitions=definitions, sensor_name=name
    )
    with opened as context:
        return sensor.evaluate_tick(context)


def asked(told: SensorExecutionData) -> dict[str, str]:
    """By subject, the steps of the run that is asked for, comma-separated and in order."""
    found: dict[str, str] = {}
    for request in told.run_requests or []:
        subject = request.partition_key
        assert subject is not None
        assert subject not in found
        found[subject] = ",".join(key.to_user_string() for key in request.asset_selection or [])
    return found


def create_runs(
    instance: DagsterInstance, told: SensorExecutionData, subjects: Collection[str] = ()
) -> dict[str, DagsterRun]:
    """The runs that are asked for, by subject, as they stand before they are put into the queue; of these or of all."""
    steps, runs = asked(told), dict[str, DagsterRun]()
    for request in told.run_requests or []:
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
    """A run of these derivatives, comma-separated, before it is put into the queue."""
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
