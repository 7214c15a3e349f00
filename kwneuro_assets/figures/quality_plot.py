"""A row of QC metrics: per-shell values as plots, and the others as numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from kwneuro_assets.figures.layout import Plot
from kwneuro_assets.figures.page import DIM, TEXT, Box, Page
from kwneuro_assets.imaging.table import MISSING, Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHELLS = 280, 170  # width and height of a plot of per-shell values in pixels
_GAP = 28
_HEADING = 20
_AXIS = 44  # room for the labels of an axis
_NUMBER_HEIGHT = 85
_COLUMNS = 4  # of numbers beside plots; without plots, all are in one row
_LABEL = 10  # points
_UNCORRELATED = 0.4  # NDC from which the axis starts, if no value is close to it: few scans are below it
_AGAINST = "against b (s/mm²)"
_RAW = "#e8ecf0"
_DENOISED = "#4cc3ff"


class _Number(NamedTuple):
    """A metric that is shown as a number: its column, a short label and its unit."""

    column: str
    label: str
    unit: str = ""


_NUMBERS = (
    _Number("ndc", "NDC"),
    _Number("snr_b0", "SNR, b = 0"),
    _Number("mask_volume_ml", "Mask volume", "ml"),
    _Number("wm_fa_median", "FA in WM"),
    _Number("dropout_slices", "Dropout slices"),
    _Number("outlier_volumes", "Outlier volumes"),
    _Number("spikes_ppm", "Spikes", "ppm"),
    _Number("bundles_found", "Bundles found"),
)


def metrics_plot(cells: Mapping[str, Cell]) -> Plot:
    """The row of QC metrics (by column): NDC and CNR against the b-value, and up to eight numbers.

    NDC is the neighboring DWI correlation, CNR the contrast-to-noise ratio. Columns that the table does not have are
    left out; a missing value is `n/a`.
    """
    numbers = [number for number in _NUMBERS if number.column in cells]
    ndc, denoised, cnr = (per_shell(cells, metric) for metric in ("ndc", "ndc_denoised", "cnr"))
    plots = [
        *([partial(_draw_correlations, ndc, denoised)] if ndc or denoised else []),
        *([partial(_draw_contrasts, cnr)] if cnr else []),
    ]
    if not numbers and not plots:
        return Plot("No QC metrics", 0, lambda page, box: None)
    columns = _COLUMNS if plots else len(_NUMBERS)
    height = max(_SHELLS[1] * bool(plots), _NUMBER_HEIGHT * math.ceil(len(numbers) / columns))

    def content(page: Page, box: Box) -> None:
        left = box.left
        for draw in plots:
            draw(page, Box(left, box.top, *_SHELLS))
            left += _SHELLS[0] + _GAP
        width = (box.left + box.width - left) / columns
        for index, number in enumerate(numbers):
            row, column = divmod(index, columns)
            place = Box(left + column * width, box.top + row * _NUMBER_HEIGHT, width - 8, _NUMBER_HEIGHT)
            _draw_number(page, place, number, cells[number.column])

    return Plot("QC metrics", height, content)


def per_shell(cells: Mapping[str, Cell], metric: str) -> dict[int, float]:
    """The values of a metric by b-value, ascending, without those that are missing.

    >>> per_shell({"ndc": 0.9, "ndc_b3000": 0.8, "ndc_b1000": 0.95, "ndc_denoised_b1000": 0.97}, "ndc")
    {1000: 0.95, 3000: 0.8}
    """
    found = {int(match[1]): cell for name, cell in cells.items() if (match := re.fullmatch(rf"{metric}_b(\d+)", name))}
    return {shell: float(cell) for shell, cell in sorted(found.items()) if isinstance(cell, int | float)}


def short(cell: Cell) -> str:
    """A number with about three digits, for a figure.

    >>> [short(cell) for cell in (0.91234, 1432.6, 12, None)]
    ['0.912', '1,433', '12', 'n/a']
    """
    if cell is None or isinstance(cell, str):
        return cell or MISSING
    return f"{cell:,.0f}" if isinstance(cell, int) or abs(cell) >= 100 else f"{cell:.3g}"


def _draw_correlations(raw: Mapping[int, float], denoised: Mapping[int, float], page: Page, box: Box) -> None:
    shells = sorted({*raw, *denoised})
    page.text(box.left, box.top + 4, f"NDC {_AGAINST}", size=_LABEL)
    page.text(box.left + 168, box.top + 4, "raw", size=_LABEL, color=_RAW)
    page.text(box.left + 204, box.top + 4, "denoised" if denoised else "", size=_LABEL, color=_DENOISED)
    axes = _shell_axes(page, box, shells)
    place = {shell: index for index, shell in enumerate(shells)}
    for shell in {*raw} & {*denoised}:
        axes.plot([place[shell]] * 2, [raw[shell], denoised[shell]], color=DIM, linewidth=1.5)
    axes.plot([place[shell] for shell in raw], list(raw.values()), "o", color=_RAW, fillstyle="none", markersize=8)
    axes.plot([place[shell] for shell in denoised], list(denoised.values()), "o", color=_DENOISED, markersize=8)
    lowest = min(*raw.values(), *denoised.values(), 1.0)
    axes.set_ylim(_UNCORRELATED if lowest > _UNCORRELATED + 0.1 else min(0.0, lowest) - 0.05, 1.05)


def _draw_contrasts(cnr: Mapping[int, float], page: Page, box: Box) -> None:
    page.text(box.left, box.top + 4, f"CNR {_AGAINST}", size=_LABEL)
    axes = _shell_axes(page, box, list(cnr))
    bars = axes.bar(range(len(cnr)), list(cnr.values()), color=_DENOISED, width=0.5)
    axes.bar_label(bars, [short(value) for value in cnr.values()], color=TEXT, fontsize=10, padding=2)
    axes.margins(y=0.2)


def _shell_axes(page: Page, box: Box, shells: list[int]) -> Axes:
    """Axes with one place for each shell, and room for labels inside the box."""
    height = box.height - _HEADING - _AXIS
    axes = page.axes(Box(box.left + _AXIS, box.top + _HEADING, box.width - _AXIS, height))
    axes.tick_params(labelsize=10)
    axes.set_xticks(range(len(shells)), map(str, shells))
    axes.set_xlim(-0.6, len(shells) - 0.4)
    axes.grid(axis="y", color=DIM, alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def _draw_number(page: Page, box: Box, number: _Number, cell: Cell) -> None:
    page.text(box.left, box.top + 4, number.label, size=_LABEL, color=DIM, room=box.width)
    unit = f" {number.unit}" if number.unit and cell is not None else ""
    page.text(box.left, box.top + 34, short(cell) + unit, size=18, room=box.width)
