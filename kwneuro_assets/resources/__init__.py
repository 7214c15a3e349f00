"""Dagster plumbing below the assets: I/O managers, deferred inputs, networks and progress reports."""

from __future__ import annotations

from typing import Any

from kwneuro_assets.resources.derivative_io_manager import DerivativeIOManager
from kwneuro_assets.resources.source_io_manager import SourceIOManager
from kwneuro_assets.resources.step_progress import LoggedProgress, ProgressReporter
from kwneuro_assets.settings import PipelineSettings


def build_resources(settings: PipelineSettings, progress: ProgressReporter | None = None) -> dict[str, Any]:
    """The resources for one snapshot of the settings, by key. Steps report to `progress`, by default the run's log."""
    return {
        "source": SourceIOManager.of(settings.source),
        "derivatives": DerivativeIOManager(
            url=settings.store.url,
            source_url=settings.source.url,
            verify=settings.store.verify,
            cache_gb=settings.store.cache_gb,
        ),
        "progress": progress or LoggedProgress(),
    }
