"""The state of subjects and of the group, in all derivatives of this package under the current settings."""

from __future__ import annotations

from collections.abc import Collection

from dagster import DagsterInstance

from kwneuro_assets.assets import GROUP_DERIVATIVE, derivatives
from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.ingestion.ingest_index import usable_subjects
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.records import is_missing_from_store, recorded
from kwneuro_assets.versioning.source_names import source_names
from kwneuro_assets.versioning.staleness import CohortStatus, Status, cohort_status, count_states, group_status


def status_of(instance: DagsterInstance, settings: PipelineSettings, subjects: Collection[str]) -> CohortStatus:
    """The status of each derivative, by subject and asset, from one pass over the event log."""
    return cohort_status(instance, settings, derivatives(settings), source_names(settings), subjects)


def status_of_usable(
    instance: DagsterInstance, settings: PipelineSettings, subjects: Collection[str] = ()
) -> CohortStatus:
    """The status of all subjects, or of these, without those that are quarantined or no longer in the source."""
    usable = usable_subjects(instance, settings)
    return status_of(instance, settings, [key for key in usable if not subjects or key in subjects])


def cohort_summary(states: CohortStatus, blocked: Collection[str] = ()) -> str:
    """The number of derivatives in each state, and which are `blocked` by the group derivative, for messages."""
    totals: dict[str, int] = {}
    for counts in count_states(states).values():
        for state, count in counts.items():
            totals[state] = totals.get(state, 0) + count
    counted = ", ".join(f"{count} {state}" for state, count in sorted(totals.items()))
    summary = f"{len(states)} subjects: {counted}" if states else "there are no subjects"
    if not blocked:
        return summary
    return f"{summary}. {', '.join(sorted(blocked))} wait until the user materializes {GROUP_DERIVATIVE.name}"


def status_of_group(
    instance: DagsterInstance, settings: PipelineSettings, derivative: Derivative = GROUP_DERIVATIVE
) -> Status:
    """The status of a derivative of the group, by default of the group response."""
    assert derivative.members is not None
    return group_status(instance, settings, derivative, derivative.members(instance, settings))


def downstream_of_group(settings: PipelineSettings, *, required: bool = False) -> set[str]:
    """The derivatives of subjects that have the group derivative upstream, under these settings.

    With `required`, only those that cannot be computed without it.
    """
    downstream = {GROUP_DERIVATIVE.name}
    for derivative in derivatives(settings):
        inputs = set(derivative.inputs(settings)).difference(derivative.may_be_missing if required else ())
        if downstream.intersection(inputs):
            downstream.add(derivative.name)
    return downstream - {GROUP_DERIVATIVE.name}


def blocked_by_group(instance: DagsterInstance, settings: PipelineSettings) -> set[str]:
    """The derivatives that cannot be computed now because the group derivative does not exist or is missing."""
    downstream = downstream_of_group(settings, required=True)
    if not downstream:
        return set()
    known = recorded(instance, GROUP_DERIVATIVE.name, None)
    return set() if known and not is_missing_from_store(instance, GROUP_DERIVATIVE.name, None, known) else downstream
