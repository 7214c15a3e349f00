"""Ticks of the automation sensor, as the code server makes them, and the runs that the daemon makes of what it asks for."""

from __future__ import annotations

from collections.abc import Iterable

from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus, RunRequest, build_sensor_context
from dagster._core.definitions.sensor_definition import SensorExecutionData  # checked with dagster 1.13.27

from kwneuro_assets.automation import SENSOR
from kwneuro_assets.definitions import build
from kwneuro_assets.settings import PipelineSettings, load_settings


def tick(instance: DagsterInstance, loaded: PipelineSettings | None = None) -> SensorExecutionData:
    """One tick of a code location that was loaded under these settings, or just now; Dagster checks what is asked for."""
    definitions = build(loaded or load_settings())
    sensor = definitions.resolve_sensor_def(SENSOR)
    with build_sensor_context(instance=instance, definitions=definitions, sensor_name=SENSOR) as context:
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


def queue(instance: DagsterInstance, requests: Iterable[RunRequest]) -> list[DagsterRun]:
    """The runs of these requests, as they wait in the queue."""
    job = build(load_settings()).resolve_implicit_global_asset_job_def()
    runs = []
    for request in requests:
        keys: set[AssetKey] = set(request.asset_selection or [])
        runs.append(
            instance.create_run_for_job(
                job.get_subset(asset_selection=keys),
                tags=request.tags,
                status=DagsterRunStatus.QUEUED,
                asset_selection=frozenset(keys),
            )
        )
    return runs
