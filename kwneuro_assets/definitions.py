"""The code location: all that Dagster loads."""

from __future__ import annotations

from dagster import Definitions, definitions, in_process_executor

from kwneuro_assets.assets import DERIVATIVES, GROUP_DERIVATIVE
from kwneuro_assets.assets.progress import LoggedProgress, ProgressReporter
from kwneuro_assets.automation import automation_sensor, jobs
from kwneuro_assets.ingestion.quarantine import quarantine_check
from kwneuro_assets.ingestion.sensor import ingestion_sensor, reconcile_schedule, reconcile_source
from kwneuro_assets.ingestion.source import SourceIOManager, source_assets
from kwneuro_assets.settings import PipelineSettings, load_settings
from kwneuro_assets.storage.io_manager import DerivativeIOManager
from kwneuro_assets.weights.resource import NetworkWeights


def build(settings: PipelineSettings, progress: ProgressReporter | None = None) -> Definitions:
    """The assets, resources and executor for one snapshot of the settings; steps tell `progress` how far they are."""
    return Definitions(
        assets=[
            *source_assets(settings),
            *(derivative.build(settings) for derivative in (*DERIVATIVES, GROUP_DERIVATIVE)),
        ],
        resources={
            "source": SourceIOManager.of(settings.source),
            "derivatives": DerivativeIOManager(
                url=settings.store.url,
                source_url=settings.source.url,
                verify=settings.store.verify,
                cache_gb=settings.store.cache_gb,
            ),
            "progress": progress or LoggedProgress(),
            "weights": NetworkWeights(folder=settings.weights.folder),
        },
        asset_checks=[quarantine_check()],
        sensors=[ingestion_sensor(settings), automation_sensor(settings)],
        schedules=[reconcile_schedule(settings)],
        jobs=[*jobs(), reconcile_source],
        # One process per subject: a process for each step would pay its imports again, and read again what
        # the step before has in memory. Parallelism is over subjects, by the run queue.
        executor=in_process_executor,
    )


@definitions
def defs() -> Definitions:
    """What Dagster loads, with the settings as they are now: one snapshot for a code server or a run."""
    return build(load_settings())
