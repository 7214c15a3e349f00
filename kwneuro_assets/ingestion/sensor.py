"""What finds new scans and notices changed ones from Dagster's side: a sensor, and a schedule for what it misses."""

# No postponed annotations here: Dagster looks at the types of an op's parameters.

import time

from dagster import (
    DefaultScheduleStatus,
    OpExecutionContext,
    ScheduleDefinition,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    in_process_executor,
    job,
    op,
    sensor,
)

from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.scanner import convert_dicom
from kwneuro_assets.processes import LOOKING_STEP, mark_process
from kwneuro_assets.settings import PipelineSettings, load_settings

SENSOR, RECONCILE = "find_new_scans", "reconcile_source"
_SHOWN = 20  # subjects of one line of the log
_PAUSE = 2.0  # seconds between two looks of the schedule, in which the sensor has its turn


def ingestion_sensor(loaded: PipelineSettings) -> SensorDefinition:
    """Looks at the source: off until a person switches it on in the UI."""

    @sensor(
        name=SENSOR,
        description="Looks at the source dataset: new subjects become partitions, changed files a new version of dwi. "
        "It makes nothing by itself; the sensor keep_up_to_date does. The settings of the section ingestion say how "
        "often, and how long files must have stood still.",
        minimum_interval_seconds=loaded.ingestion.interval_seconds,
    )
    def find_new_scans(context: SensorEvaluationContext) -> SkipReason:
        settings = load_settings()
        converted = convert_dicom(settings, seconds=settings.ingestion.tick_seconds / 2)
        report = ingest(context.instance, settings, seconds=settings.ingestion.tick_seconds)
        for what, keys in (("new", report.added), ("changed", report.changed)):
            if keys:
                context.log.info(f"{what}: {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}")
        return SkipReason("; ".join([*converted, report.sentence()]))

    return find_new_scans


@op(
    name=LOOKING_STEP,
    description="Looks at the whole source, as long as it takes; at every file's content where the settings say so.",
)
def look_at_everything(context: OpExecutionContext) -> None:
    mark_process(context)
    settings = load_settings()
    began = time.time()
    anew_since = began if settings.ingestion.reconcile_contents else 0
    for told in convert_dicom(settings):
        context.log.info(told)
    while True:  # piece by piece, so that the sensor may take in what is new meanwhile
        report = ingest(context.instance, settings, seconds=settings.ingestion.tick_seconds, anew_since=anew_since)
        context.log.info(report.sentence())
        if not (report.waiting or report.is_listing or report.is_busy):
            return
        time.sleep(_PAUSE)


@job(
    name=RECONCILE,
    description="Looks at everything in the source anew and takes in what the sensor missed.",
    executor_def=in_process_executor,
)
def reconcile_source() -> None:
    look_at_everything()


def reconcile_schedule(loaded: PipelineSettings) -> ScheduleDefinition:
    """Starts the job every night: off until a person switches it on in the UI."""
    return ScheduleDefinition(
        job=reconcile_source,
        cron_schedule=loaded.ingestion.reconcile_cron,
        execution_timezone=loaded.ingestion.reconcile_timezone,
        default_status=DefaultScheduleStatus.STOPPED,
    )
