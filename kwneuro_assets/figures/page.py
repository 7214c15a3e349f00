"""A page of a figure: a matplotlib figure with coordinates in pixels.

Uses matplotlib's objects without pyplot: no global state, no window, no leak in a long-lived process.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from kwneuro_assets.figures.colors import Color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
BACKGROUND = "#101418"
TEXT = "#e8ecf0"
DIM = "#9aa4ae"
FONT = "DejaVu Sans"  # ships with matplotlib, so it is the same everywhere

_LETTER_WIDTH = 0.68  # of a wide text in bold, as a fraction of its size


class Box(NamedTuple):
    """A rectangle on the page, in pixels from its upper left corner."""

    left: float
    top: float
    width: float
    height: float


class Page:
    """A matplotlib figure with coordinates in pixels from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure: Figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
        FigureCanvasAgg(self.figure)

    def axes(self, box: Box, **options: Any) -> Axes:
        """Axes with light ticks and labels on the dark background."""
        axes = self.area(box, **options)
        axes.tick_params(colors=TEXT, labelsize=12, labelfontfamily=FONT)
        for spine in axes.spines.values():
            spine.set_color(DIM)
        return axes

    def area(self, box: Box, **options: Any) -> Axes:
        """Axes in matplotlib's own style, for what has no ticks: styling them takes as long as drawing an image."""
        bottom = self.height - box.top - box.height
        rectangle = (box.left / self.width, bottom / self.height, box.width / self.width, box.height / self.height)
        axes: Axes = self.figure.add_axes(rectangle, facecolor=BACKGROUND, **options)
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
        place = {"x": x / self.width, "y": 1 - y / self.height, "va": "center", "fontfamily": FONT, "parse_math": False}
        self.figure.text(s=text, fontsize=size, color=color, **{**place, **options})
