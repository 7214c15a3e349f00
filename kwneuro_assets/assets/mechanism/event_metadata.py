"""The metadata of a materialization, as the UI shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dagster import MetadataValue

from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, Volume
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.imaging.volume import OnGrid
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.versioning.records import INPUT_DATA_VERSIONS, NOT_APPLICABLE


def event_metadata(
    value: Value,
    provenance: Provenance,
    figure: bytes | None,
    summary: Mapping[str, float | int | str | Mapping[str, float]],
    seconds: float,
    peak_memory: int,
) -> dict[str, Any]:
    """Metadata by label: thumbnail of the figure, summary numbers, shape, duration, peak memory (in bytes), versions.

    The thumbnail comes first: `versioning.dagster_internals` reads events from the end of it on.
    """
    return {
        **({"figure": _thumbnail(figure)} if figure else {}),
        **{name: MetadataValue.json(dict(one)) if isinstance(one, Mapping) else one for name, one in summary.items()},
        **describe(value),
        "seconds": round(seconds, 2),
        "peak_memory_mb": round(peak_memory / 1e6),
        "code_version": provenance.code_version,
        "data_version": provenance.data_version,
        INPUT_DATA_VERSIONS: MetadataValue.json(dict(provenance.input_data_versions)),
        "parameters": MetadataValue.json(dict(provenance.parameters)),
        "libraries": MetadataValue.json(dict(provenance.libraries)),
        **({"weights": MetadataValue.json(dict(provenance.weights))} if provenance.weights else {}),
        **({"networks": MetadataValue.json(dict(provenance.networks))} if provenance.networks else {}),
    }


def describe(value: Value) -> dict[str, str]:
    """Shape and voxel size (mm) as text, if the value is an image; the reason if it is not applicable."""
    if isinstance(value, NotApplicable):
        return {NOT_APPLICABLE: value.reason}
    if isinstance(value, MapSet):
        first = next(iter(value.values()))
        maps = ", ".join(name + "".join(f" ({size})" for size in one.shape[3:]) for name, one in value.items())
        return {"shape": f"{_times(first.grid)}: {maps}", "voxel_size_mm": _times(first.voxel_size)}
    image: OnGrid | None = value.volume if isinstance(value, Dwi) else value if isinstance(value, Volume) else None
    return {"shape": _times(image.shape), "voxel_size_mm": _times(image.voxel_size)} if image else {}


def _times(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def _thumbnail(figure: bytes) -> MetadataValue[Any]:
    from kwneuro_assets.figures.render import markdown_image, thumbnail

    return MetadataValue.md(markdown_image(thumbnail(figure)))
