"""A close-up of peaks as line segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.figures.colors import direction_colors
from kwneuro_assets.figures.panels import Panel
from kwneuro_assets.figures.rows import bright
from kwneuro_assets.figures.view import Cut, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGER_SIDE = 24  # voxels; with more, segments are too short to see their angle
_LENGTH = 1.1  # of the segment of the highest peak, in voxels


def close_up(view: View, cut: Cut, peaks: NDArray[Any], amplitudes: NDArray[Any]) -> Panel:
    """The part of a slice with the highest second peaks; a segment's length is the peak's amplitude.

    `peaks` (x, y, z, 3n) are in the world frame, `amplitudes` are (x, y, z, n). Segments are projected onto the slice:
    a peak perpendicular to it is a dot.
    """
    amplitude = view.cut(amplitudes, cut)
    window = _busiest_window(amplitude[..., min(1, amplitude.shape[2] - 1)])
    amplitude = amplitude[window]
    vectors = view.cut(peaks, cut)[window]
    vectors = vectors.reshape(*vectors.shape[:2], -1, 3)
    across, up = view.voxel_size[cut.plane.across], view.voxel_size[cut.plane.up]
    rows, columns = amplitude.shape[:2]
    light = bright(amplitude)

    def segments(axes: Axes) -> None:
        from matplotlib.collections import LineCollection

        row, column, which = np.nonzero(amplitude)
        vector = vectors[row, column, which]
        unit = vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        height = np.minimum(amplitude[row, column, which] / light, 1)
        flat = (unit @ view.world_to_axes.T)[:, [cut.plane.across, cut.plane.up]]
        half = flat * (0.5 * _LENGTH * min(across, up) * height)[:, None]
        middle = np.stack([(column + 0.5) * across, (row + 0.5) * up], axis=1)
        colors = direction_colors(unit, np.ones(len(unit)))
        # Full brightness in the strongest component: oblique directions are as visible as axes.
        colors = colors / np.maximum(colors.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        lines = np.stack([middle - half, middle + half], axis=1)
        axes.add_collection(LineCollection(list(lines), colors=colors, linewidths=2.2, capstyle="round"))

    under = np.repeat(np.clip(amplitude[..., :1] / light, 0, 1) * 0.3, 3, axis=2)
    extent = (columns * across, rows * up)
    return Panel(cut.plane, under, extent, overlay=segments, frame=view.extent(cut.plane))


def _busiest_window(seconds: NDArray[Any]) -> tuple[slice, slice]:
    """The window of a slice (rows, columns) with the largest sum of second peaks."""
    height, width = (max(1, round(size * min(1, _LONGER_SIDE / max(seconds.shape)))) for size in seconds.shape)
    corner = np.pad(seconds.cumsum(axis=0, dtype=np.float64).cumsum(axis=1), ((1, 0), (1, 0)))
    sums = corner[height:, width:] - corner[:-height, width:] - corner[height:, :-width] + corner[:-height, :-width]
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    return slice(row, row + height), slice(column, column + width)
