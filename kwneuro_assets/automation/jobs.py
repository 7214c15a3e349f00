"""Jobs that the user starts in the UI: materialize what is stale, and rematerialize whatever its state is."""

# No postponed annotations here: Dagster reads the types of an op's parameters.

from dagster import (
    AssetSelection,
    Config,
    JobDefinition,
    OpExecutionContext,
    define_asset_job,
    in_process_executor,
    job,
    op,
)
from pydantic import Field

from kwneuro_assets.assets import derivatives
from kwneuro_assets.assets.mechanism.freshness import FORCE_TAG
from kwneuro_assets.cohort.selection import select, to_compute, with_upstream
from kwneuro_assets.cohort.status import blocked_by_group, cohort_summary, status_of_usable
from kwneuro_assets.launchers.liveness import BACKFILL_STEP, end_dead_runs, mark_process
from kwneuro_assets.settings import PipelineSettings, load_settings
from kwneuro_assets.versioning.dagster_internals import add_backfill
from kwneuro_assets.versioning.partitions import subject_partitions
from kwneuro_assets.versioning.staleness import has_active_run, out_of_date

MATERIALIZE_STALE, REMATERIALIZE = "materialize_stale", "rematerialize"


class StaleBackfillConfig(Config):
    """Run config of the job `materialize_stale`."""

    subjects: list[str] = Field([], description="Only these subjects, such as sub-01; all if the list is empty.")
    select: str = Field(
        "", description="Only these derivatives (comma-separated) and what is upstream of them; all if it is empty."
    )


@op(
    name=BACKFILL_STEP,
    description="Requests one backfill of all derivatives that are missing, stale or failed, for whatever reason.",
)
def request_stale_backfill(context: OpExecutionContext, config: StaleBackfillConfig) -> None:
    """Request one backfill of all stale derivatives."""
    mark_process(context)
    settings = load_settings()
    end_dead_runs(context.instance)
    states = status_of_usable(context.instance, settings, config.subjects)
    blocked = blocked_by_group(context.instance, settings)
    chosen = set(with_upstream(settings, select(settings, config.select))) - blocked
    partitions: dict[str, list[str]] = {}
    subjects = 0
    for subject, row in states.items():
        due = [] if has_active_run(row) else out_of_date(row, chosen)
        names = to_compute(settings, [name for name in row if name in chosen], due)
        subjects += bool(names)
        for name in names:
            partitions.setdefault(name, []).append(subject)
    if not partitions:
        context.log.info(f"nothing to do: {cohort_summary(states, blocked)}")
        return
    title = f"stale derivatives of {subjects} subjects"
    backfill = add_backfill(context.instance, subject_partitions, partitions, title, {})
    context.log.info(f"backfill {backfill}: {title} (Runs > Backfills shows its progress)")


@job(
    name=MATERIALIZE_STALE,
    description="Materializes all derivatives that are missing, stale or failed, for whatever reason: one backfill "
    "with one run per subject (Runs > Backfills shows its progress). Fresh derivatives are skipped.",
    executor_def=in_process_executor,
)
def materialize_stale() -> None:
    """Materialize all stale derivatives."""
    request_stale_backfill()


def jobs(settings: PipelineSettings) -> list[JobDefinition]:
    """The jobs `materialize_stale` and `rematerialize`, for the derivatives that exist under these settings."""
    rematerialize = define_asset_job(
        REMATERIALIZE,
        selection=AssetSelection.assets(*(derivative.name for derivative in derivatives(settings))),
        description="Computes the derivatives of a subject again, even if they are fresh: for doubtful results.",
        tags={FORCE_TAG: "true"},
    )
    return [materialize_stale, rematerialize]  # type: ignore[list-item]  # resolved by Dagster
