"""Rows of slices from images on a grid, which most figures consist of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.figures.colors import WARNING, direction_colors
from kwneuro_assets.figures.layout import Slices
from kwneuro_assets.figures.panels import Legend, Panel, Scale
from kwneuro_assets.figures.view import Cut, Plane, View
from kwneuro_assets.imaging import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNAL_UNIT = "signal (a.u.)"
BRIGHTEST_FA = 0.8  # FA at which a voxel of the direction map has full brightness
_LARGE = 250  # pixels of width of a panel from which outlines are bold
_DISK = 64  # pixels of the disk of directions
_DISK_SIZE = 0.13  # of the shorter side of a slice
DIRECTIONS = (("L-R", (1.0, 0.4, 0.4)), ("P-A", (0.4, 1.0, 0.4)), ("I-S", (0.55, 0.65, 1.0)))


def panel(view: View, cut: Cut, image: NDArray[Any], **options: Any) -> Panel:
    """A panel from a slice that is already cut or colored; `options` are fields of Panel."""
    return Panel(cut.plane, image, view.extent(cut.plane), **options)


def map_panel(view: View, cut: Cut, image: NDArray[Any], scale: Scale, **options: Any) -> Panel:
    """A slice of a scalar image (x, y, z)."""
    return panel(view, cut, view.cut(image, cut), scale=scale, **options)


def direction_panel(view: View, cut: Cut, vectors: NDArray[Any], strength: NDArray[Any], brightest: float) -> Panel:
    """A slice of world vectors (x, y, z, 3) in direction-encoded colors, with brightness `strength` (x, y, z)."""
    return with_directions(view, directions_without_legend(view, cut, vectors, strength, brightest))


def directions_without_legend(
    view: View, cut: Cut, vectors: NDArray[Any], strength: NDArray[Any], brightest: float
) -> Panel:
    """The same without the legend of the colors."""
    return panel(view, cut, direction_colors(view.cut(vectors, cut), view.cut(strength, cut) / brightest))


def with_directions(view: View, one: Panel) -> Panel:
    """A panel with the legend of direction-encoded colors: the names of the axes, and a disk of all directions."""
    return replace(one, legend=DIRECTIONS, overlay=partial(direction_disk, view=view, plane=one.plane))


def direction_disk(axes: Axes, view: View, plane: Plane) -> None:
    """Draw a half sphere of directions in their colors in the upper right corner, with the slice's own axes.

    A direction has the color at its place, which does not depend on color vision: in an axial slice, left-right is at
    the left and right edge, posterior-anterior at the lower and upper edge, inferior-superior in the middle.
    """
    place = np.linspace(-1, 1, _DISK)
    across, up = np.meshgrid(place, place)
    through = np.sqrt(np.clip(1 - across**2 - up**2, 0, 1))
    along = np.zeros((_DISK, _DISK, 3))
    along[..., plane.across], along[..., plane.up], along[..., plane.through] = across, up, through
    colors = direction_colors(along @ np.linalg.inv(view.world_to_axes).T, np.ones((_DISK, _DISK)))
    opacity = (across**2 + up**2 <= 1).astype(np.float32)
    width, height = view.extent(plane)
    size = _DISK_SIZE * min(width, height)
    right, top = width - 0.1 * size, height - 0.1 * size
    axes.imshow(
        np.concatenate([colors, opacity[..., None]], axis=-1),
        origin="lower",
        extent=(right - size, right, top - size, top),
        aspect="auto",
        interpolation="nearest",
    )


def outlined_panel(
    view: View, cut: Cut, image: NDArray[Any], mask: NDArray[Any], scale: Scale, **options: Any
) -> Panel:
    """A slice of a scalar image (x, y, z) with the outline of a mask on the same grid."""
    inside = view.cut(mask, cut)
    overlay = partial(outline, inside=inside, extent=view.extent(cut.plane))
    return map_panel(view, cut, image, scale, overlay=overlay, **options)


def table(view: View, columns: Mapping[str, Callable[[Cut], Panel]]) -> list[Slices]:
    """One row for each central slice and one column for each map, with its caption above the first row."""
    rows = []
    for number, cut in enumerate(view.cuts()):
        panels = [draw(cut) for draw in columns.values()]
        captions = list(columns) if number == 0 else [""] * len(columns)
        rows.append(Slices([replace(one, caption=caption) for one, caption in zip(panels, captions, strict=True)]))
    return rows


def captioned(caption: str, panels: list[Panel], legend: Legend = ()) -> Slices:
    """A row of panels with one caption and at most one color bar."""
    panels = [replace(one, caption=caption if one is panels[0] else "", bar=one is panels[-1]) for one in panels]
    return Slices(panels, legend)


def mosaic(caption: str, panels: list[Panel]) -> Slices:
    """A row of many small panels with one caption and without color bars."""
    return Slices([replace(one, caption=caption if one is panels[0] else "", bar=False) for one in panels])


def outline(axes: Axes, inside: NDArray[Any], extent: tuple[float, float]) -> None:
    """Draw the border of a mask (rows, columns) of size `extent` in mm, along the edges of its voxels."""
    from matplotlib.collections import LineCollection

    step = np.array(extent) / inside.shape[::-1]
    padded = np.pad(inside.astype(bool), 1)
    row, column = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    vertical = np.stack([np.stack([column, row], axis=1), np.stack([column, row + 1], axis=1)], axis=1)
    row, column = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    horizontal = np.stack([np.stack([column, row], axis=1), np.stack([column + 1, row], axis=1)], axis=1)
    edges = list(np.concatenate([vertical, horizontal]) * step)
    bold = axes.get_window_extent().width >= _LARGE
    axes.add_collection(LineCollection(edges, colors=[WARNING], linewidths=1.6 if bold else 1.0, capstyle="projecting"))


def signal_scale(view: View, image: NDArray[Any]) -> Scale:
    """A gray scale from zero to the brightest voxels of a signal image (x, y, z)."""
    return Scale("gray", 0, bright(view.cropped(image)), SIGNAL_UNIT)


def bright(values: NDArray[Any]) -> float:
    """The 99.5th percentile of the positive values, robust against outliers; 1 if there are none."""
    positive = values[values > 0]
    return float(np.percentile(positive, 99.5)) if positive.size else 1.0


def on_grid(value: object, grid: Volume) -> Volume | None:
    """An input as an image on the grid of `grid`; None if it is missing, not applicable or on another grid."""
    return value if isinstance(value, Volume) and value.same_grid(grid) else None


def inside_brain(inputs: Mapping[str, object], grid: Volume, otherwise: NDArray[Any]) -> NDArray[np.bool_]:
    """The brain mask (x, y, z) among the inputs; without one, the voxels where `otherwise` is positive."""
    mask = on_grid(inputs.get("brain_mask"), grid)
    inside: NDArray[np.bool_] = (otherwise if mask is None else mask.array) > 0
    return inside
