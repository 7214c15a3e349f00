"""Plots of response functions: the signal around the fiber, and coefficients or mean signals beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.group_response import Response
from kwneuro_assets.derivations.harmonics import zonal_harmonics
from kwneuro_assets.derivations.tissue_responses import MEAN_TO_L0
from kwneuro_assets.figures.colors import WARNING
from kwneuro_assets.figures.group import Members
from kwneuro_assets.figures.layout import Plot
from kwneuro_assets.figures.page import BACKGROUND, DIM, TEXT, Box, Page
from kwneuro_assets.figures.tissues import TISSUES
from kwneuro_assets.imaging import ResponseFunction, TissueResponses

MAX_THIN = 200  # more curves are not distinguishable

_HEIGHT = 500
_NOTE_HEIGHT = 24
_SIGNAL = "#4cc3ff"
_SHELLS = "viridis"
_DARKEST = 0.5  # of that color map: darker lines are not visible on the background
_NAMED = 8  # shells: there is no room for more in the caption and beside the profile
_CLOSEST = 0.11  # fraction of the axis: closer b-values are not both labeled
_BAR = 1.2  # width; degrees are 2 apart
_BOLD = 2.5  # line width in pixels

Floats = NDArray[np.float64]


def response_plot(response: Response, group: Members | None = None) -> Plot:
    """The signal profile of the fiber, and zonal coefficients (one tissue) or the mean signal of each tissue and shell.

    For a group response, thin lines beneath show the responses of the subjects, at most MAX_THIN of them.
    """
    members = group.responses if group else ()
    thin = [members[index] for index in _evenly(len(members), MAX_THIN)]
    note = _note(group, len(thin)) if group and thin else ""
    return Plot(_caption(response), _HEIGHT + (_NOTE_HEIGHT if note else 0), partial(_draw, response, thin, note))


def _caption(response: Response) -> str:
    values = [f"{bvalue:.0f}" for bvalue in response.bvalues]
    shells = f"b = {', '.join(values)}" if len(values) <= _NAMED else f"{len(values)} b-values from 0 to {values[-1]}"
    what = f"{shells} s/mm², order {response.order}, from"
    if isinstance(response, ResponseFunction):
        return f"WM response, {what} {f'{response.voxels} voxels' if response.voxels else 'a file'}"
    white, gray, csf = response.wm_voxels, response.gm_voxels, response.csf_voxels
    origin = f"{white} WM, {gray} GM and {csf} CSF voxels" if white or gray or csf else "files"
    return f"Three tissues, {what} {origin}"


def _note(group: Members, drawn: int) -> str:
    count = len(group.responses)
    which = "each subject" if drawn == count else f"{drawn} of them"
    others = {"left out": group.left_out, "not applicable": group.not_applicable}
    without = ", ".join(f"{number} {why}" for why, number in others.items() if number)
    subjects = f"{count} subject{'s' if count > 1 else ''}"
    return f"Mean of {subjects}; thin lines: {which}, scaled to the mean{f' ({without})' if without else ''}"


def _evenly(count: int, limit: int) -> list[int]:
    """The numbers below `count`, or `limit` evenly spaced ones from the first to the last."""
    chosen: list[int] = np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int)).tolist()
    return chosen


def _draw(response: Response, members: Sequence[Response], note: str, page: Page, box: Box) -> None:
    if note:
        page.text(box.left, box.top + 4, note, size=13, color=DIM, room=box.width)
        box = Box(box.left, box.top + _NOTE_HEIGHT, box.width, box.height - _NOTE_HEIGHT)
    half = box.width / 2
    _profiles(response, members, page, Box(box.left + 30, box.top + 70, half - 60, box.height - 110))
    beside = _levels if isinstance(response, TissueResponses) else _coefficients
    beside(response, members, page, Box(box.left + half + 70, box.top + 70, half - 90, box.height - 120))


def _profiles(response: Response, members: Sequence[Response], page: Page, box: Box) -> None:
    from matplotlib.ticker import MaxNLocator

    angle = np.linspace(0, 2 * np.pi, 721)
    shells = _signals(response, angle)
    beneath = np.array([_signals(member, angle) for member in members]).reshape(-1, *shells.shape)
    highest = max(float(np.abs(signals).max()) for signals in (shells, beneath) if signals.size)
    colors = _shell_colors(response)
    axes: Any = page.axes(box, polar=True, theta_offset=np.pi / 2, theta_direction=-1)
    for pole in (0, np.pi):
        axes.plot([pole, pole], [0, highest], color=DIM, linewidth=5, alpha=0.6)
    for shell, color in enumerate(colors):
        axes.plot(angle, np.abs(beneath[:, shell].T), color=color, **_thin_style(members))
    for signal, color in zip(shells, colors, strict=True):
        axes.plot(
            angle, np.abs(signal), color=color, linewidth=_BOLD, path_effects=_dark_outline() if members else None
        )
        # A radius has no sign: a negative signal is drawn with its absolute value, in the warning color.
        axes.plot(angle, np.where(signal < 0, -signal, np.nan), color=WARNING, linewidth=_BOLD)
        axes.fill(angle, np.abs(signal), color=color, alpha=0.25 / len(colors))
    # The profile is axially symmetric and antipodally symmetric: labels are angles of 0 to 90 degrees.
    axes.set_thetagrids(range(0, 360, 45), [f"{angle}°" for angle in (0, 45, 90, 45) * 2])
    axes.set_rlim(0, 1.08 * highest)
    axes.grid(color=DIM, alpha=0.4)
    axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    # matplotlib would draw tick labels beneath the curves.
    for tick in axes.get_yticks():
        if 0 < tick <= axes.get_rmax():
            axes.text(
                np.radians(22), tick, f"{tick:g}", color=TEXT, fontsize=12, va="center", path_effects=_dark_outline()
            )
    axes.set_yticklabels([])
    heading = "Signal (a.u.) against the angle to the fiber (vertical)"
    if isinstance(response, TissueResponses):
        heading = "WM signal (a.u.) against the angle to the fiber (vertical)"
        for line, shell in enumerate(_evenly(len(colors), _NAMED)):
            name, right, y = f"b = {response.bvalues[1 + shell]:.0f}", box.left + box.width + 20, box.top + 22 * line
            page.text(right, y, name, size=13, color=colors[shell], ha="right")
    page.text(box.left - 30, box.top - 52, heading, size=13)


def _signals(response: Response, angle: Floats) -> Floats:
    """The signal (shells besides b=0, n) at angles (n,) to the fiber, in radians."""
    return np.einsum("sl,nl->sn", _fiber(response), zonal_harmonics(response.order, np.cos(angle)))


def _shell_colors(response: Response) -> list[str]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if isinstance(response, ResponseFunction):
        return [_SIGNAL]
    return [to_hex(colormaps[_SHELLS](place)) for place in np.linspace(_DARKEST, 1, response.bvalues.size - 1)]


def _levels(response: Response, members: Sequence[Response], page: Page, box: Box) -> None:
    """The mean signal of the three tissues against the b-value; on the log scale, a Gaussian signal is a line."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes = page.axes(box)
    thin = _thin_style(members)
    bold = {"linewidth": _BOLD, "marker": "o", "markersize": 7, "path_effects": _dark_outline() if members else None}
    for one, style in (*((member, thin) for member in members), (response, bold)):
        for signal, tissue in zip(one.mean_signals.reshape(len(TISSUES), -1) / MEAN_TO_L0, TISSUES, strict=True):
            axes.plot(one.bvalues, signal, color=tissue.color, **style)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda signal, _: f"{signal:g}")
    labeled = _apart(list(response.bvalues))
    axes.set_xticks(labeled, [f"{bvalue:.0f}" for bvalue in labeled])
    axes.grid(axis="y", color=DIM, alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    page.text(box.left - 40, box.top - 52, "Mean signal (a.u., log scale) against the b-value (s/mm²)", size=13)
    for place, tissue in enumerate(TISSUES):
        page.text(box.left + box.width * place / len(TISSUES), box.top - 24, tissue.name, size=13, color=tissue.color)


def _apart(bvalues: Sequence[float]) -> list[float]:
    """The b-values with room for their labels, from the highest down."""
    chosen: list[float] = []
    for bvalue in reversed(bvalues):
        if not chosen or chosen[-1] - bvalue > _CLOSEST * bvalues[-1]:
            chosen.append(bvalue)
    return chosen


def _coefficients(response: Response, members: Sequence[Response], page: Page, box: Box) -> None:
    axes = page.axes(box)
    coefficients = _fiber(response)[0]
    degrees = 2 * np.arange(coefficients.size)
    bars = axes.bar(degrees, coefficients, color=_SIGNAL, width=_BAR)
    axes.bar_label(bars, fmt="%.4g", color=TEXT, fontsize=12, padding=3)
    # Beside the bar, where the bar and its label do not hide them.
    edge = degrees + _BAR / 2
    for member in members:
        own = _fiber(member)[0, : edge.size]
        axes.hlines(own, edge[: own.size] + 0.22, edge[: own.size] + 0.4, color=_SIGNAL, **_thin_style(members))
    axes.axhline(0, color=DIM, linewidth=1)
    axes.set_xticks(degrees, [f"l = {degree}" for degree in degrees])
    axes.margins(y=0.12)
    axes.set_facecolor(BACKGROUND)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    page.text(box.left - 40, box.top - 52, "Zonal harmonic coefficients (signal, a.u.)", size=13)


def _fiber(response: Response) -> Floats:
    """The zonal coefficients (shells besides b=0, order / 2 + 1)."""
    return response.wm[1:] if isinstance(response, TissueResponses) else response.coefficients[None]


def _thin_style(members: Sequence[Response]) -> dict[str, Any]:
    """The style of the thin curves: the more there are, the more transparent."""
    return {"linewidth": 0.8, "alpha": min(0.4, max(0.05, 6 / max(1, len(members))))}


def _dark_outline() -> list[Any]:
    """A dark outline for curves and labels on top of others."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=_BOLD + 2, foreground=BACKGROUND)]
