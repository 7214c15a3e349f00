"""How subjects stand in all derivatives of this package, under the present settings."""

from __future__ import annotations

from collections.abc import Collection

from dagster import DagsterInstance

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.ingestion.source import source_names
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.cohort import CohortStatus, cohort_status


def status_of(instance: DagsterInstance, settings: PipelineSettings, subjects: Collection[str]) -> CohortStatus:
    """The status of each derivative by subject and asset, in one pass over the event log."""
    return cohort_status(instance, settings, DERIVATIVES, source_names(settings), subjects)
