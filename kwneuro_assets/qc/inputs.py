"""Derivatives as QC metrics take them: missing ones, and those on another grid, count as unknown."""

from __future__ import annotations

from kwneuro_assets.imaging import MapSet, NotApplicable, Volume
from kwneuro_assets.imaging.volume import OnGrid


def volume_on(grid: OnGrid | None, value: Volume | NotApplicable | None) -> Volume | None:
    """`value` if it is an image on `grid`, or on any grid without one; else None."""
    return value if isinstance(value, Volume) and (grid is None or value.same_grid(grid)) else None


def maps_on(grid: OnGrid | None, value: MapSet | NotApplicable | None) -> MapSet | None:
    """`value` if it is a set of maps on `grid`, or on any grid without one; else None."""
    if not isinstance(value, MapSet):
        return None
    return value if grid is None or next(iter(value.values())).same_grid(grid) else None
