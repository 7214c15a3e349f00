"""A panel of a figure: one slice, with letters of its directions, legend and color bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.figures.colors import Color
from kwneuro_assets.figures.page import DIM, FONT, TEXT, Box, Page
from kwneuro_assets.figures.view import Plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAR_WIDTH = 92  # pixels, with tick labels and unit
_LETTER_SIZE = 14  # of L, R, A, P, S and I in points
_SMALLEST_LETTER = 9
_LETTER_FRACTION = 0.06  # of the shorter side of a small panel in pixels
_LEGEND_SIZE = 12
_LEGEND_LINE = 1.83  # pixels from one line of a legend to the next, per point of its size
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))


class Scale(NamedTuple):
    """A color scale: a matplotlib color map, limits and unit.

    `colors` is the name of a color map, or a list with one color for each integer from `low`, named by `labels`.
    """

    colors: str | Sequence[Color]
    low: float
    high: float
    unit: str
    labels: tuple[str, ...] = ()


Legend = Sequence[tuple[str, Color]]


@dataclass(frozen=True, eq=False)
class Panel:
    """One slice: (rows, columns) on a scale or (rows, columns, 3) colors, row 0 the lowest, `extent` in mm.

    `caption` is above the image, a color bar of `scale` to its right, `legend` in its upper left corner and `note` in
    its lower left corner. `overlay` draws on top, in mm from the lower left corner. `frame` is the size in mm that the
    panel occupies in its row, if that is not `extent`: a close-up occupies the size of the entire slice.
    """

    plane: Plane
    image: NDArray[Any]
    extent: tuple[float, float]
    caption: str = ""
    scale: Scale | None = None
    bar: bool = True
    legend: Legend = ()
    note: str = ""
    overlay: Callable[[Axes], None] | None = None
    frame: tuple[float, float] | None = None

    @property
    def place(self) -> tuple[float, float]:
        """Width and height in mm that the panel occupies in its row."""
        return self.frame or self.extent

    @property
    def beside(self) -> int:
        """Width of the color bar in pixels."""
        return _BAR_WIDTH if self.scale and self.bar else 0


def draw_panel(page: Page, panel: Panel, place: Box) -> None:
    """Draw a panel into a place on the page, in true proportions."""
    width, height = panel.extent
    zoom = min(place.width / width, place.height / height)
    left, top = place.left + (place.width - width * zoom) / 2, place.top + (place.height - height * zoom) / 2
    axes = page.area(Box(left, top, width * zoom, height * zoom))
    colors: dict[str, Any] = {}
    if panel.scale:
        colors = {"cmap": _color_map(panel.scale), "vmin": panel.scale.low, "vmax": panel.scale.high}
    shown = (0.0, width, 0.0, height)
    axes.imshow(panel.image, origin="lower", extent=shown, aspect="auto", interpolation="nearest", **colors)
    if panel.overlay:
        panel.overlay(axes)
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(0, height))
    _draw_letters(axes, panel, width * zoom, height * zoom)
    if panel.scale and panel.beside:
        bar = Box(place.left + place.width + 6, place.top + 0.05 * place.height, 15, 0.9 * place.height)
        _draw_bar(page.axes(bar), panel.scale)


def _draw_letters(axes: Axes, panel: Panel, width: float, height: float) -> None:
    """The letters of the anatomical directions, the legend and the note of a panel of this size in pixels."""
    size = min(_LETTER_SIZE, max(_SMALLEST_LETTER, _LETTER_FRACTION * min(width, height)))
    (start, end), (low, high) = _ENDS[panel.plane.across], _ENDS[panel.plane.up]
    _letters(axes, start, 0.012, 0.5, size, ha="left", va="center")
    _letters(axes, end, 0.988, 0.5, size, ha="right", va="center")
    _letters(axes, low, 0.5, 0.012, size, ha="center", va="bottom")
    _letters(axes, high, 0.5, 0.988, size, ha="center", va="top")
    small = _LEGEND_SIZE * size / _LETTER_SIZE
    for line, (name, color) in enumerate(panel.legend):
        y = 0.99 - line * _LEGEND_LINE * small / height
        _letters(axes, name, 0.012, y, small, ha="left", va="top", color=color)
    if panel.note:
        _letters(axes, panel.note, 0.012, 0.012, small, ha="left", va="bottom", color=DIM)


def _letters(axes: Axes, text: str, x: float, y: float, size: float, color: Any = TEXT, **options: Any) -> None:
    """Light letters with a dark outline, legible on any background."""
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=3, foreground="black")]
    style = {"fontsize": size, "fontfamily": FONT, "fontweight": "bold", "color": color, "path_effects": rim}
    axes.text(x, y, text, transform=axes.transAxes, **style, **options)


def _color_map(scale: Scale) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return colormaps[scale.colors] if isinstance(scale.colors, str) else ListedColormap(list(scale.colors))


def _draw_bar(axes: Axes, scale: Scale) -> None:
    from matplotlib.ticker import MaxNLocator

    steps = 256 if isinstance(scale.colors, str) else len(scale.colors)
    ramp = np.linspace(scale.low, scale.high, steps)[:, None]
    axes.imshow(ramp, cmap=_color_map(scale), origin="lower", extent=(0, 1, scale.low, scale.high), aspect="auto")
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    axes.set_ylabel(scale.unit, color=TEXT, fontsize=13, fontfamily=FONT)
    axes.yaxis.set_label_position("right")
    if scale.labels:
        width = (scale.high - scale.low) / len(scale.labels)
        axes.set_yticks([scale.low + (index + 0.5) * width for index in range(len(scale.labels))], scale.labels)
