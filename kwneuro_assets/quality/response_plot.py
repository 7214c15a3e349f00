"""The response function as a curve around the fibre, and its coefficients as bars."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from kwneuro_assets.imaging import ResponseFunction
from kwneuro_assets.quality.sheet import BACKGROUND, DIM, TEXT, Box, Page, Plot
from kwneuro_assets.quality.summaries import response_signal

_SIGNAL = "#4cc3ff"
_NEGATIVE = "#ff5a36"


def response_plot(response: ResponseFunction) -> Plot:
    """The row of both."""
    origin = f"{response.voxels} voxels" if response.voxels else "a file"
    caption = f"One fibre, b = {response.bvalue:.0f} s/mm², order {response.order}, from {origin}"
    return Plot(caption, 500, partial(_draw, response))


def _draw(response: ResponseFunction, page: Page, box: Box) -> None:
    half = box.width / 2
    _profile(response, page, Box(box.left + 30, box.top + 70, half - 60, box.height - 110))
    _coefficients(response, page, Box(box.left + half + 70, box.top + 70, half - 90, box.height - 120))


def _profile(response: ResponseFunction, page: Page, box: Box) -> None:
    from matplotlib.ticker import MaxNLocator

    angle = np.linspace(0, 2 * np.pi, 721)
    signal = response_signal(response, np.cos(angle))
    axes: Any = page.axes(box, polar=True, theta_offset=np.pi / 2, theta_direction=-1)
    axes.plot([0, 0], [0, np.abs(signal).max()], color=DIM, linewidth=5, alpha=0.6)
    axes.plot([np.pi, np.pi], [0, np.abs(signal).max()], color=DIM, linewidth=5, alpha=0.6)
    axes.plot(angle, np.abs(signal), color=_SIGNAL, linewidth=2.5)
    # The solver's kernel has no sign: a signal below zero is drawn inside out and in the colour of an alarm.
    axes.plot(angle, np.where(signal < 0, -signal, np.nan), color=_NEGATIVE, linewidth=2.5)
    axes.fill(angle, np.abs(signal), color=_SIGNAL, alpha=0.25)
    # The profile is a solid of revolution, the same up and down: every angle is one of 0 to 90 degrees.
    axes.set_thetagrids(range(0, 360, 45), [f"{angle}°" for angle in (0, 45, 90, 45) * 2])
    axes.set_rlim(0, 1.08 * np.abs(signal).max())
    axes.set_rlabel_position(22)
    axes.grid(color=DIM, alpha=0.4)
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    page.text(box.left - 30, box.top - 52, "Signal (a.u.) over the angle to the fibre, which stands upright", size=13)


def _coefficients(response: ResponseFunction, page: Page, box: Box) -> None:
    axes = page.axes(box)
    degrees = 2 * np.arange(response.coefficients.size)
    bars = axes.bar(degrees, response.coefficients, color=_SIGNAL, width=1.2)
    axes.bar_label(bars, fmt="%.4g", color=TEXT, fontsize=13, padding=3)
    axes.axhline(0, color=DIM, linewidth=1)
    axes.set_xticks(degrees, [f"l = {degree}" for degree in degrees])
    axes.margins(y=0.12)
    axes.set_facecolor(BACKGROUND)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    page.text(box.left - 40, box.top - 52, "Zonal harmonic coefficients (signal, a.u.)", size=13)
