"""The layout of a figure: a title over rows of slices and plots, all lengths in pixels.

Uses matplotlib's objects without pyplot: no global state, no window, no leak in a long-lived process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.figures.colors import Color
from kwneuro_assets.figures.view import Plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 1200
DPI = 100
BACKGROUND = "#101418"
TEXT = "#e8ecf0"
DIM = "#9aa4ae"

_MARGIN = 14
_GAP = 8
_TITLE_HEIGHT = 52
_CAPTION_HEIGHT = 42
_CAPTION_SIZE = 15
_BAR_WIDTH = 92  # with tick labels and unit
_LEGEND_WIDTH = 122
_LEGEND_STEP = 26
_MIN_WIDTH = 760  # room for a title
_LETTER_WIDTH = 0.68  # of a wide text in bold, as a fraction of its size
_TALLEST_ROW = 480
_FONT = "DejaVu Sans"  # ships with matplotlib, so it is the same everywhere
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


class Box(NamedTuple):
    """A rectangle on the page, in pixels from its upper left corner."""

    left: float
    top: float
    width: float
    height: float


class Row(Protocol):
    """A row of a figure: its size, and how to draw it."""

    def size(self) -> tuple[float, float]: ...

    def draw(self, page: Page, top: float) -> None: ...


Legend = Sequence[tuple[str, Color]]


@dataclass(frozen=True, eq=False)
class Panel:
    """One slice: (rows, columns) on a scale or (rows, columns, 3) colors, row 0 the lowest, `extent` in mm.

    `caption` is above the image, a color bar of `scale` to its right, `legend` in its upper left corner. `overlay`
    draws on top, in mm from the lower left corner. `frame` is the size in mm that the panel occupies in its row, if
    that is not `extent`: a close-up occupies the size of the entire slice.
    """

    plane: Plane
    image: NDArray[Any]
    extent: tuple[float, float]
    caption: str = ""
    scale: Scale | None = None
    bar: bool = True
    legend: Legend = ()
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


@dataclass(frozen=True, eq=False)
class Slices:
    """A row of panels with the same pixels per mm, and a common legend at the right."""

    panels: Sequence[Panel]
    legend: Legend = ()

    def size(self) -> tuple[float, float]:
        zoom = self._pixels_per_mm()
        height = max(self._height() * zoom, _LEGEND_STEP * len(self.legend))
        return self._width() * zoom + self._beside(), height + self._caption_height()

    def draw(self, page: Page, top: float) -> None:
        zoom = self._pixels_per_mm()
        height = self.size()[1] - self._caption_height()
        left = float(_MARGIN)
        for panel in self.panels:
            width = panel.place[0] * zoom
            single = sum(bool(one.caption) for one in self.panels) == 1
            room = page.width - 2 * _MARGIN if single else width + panel.beside
            page.text(left, top + 0.55 * _CAPTION_HEIGHT, panel.caption, size=_CAPTION_SIZE, room=room)
            _draw_panel(page, panel, Box(left, top + self._caption_height(), width, height))
            left += width + panel.beside + _GAP
        for index, (name, color) in enumerate(self.legend):
            y = top + self._caption_height() + _LEGEND_STEP * (index + 0.5)
            page.text(left + 6, y, name, size=14, color=color)

    def _pixels_per_mm(self) -> float:
        free = WIDTH - 2 * _MARGIN - self._beside()
        return min(free / self._width(), _TALLEST_ROW / self._height())

    def _width(self) -> float:
        return sum(panel.place[0] for panel in self.panels)

    def _height(self) -> float:
        return max(panel.place[1] for panel in self.panels)

    def _beside(self) -> float:
        bars = sum(panel.beside for panel in self.panels)
        return bars + _GAP * (len(self.panels) - 1) + (_LEGEND_WIDTH if self.legend else 0)

    def _caption_height(self) -> int:
        return _CAPTION_HEIGHT if any(panel.caption for panel in self.panels) else _GAP


@dataclass(frozen=True, eq=False)
class Plot:
    """A row with a plot, `height` pixels high, that `content` draws into a box."""

    caption: str
    height: float
    content: Callable[[Page, Box], None]

    def size(self) -> tuple[float, float]:
        return WIDTH - 2 * _MARGIN, self.height + _CAPTION_HEIGHT

    def draw(self, page: Page, top: float) -> None:
        page.text(
            _MARGIN, top + 0.55 * _CAPTION_HEIGHT, self.caption, size=_CAPTION_SIZE, room=page.width - 2 * _MARGIN
        )
        self.content(page, Box(_MARGIN, top + _CAPTION_HEIGHT, page.width - 2 * _MARGIN, self.height))


class Page:
    """A matplotlib figure with coordinates in pixels from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure: Figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
        FigureCanvasAgg(self.figure)

    def axes(self, box: Box, **options: Any) -> Axes:
        bottom = self.height - box.top - box.height
        rectangle = (box.left / self.width, bottom / self.height, box.width / self.width, box.height / self.height)
        axes: Axes = self.figure.add_axes(rectangle, facecolor=BACKGROUND, **options)
        axes.tick_params(colors=TEXT, labelsize=12, labelfontfamily=_FONT)
        for spine in axes.spines.values():
            spine.set_color(DIM)
        return axes

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        color: str | Color = TEXT,
        room: float = math.inf,
        **options: Any,
    ) -> None:
        """Draw text of `size` points, or smaller if it would be wider than `room` pixels."""
        size = min(size, room / (_LETTER_WIDTH * max(1, len(text)) * DPI / 72))
        place = {"x": x / self.width, "y": 1 - y / self.height, "va": "center", "fontfamily": _FONT}
        self.figure.text(s=text, fontsize=size, color=color, **{**place, **options})


