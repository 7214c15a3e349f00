"""What keeps a cohort up to date from Dagster's side: a sensor that looks at its status, and two jobs for a person.

The sensor is level-triggered: at each tick it asks for what is to be made now, whatever it asked for before, so that
nothing is forgotten when a run fails, a tick is cut short, or the daemon was down for a week.
"""

# No postponed annotations here: Dagster looks at the types of an op's parameters.

import time
from collections.abc import Collection, Mapping

from dagster import (
    AssetKey,
    AssetSelection,
    Config,
    DagsterInstance,
    JobDefinition,
    OpExecutionContext,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    define_asset_job,
    in_process_executor,
    job,
    op,
    sensor,
)
from pydantic import Field

from kwneuro_assets.assets import DERIVATIVES, GROUP_DERIVATIVE
from kwneuro_assets.assets.derivative import FORCE_TAG
from kwneuro_assets.cohort import status_of, waiting_for_group
from kwneuro_assets.dagster_internals import NOT_FINISHED_STATUSES, add_backfill
from kwneuro_assets.ingestion.ledger import set_aside
from kwneuro_assets.processes import ASKING_STEP, end_dead_runs, mark_process
from kwneuro_assets.selection import select
from kwneuro_assets.settings import AutomationSettings, PipelineSettings, load_settings
from kwneuro_assets.subjects import PARTITIONS, subject_partitions
from kwneuro_assets.versioning.cohort import CohortStatus, Status, counted, under_way, unsettled

SENSOR, UPDATE, REMAKE = "keep_up_to_date", "make_what_is_stale", "remake"
SENSOR_TAG = "dagster/sensor_name"  # which Dagster gives the runs that a sensor asked for

Inputs = Mapping[str, tuple[str, ...]]  # of each derivative


