"""The figure and the summary numbers of a subject's QC metrics: what the cohort page shows of every subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kwneuro_assets.figures.layout import Plot, Row
from kwneuro_assets.figures.panels import Scale
from kwneuro_assets.figures.quality_plot import metrics_plot
from kwneuro_assets.figures.render import png
from kwneuro_assets.figures.rows import (
    BRIGHTEST_FA,
    directions_without_legend,
    map_panel,
    mosaic,
    on_grid,
    outlined_panel,
    signal_scale,
    with_directions,
)
from kwneuro_assets.figures.summaries import Summary, rounded
from kwneuro_assets.figures.view import Cut, View, foreground
from kwneuro_assets.imaging import Dwi, MapSet, Table, Volume
from kwneuro_assets.imaging.table import Cell

_SLICES = 7
_MAIN = (
    "ndc",
    "ndc_denoised",
    "snr_b0",
    "dropout_slices",
    "outlier_volumes",
    "mask_volume_ml",
    "wm_fa_median",
    "bundles_found",
)


def quality_figure(value: Table, inputs: Mapping[str, object], title: str) -> bytes:
    """The outline of the brain mask on the mean b=0 and the direction-encoded FA in axial slices, and QC metrics.

    `value` is the table of QC metrics, with one row. The inputs are `mean_b0` (or, without it, the b=0 volumes of
    `denoised_dwi`), `brain_mask` and `dti`. Each may be missing or not applicable: the figure then says so. The PNG has
    about 100 kB; its thumbnail shows the slices.
    """
    slices = _slice_rows(inputs)
    return png(title, *slices, metrics_plot(_cells(value)), thumbnail_rows=len(slices), compact=True)


def quality_summary(value: Table, inputs: Mapping[str, object]) -> Summary:
    """The main QC metrics by name, without those that are missing."""
    cells = _cells(value)
    found = {name: cell for name in _MAIN if (cell := cells.get(name)) is not None}
    return {name: rounded(cell) if isinstance(cell, float) else cell for name, cell in found.items()}


def _cells(value: Table) -> Mapping[str, Cell]:
    return next(value.rows(), {})


def _slice_rows(inputs: Mapping[str, object]) -> list[Row]:
    """The mask on the mean b=0 and the direction-encoded FA, in the same slices."""
    maps = inputs.get("dti")
    fa, vectors = (maps.get(name) if isinstance(maps, MapSet) else None for name in ("fa", "evecs"))
    given = _mean_b0(inputs), inputs.get("brain_mask"), fa
    grid = next((one for one in given if isinstance(one, Volume)), None)
    if grid is None:
        return [_note("No mean b = 0, no brain mask and no FA")]
    mean_b0, mask, fa = (on_grid(one, grid) for one in given)
    view = _view(grid, mean_b0, mask, fa)
    cuts = view.stack(view.planes()[0], _SLICES)
    rows: list[Row] = [_mask_row(view, cuts, mean_b0, mask)]
    if fa is None or vectors is None:
        return [*rows, _note("No FA")]
    first = vectors.array[..., :3]
    colored = [directions_without_legend(view, cut, first, fa.array, BRIGHTEST_FA) for cut in cuts]
    return [*rows, mosaic("Direction-encoded FA", [with_directions(view, colored[0]), *colored[1:]])]


def _mean_b0(inputs: Mapping[str, object]) -> object:
    mean_b0, dwi = inputs.get("mean_b0"), inputs.get("denoised_dwi")
    return dwi.mean_b0() if not isinstance(mean_b0, Volume) and isinstance(dwi, Dwi) else mean_b0


def _view(grid: Volume, mean_b0: Volume | None, mask: Volume | None, fa: Volume | None) -> View:
    """The view of the head, of the mask or of the FA: with the mean b=0, what the mask excludes is visible."""
    if mean_b0 is not None:
        head = foreground(mean_b0.array)
        return View.of(grid, head if mask is None else head | (mask.array > 0))
    inside = fa if mask is None else mask
    return View.of(grid, None if inside is None else inside.array > 0)


def _mask_row(view: View, cuts: Sequence[Cut], mean_b0: Volume | None, mask: Volume | None) -> Row:
    if mean_b0 is None and mask is None:
        return _note("No mean b = 0 and no brain mask")
    if mask is None:
        assert mean_b0 is not None
        scale = signal_scale(view, mean_b0.array)
        return mosaic("Mean b = 0; no brain mask", [map_panel(view, cut, mean_b0.array, scale) for cut in cuts])
    if mean_b0 is None:
        caption, image, scale = "Outline of the brain mask; no mean b = 0", mask.array, Scale("gray", 0, 2, "mask")
    else:
        caption, image = "Outline of the brain mask on the mean b = 0", mean_b0.array
        scale = signal_scale(view, image)
    empty = "" if mask.array.any() else ": empty"
    return mosaic(caption + empty, [outlined_panel(view, cut, image, mask.array, scale) for cut in cuts])


def _note(text: str) -> Plot:
    """A row with nothing but a caption."""
    return Plot(text, 0, lambda page, box: None)
