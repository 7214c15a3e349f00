"""Ticks of the automation sensor, as a code server makes them, and the runs that the daemon makes of them."""

from __future__ import annotations

from dagster import AssetKey, DagsterInstance, DagsterRun, build_sensor_context
from dagster._core.definitions.sensor_definition import SensorExecutionData  # checked with dagster 1.13.27

from kwneuro_assets.automation import SENSOR
from kwneuro_assets.definitions import build
from kwneuro_assets.settings import PipelineSettings, load_settings


def tick(instance: DagsterInstance, loaded: PipelineSettings | None = None) -> SensorExecutionData:
    """One tick of a code location that was loaded under these settings, or just now, with all of Dagster's checks."""
    definitions = build(loaded or load_settings())
    sensor = definitions.resolve_sensor_def(SENSOR)
    opened = build_sensor_context(
        instance=instance, instance_ref=instance.get_ref(), definitions=definitions, sensor_name=SENSOR
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


def create_runs(instance: DagsterInstance, told: SensorExecutionData) -> dict[str, DagsterRun]:
    """The runs that are asked for, by subject, as they stand before they are put into the queue."""
    job = build(load_settings()).resolve_implicit_global_asset_job_def()
    runs: dict[str, DagsterRun] = {}
    for request in told.run_requests or []:
        keys: set[AssetKey] = set(request.asset_selection or [])
        assert request.partition_key is not None
        runs[request.partition_key] = instance.create_run_for_job(
            job.get_subset(asset_selection=keys), tags=request.tags, asset_selection=frozenset(keys)
        )
    return runs