def automation_sensor(loaded: PipelineSettings) -> SensorDefinition:
    """Asks for what new or changed data and due repetitions want: off until a person switches it on in the UI.

    `loaded` are the settings under which the code location was loaded; each tick looks at the present ones.
    """

    @sensor(
        name=SENSOR,
        description="Makes what new or changed data ask for, with all that follows, and tries again what failed. "
        "What is stale by a change of settings or code waits for the job make_what_is_stale. The settings of the "
        "section automation say how often, how many at once, and which derivatives.",
        target=AssetSelection.assets(*(derivative.name for derivative in DERIVATIVES)),
        minimum_interval_seconds=loaded.automation.interval_seconds,
    )
    def keep_up_to_date(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        settings = load_settings()
        for run_id in end_dead_runs(context.instance):  # they keep places in the queue, whoever asked for them
            context.log.warning(f"run {run_id} is over: its process is gone")
        if settings.automation.mode == "off":
            return SkipReason("automation.mode is off")
        if _inputs(settings) != _inputs(loaded):
            return SkipReason("the settings changed what depends on what: reload the code location")
        places = settings.automation.max_runs - _asked_for(context.instance)
        states = _states(context.instance, settings)
        waiting = waiting_for_group(context.instance, settings)
        wanted = requests(states, settings, time.time(), waiting)
        if not wanted:
            return SkipReason(_told(states, waiting))
        if places <= 0:
            return SkipReason(f"{len(wanted)} subjects wait: {settings.automation.max_runs} runs are enough at once")
        return SensorResult(
            run_requests=[
                RunRequest(partition_key=subject, asset_selection=[AssetKey(name) for name in names])
                for subject, names in list(wanted.items())[:places]
            ]
        )

    return keep_up_to_date


def requests(
    states: CohortStatus, settings: PipelineSettings, now: float, waiting: Collection[str] = ()
) -> dict[str, list[str]]:
    """The derivatives that automation makes now (seconds since 1970), by subject, in the order in which they depend.

    A subject with a run that waits or works is left alone, and so are derivatives that are `waiting` for the group's.
    """
    chosen, inputs = set(select(settings, settings.automation.select)).difference(waiting), _inputs(settings)
    return {
        subject: names
        for subject, row in states.items()
        if not under_way(row) and (names := _due(row, chosen, inputs, settings.automation, now))
    }


def _due(
    row: Mapping[str, Status], chosen: Collection[str], inputs: Inputs, settings: AutomationSettings, now: float
) -> list[str]:
    """What is to be made of one subject: that which asks for it, and what follows; nothing on top of what waits."""
    due: list[str] = []
    for name, status in row.items():
        above = [parent for parent in inputs[name] if parent in row]
        follows = any(parent in due for parent in above)
        ready = all(row[parent].settled or parent in due for parent in above)
        wanted = name in chosen and not status.settled and (follows or _asks(status, settings))
        if wanted and ready and _allowed(status, settings, now):
            due.append(name)
    return due


def _asks(status: Status, settings: AutomationSettings) -> bool:
    """Whether a derivative wants to be made by itself, and not only as what it is made from will be new."""
    if status.state == "stale":
        return settings.mode == "all" or "data" in status.causes
    return status.state in ("missing", "failed")


def _allowed(status: Status, settings: AutomationSettings, now: float) -> bool:
    """Whether what happened to the last attempts allows another one now."""
    if status.attempt is None or not status.recent_failures:
        return True  # what it is made from is new since, if there was any
    if status.attempt.state != "failed":
        return False  # a person ended it
    wait = 60 * settings.retry_minutes * 2 ** (status.recent_failures - 1)
    return status.recent_failures < settings.attempts and now >= status.attempt.failures[-1].ended.moment + wait


class UpdateConfig(Config):
    subjects: list[str] = Field([], description="Only these subjects, such as sub-01; all where the list is empty.")
    select: str = Field("", description="Only these derivatives, comma-separated; all where it is empty.")


@op(
    name=ASKING_STEP,
    description="Asks Dagster's daemon for all that is missing, stale or failed, whatever made it so: one backfill.",
)
def ask_for_what_is_stale(context: OpExecutionContext, config: UpdateConfig) -> None:
    mark_process(context)
    settings = load_settings()
    end_dead_runs(context.instance)
    states = _states(context.instance, settings, config.subjects)
    waiting = waiting_for_group(context.instance, settings)
    chosen = set(select(settings, config.select)) - waiting
    partitions: dict[str, list[str]] = {}
    subjects = 0
    for subject, row in states.items():
        names = [] if under_way(row) else unsettled(row, chosen)
        subjects += bool(names)
        for name in names:
            partitions.setdefault(name, []).append(subject)
    if not partitions:
        context.log.info(f"nothing to do: {_told(states, waiting)}")
        return
    title = f"what was stale of {subjects} subjects"
    backfill = add_backfill(context.instance, subject_partitions, partitions, title, {})
    context.log.info(f"backfill {backfill}: {title} (Runs > Backfills shows how far it is)")


@job(
    name=UPDATE,
    description="Makes all that is missing, stale or failed, whatever made it so: one backfill, with a run for each "
    "subject (Runs > Backfills shows how far it is). What is fresh is left as it is.",
    executor_def=in_process_executor,
)
def make_what_is_stale() -> None:
    ask_for_what_is_stale()


def jobs() -> list[JobDefinition]:
    """What a person starts in the UI: an update of the cohort, and derivatives made again though they are fresh."""
    remake = define_asset_job(
        REMAKE,
        selection=AssetSelection.assets(*(derivative.name for derivative in DERIVATIVES)),
        description="Makes the derivatives of a subject again, fresh or not: for when a file or a result is in doubt.",
        tags={FORCE_TAG: "true"},
    )
    return [make_what_is_stale, remake]  # type: ignore[list-item]  # resolved by Dagster


def _states(instance: DagsterInstance, settings: PipelineSettings, subjects: Collection[str] = ()) -> CohortStatus:
    """The states of what can be made: not of subjects whose files cannot be used, or are gone."""
    known = sorted(set(instance.get_dynamic_partitions(PARTITIONS)) - set_aside(instance, settings).keys())
    chosen = [subject for subject in known if not subjects or subject in subjects]
    return status_of(instance, settings, chosen)


def _inputs(settings: PipelineSettings) -> Inputs:
    return {derivative.name: derivative.inputs(settings) for derivative in DERIVATIVES}


def _asked_for(instance: DagsterInstance) -> int:
    """The runs that automation asked for and that wait or work."""
    return instance.get_runs_count(RunsFilter(tags={SENSOR_TAG: SENSOR}, statuses=list(NOT_FINISHED_STATUSES)))


def _told(states: CohortStatus, waiting: Collection[str]) -> str:
    """How the cohort stands, in a sentence or two."""
    totals: dict[str, int] = {}
    for counts in counted(states).values():
        for state, count in counts.items():
            totals[state] = totals.get(state, 0) + count
    told = ", ".join(f"{count} {state}" for state, count in sorted(totals.items()))
    for_whom = f". {', '.join(sorted(waiting))} wait for a person to make {GROUP_DERIVATIVE.name}" if waiting else ""
    return (f"of {len(states)} subjects: {told}" if states else "there are no subjects") + for_whom
