"""How subjects stand in all derivatives of this package, under the present settings, and how the group does."""

from __future__ import annotations

from collections.abc import Collection

from dagster import DagsterInstance

from kwneuro_assets.assets import DERIVATIVES, GROUP_DERIVATIVE
from kwneuro_assets.assets.group_response import members
from kwneuro_assets.ingestion.source import source_names
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.cohort import CohortStatus, Status, cohort_status, group_status
from kwneuro_assets.versioning.records import is_lost, recorded


def status_of(instance: DagsterInstance, settings: PipelineSettings, subjects: Collection[str]) -> CohortStatus:
    """The status of each derivative by subject and asset, in one pass over the event log."""
    return cohort_status(instance, settings, DERIVATIVES, source_names(settings), subjects)


def status_of_group(instance: DagsterInstance, settings: PipelineSettings) -> Status:
    """The status of what is made of all subjects together."""
    return group_status(instance, settings, GROUP_DERIVATIVE, members(instance, settings))


def following_group(settings: PipelineSettings) -> set[str]:
    """The derivatives of subjects that cannot be made before that of the group, under these settings."""
    following = {GROUP_DERIVATIVE.name}
    for derivative in DERIVATIVES:
        if following.intersection(derivative.inputs(settings)):
            following.add(derivative.name)
    return following - {GROUP_DERIVATIVE.name}


def waiting_for_group(instance: DagsterInstance, settings: PipelineSettings) -> set[str]:
    """Those that cannot be made now, as that of the group has not been made, or is lost."""
    following = following_group(settings)
    if not following:
        return set()
    known = recorded(instance, GROUP_DERIVATIVE.name, None)
    return set() if known and not is_lost(instance, GROUP_DERIVATIVE.name, None, known) else following
