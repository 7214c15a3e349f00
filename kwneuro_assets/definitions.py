"""The code location: everything that Dagster loads."""

from __future__ import annotations

from dagster import Definitions, definitions, in_process_executor

from kwneuro_assets.assets import build_assets
from kwneuro_assets.automation.ingestion_sensor import ingestion_sensor, rescan_source, rescan_source_schedule
from kwneuro_assets.automation.jobs import jobs
from kwneuro_assets.automation.quarantine_check import quarantine_check
from kwneuro_assets.automation.stale_sensor import stale_derivatives_sensor
from kwneuro_assets.resources import build_resources
from kwneuro_assets.settings import PipelineSettings, load_settings


def build(settings: PipelineSettings) -> Definitions:
    """All definitions for one snapshot of the settings."""
    return Definitions(
        assets=build_assets(settings),
        resources=build_resources(settings),
        asset_checks=[quarantine_check()],
        sensors=[ingestion_sensor(settings), stale_derivatives_sensor(settings)],
        schedules=[rescan_source_schedule(settings)],
        jobs=[*jobs(settings), rescan_source],
        # One process per subject: a process for each step would repeat the imports and read again what the step before
        # it has in memory. Subjects run in parallel, by the run queue.
        executor=in_process_executor,
    )


@definitions
def defs() -> Definitions:
    """What Dagster loads, with the present settings: one snapshot for the lifetime of a code server or a run."""
    return build(load_settings())
