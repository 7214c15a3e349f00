"""The layout of a figure: a title over rows of slices and plots, all lengths in pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kwneuro_assets.figures.page import Box, Page
from kwneuro_assets.figures.panels import Legend, Panel, draw_panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 1200

_MARGIN = 14
_GAP = 8
_TITLE_HEIGHT = 52
_CAPTION_HEIGHT = 42
_CAPTION_SIZE = 15
_LEGEND_WIDTH = 122
_LEGEND_STEP = 26
_MIN_WIDTH = 760  # room for a title
_TALLEST_ROW = 480


class Row(Protocol):
    """A row of a figure: its size, and how to draw it."""

    def size(self) -> tuple[float, float]: ...

    def draw(self, page: Page, top: float) -> None: ...


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
            draw_panel(page, panel, Box(left, top + self._caption_height(), width, height))
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


@dataclass(frozen=True, eq=False)
class FigureLayout:
    """A drawn figure, and the height in pixels of its upper part, which the thumbnail shows."""

    figure: Figure
    thumbnail_height: int


def draw_layout(title: str, rows: Sequence[Row], thumbnail_rows: int = 1) -> FigureLayout:
    """A title over rows, as wide as the widest row and at most WIDTH pixels; the thumbnail shows the first rows."""
    sizes = [row.size() for row in rows]
    width = max(_MIN_WIDTH, *(round(size[0]) + 2 * _MARGIN for size in sizes))
    page = Page(width, round(_TITLE_HEIGHT + sum(size[1] for size in sizes) + _MARGIN))
    page.text(_MARGIN, _TITLE_HEIGHT / 2 + 4, title, size=21, room=width - 2 * _MARGIN, fontweight="bold")
    top = float(_TITLE_HEIGHT)
    for row, (_, height) in zip(rows, sizes, strict=True):
        row.draw(page, top)
        top += height
    shown = sum(height for _, height in sizes[:thumbnail_rows])
    return FigureLayout(page.figure, round(_TITLE_HEIGHT + shown + _GAP))
