"""Names of the source assets: observed in the source dataset, never materialized."""

from __future__ import annotations

from kwneuro_assets.settings import PipelineSettings

SCAN = "dwi"  # its first observation marks the start of a subject's history
MASK = "provided_mask"
SOURCES = (SCAN, MASK)


def source_names(settings: PipelineSettings) -> tuple[str, ...]:
    """The source assets that exist under these settings."""
    return (SCAN, MASK) if settings.brain_mask.method == "provided" else (SCAN,)