@dataclass(frozen=True, eq=False)
class FigureLayout:
    """A drawn figure, and the height in pixels of its title and first row."""

    figure: Figure
    first_row: int


def draw_layout(title: str, rows: Sequence[Row]) -> FigureLayout:
    """A title over rows, as wide as the widest row and at most WIDTH pixels."""
    sizes = [row.size() for row in rows]
    width = max(_MIN_WIDTH, *(round(size[0]) + 2 * _MARGIN for size in sizes))
    page = Page(width, round(_TITLE_HEIGHT + sum(size[1] for size in sizes) + _MARGIN))
    page.text(_MARGIN, _TITLE_HEIGHT / 2 + 4, title, size=21, room=width - 2 * _MARGIN, fontweight="bold")
    top = float(_TITLE_HEIGHT)
    for row, (_, height) in zip(rows, sizes, strict=True):
        row.draw(page, top)
        top += height
    return FigureLayout(page.figure, round(_TITLE_HEIGHT + sizes[0][1] + _GAP))


def _draw_panel(page: Page, panel: Panel, place: Box) -> None:
    width, height = panel.extent
    zoom = min(place.width / width, place.height / height)
    left, top = place.left + (place.width - width * zoom) / 2, place.top + (place.height - height * zoom) / 2
    axes = page.axes(Box(left, top, width * zoom, height * zoom))
    colors: dict[str, Any] = {}
    if panel.scale:
        colors = {"cmap": _color_map(panel.scale), "vmin": panel.scale.low, "vmax": panel.scale.high}
    shown = (0.0, width, 0.0, height)
    axes.imshow(panel.image, origin="lower", extent=shown, aspect="auto", interpolation="nearest", **colors)
    if panel.overlay:
        panel.overlay(axes)
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(0, height))
    (start, end), (low, high) = _ENDS[panel.plane.across], _ENDS[panel.plane.up]
    _letters(axes, start, 0.012, 0.5, ha="left", va="center")
    _letters(axes, end, 0.988, 0.5, ha="right", va="center")
    _letters(axes, low, 0.5, 0.012, ha="center", va="bottom")
    _letters(axes, high, 0.5, 0.988, ha="center", va="top")
    for line, (name, color) in enumerate(panel.legend):
        _letters(axes, name, 0.012, 0.99 - line * 22 / (height * zoom), ha="left", va="top", size=12, color=color)
    if panel.scale and panel.beside:
        bar = Box(place.left + place.width + 6, place.top + 0.05 * place.height, 15, 0.9 * place.height)
        _draw_bar(page.axes(bar), panel.scale)


def _letters(axes: Axes, text: str, x: float, y: float, size: float = 14, color: Any = TEXT, **options: Any) -> None:
    """Light letters with a dark outline, legible on any background."""
    from matplotlib.patheffects import withStroke

    rim = [withStroke(linewidth=3, foreground="black")]
    style = {"fontsize": size, "fontfamily": _FONT, "fontweight": "bold", "color": color, "path_effects": rim}
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
    axes.set_ylabel(scale.unit, color=TEXT, fontsize=13, fontfamily=_FONT)
    axes.yaxis.set_label_position("right")
    if scale.labels:
        width = (scale.high - scale.low) / len(scale.labels)
        axes.set_yticks([scale.low + (index + 0.5) * width for index in range(len(scale.labels))], scale.labels)
