"""Automatic ingest: a sensor that finds new and changed scans, and a schedule that rescans all of it."""

# No postponed annotations here: Dagster reads the types of an op's parameters.

import time
from datetime import datetime, timezone

from dagster import (
    DefaultScheduleStatus,
    OpExecutionContext,
    ScheduleDefinition,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    in_process_executor,
    job,
    op,
    sensor,
)

from kwneuro_assets.ingestion.dicom_import import convert_dicom
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.launchers.liveness import RESCAN_STEP, mark_process
from kwneuro_assets.settings import PipelineSettings, load_settings

SENSOR, RESCAN = "ingestion_sensor", "rescan_source"
_MAX_SHOWN = 20  # subjects on one line of the log
_PAUSE_SECONDS = 2.0  # between two parts of a rescan, in which the sensor can acquire the lock


def ingestion_sensor(loaded: PipelineSettings) -> SensorDefinition:
    """The sensor that ingests the source at each tick; off until the user switches it on.

    Ingest records the observations and adds the partitions itself, and returns neither in the SensorResult: Dagster's
    daemon would record them after the tick, without the lock of the source. A process that is killed in between would
    lose events that the ingest index has as recorded, and another ingest could observe a subject for the first time
    after its partition exists, so that its derivatives would count as those of an earlier subject.

    Dagster shows each tick without run requests as skipped. A tick that recorded something therefore sets the cursor,
    which the list of ticks shows, to what it recorded, and writes the subjects to its log. The cursor is not read
    again.
    """

    @sensor(
        name=SENSOR,
        description="Scans the source dataset: new subjects become partitions, changed files become a new version of "
        "dwi. It computes no derivatives: stale_derivatives_sensor requests these. Settings: section ingestion.",
        minimum_interval_seconds=loaded.ingestion.interval_seconds,
    )
    def ingestion_sensor(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        settings = load_settings()
        messages = convert_dicom(settings, seconds=settings.ingestion.tick_seconds / 2)
        report = ingest(context.instance, settings, seconds=settings.ingestion.tick_seconds)
        summary = "; ".join([*messages, report.summary()])
        if not report.recorded_events:
            return SkipReason(summary)
        lists = {"added": report.added, "changed": report.changed, "quarantined": [*report.quarantined]}
        for name, keys in lists.items():
            if keys:
                context.log.info(f"{name}: {', '.join(keys[:_MAX_SHOWN])}{', ...' if len(keys) > _MAX_SHOWN else ''}")
        context.log.info(f"recorded {report.recorded_events} observations: {summary}")
        moment = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        return SensorResult(skip_reason=summary, cursor=f"{moment}: {summary}")

    return ingestion_sensor


@op(
    name=RESCAN_STEP,
    description="Scans the entire source without a time limit, and reads all files again if the settings say so.",
)
def rescan(context: OpExecutionContext) -> None:
    """Scan the entire source."""
    mark_process(context)
    settings = load_settings()
    began = time.time()
    reread_before = began if settings.ingestion.rescan_contents else 0
    for message in convert_dicom(settings):
        context.log.info(message)
    while True:  # in parts, so that the sensor can ingest new subjects meanwhile
        report = ingest(
            context.instance, settings, seconds=settings.ingestion.tick_seconds, reread_before=reread_before
        )
        context.log.info(report.summary())
        if not (report.remaining or report.is_listing or report.is_busy):
            return
        time.sleep(_PAUSE_SECONDS)


@job(
    name=RESCAN,
    description="Scans the entire source again and ingests what the sensor missed.",
    executor_def=in_process_executor,
)
def rescan_source() -> None:
    """Scan the entire source again."""
    rescan()


def rescan_source_schedule(loaded: PipelineSettings) -> ScheduleDefinition:
    """The schedule that starts the job each night; off until the user switches it on."""
    return ScheduleDefinition(
        job=rescan_source,
        cron_schedule=loaded.ingestion.rescan_cron,
        execution_timezone=loaded.ingestion.rescan_timezone,
        default_status=DefaultScheduleStatus.STOPPED,
    )
