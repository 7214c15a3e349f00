"""The figure and the summary of QC metrics."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from kwneuro_assets.figures import quality, quality_plot
from kwneuro_assets.figures.layout import Slices, draw_layout
from kwneuro_assets.figures.quality import quality_figure, quality_summary
from kwneuro_assets.figures.quality_plot import metrics_plot
from kwneuro_assets.figures.render import THUMBNAIL_BYTES, thumbnail
from kwneuro_assets.imaging import NotApplicable, Table, Volume
from kwneuro_assets_tests.figures.heads import affine_of, ball, every_value, world

METRICS = {
    "ndc": 0.91234,
    "ndc_b1000": 0.95,
    "ndc_b3000": 0.87,
    "ndc_denoised": 0.97,
    "ndc_denoised_b1000": 0.98,
    "ndc_denoised_b3000": 0.96,
    "cnr_b1000": 2.1,
    "cnr_b3000": 1.4,
    "snr_b0": None,
    "mask_volume_ml": 1432.61,
    "dropout_slices": 3,
}


def table(metrics):
    kinds = {name: "integer" if isinstance(cell, int) else "number" for name, cell in metrics.items()}
    return Table({name: [cell] for name, cell in metrics.items()}, kinds)


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def texts_of(metrics):
    figure = draw_layout("", [metrics_plot(metrics)]).figure
    return [text.get_text() for text in figure.texts]


def test_the_main_metrics_are_summarized_by_name_without_missing_ones():
    assert quality_summary(table(METRICS), {}) == {
        "ndc": 0.91234,
        "ndc_denoised": 0.97,
        "dropout_slices": 3,
        "mask_volume_ml": 1432.6,
    }
    assert quality_summary(table({"qsiprep_raw_ndc": 0.5}), {}) == {}


def test_the_same_values_give_the_same_bytes_and_a_small_thumbnail_of_the_slices():
    values = every_value((16, 18, 14), "oblique")
    png = quality_figure(table(METRICS), values, "dwi_qc sub-01")
    assert png == quality_figure(table(METRICS), values, "dwi_qc sub-01")
    image = Image.open(io.BytesIO(png))
    assert image.width <= 1200
    webp = thumbnail(png)
    assert len(webp) <= THUMBNAIL_BYTES
    # Both rows of slices, without the plots below: as high as the figure without any metric.
    without = Image.open(io.BytesIO(quality_figure(table({"other": 1}), values, "dwi_qc sub-01")))
    assert int(image.info["Thumbnail-Height"]) == int(without.info["Thumbnail-Height"])
    assert 0 < without.height - int(without.info["Thumbnail-Height"]) < 100


@pytest.mark.parametrize("present", list(itertools.product([False, True], repeat=3)))
def test_every_input_may_be_absent(present):
    values = every_value((6, 8, 9), "sagittal")
    names = ("mean_b0", "brain_mask", "dti")
    inputs = {name: values[name] for name, given in zip(names, present, strict=True) if given}
    absent = dict.fromkeys(set(names) - set(inputs), NotApplicable("no shell"))
    with_all, found = (layout_of(given) for given in (values, {**absent, **inputs}))
    # Title, rows and numbers stay; a row without its images has a note in their place.
    assert found == tuple(
        slices if there else "note" for slices, there in zip(with_all, (any(present[:2]), present[2]), strict=True)
    )


def layout_of(inputs):
    """The number of slices in both rows, or "note" for a row without slices."""
    rows = [*quality._slice_rows(inputs), *[None] * 2][:2]
    return tuple(len(row.panels) if isinstance(row, Slices) else "note" for row in rows)


def test_the_b0_volumes_of_the_dwi_take_the_place_of_a_missing_mean():
    values = every_value((6, 8, 9), "las")
    mean = {"mean_b0": values["denoised_dwi"].mean_b0()}
    rest = {name: values[name] for name in ("brain_mask", "dti")}
    dwi = {"denoised_dwi": values["denoised_dwi"]}
    png = quality_figure(table(METRICS), {**dwi, **rest}, "dwi_qc")
    assert png == quality_figure(table(METRICS), {**mean, **rest}, "dwi_qc")
    assert png != quality_figure(table(METRICS), rest, "dwi_qc")


def test_an_input_on_another_grid_is_not_drawn():
    values, other = every_value((6, 8, 9), "las"), every_value((7, 8, 9), "las")
    inputs = {"mean_b0": values["mean_b0"], "brain_mask": other["brain_mask"], "dti": other["dti"]}
    only = {"mean_b0": values["mean_b0"]}
    assert quality_figure(table(METRICS), inputs, "dwi_qc") == quality_figure(table(METRICS), only, "dwi_qc")


@pytest.mark.parametrize("grid", [(1, 1, 1), (6, 8, 1), (1, 6, 8)])
def test_the_smallest_grids_and_an_empty_mask_are_drawn(grid):
    values = every_value(grid, "coronal")
    values["brain_mask"] = Volume(np.zeros(grid, np.uint8), values["mean_b0"].affine)
    assert len(np.unique(pixels_of(quality_figure(table(METRICS), values, "dwi_qc")) @ [65536, 256, 1])) > 20


def test_the_outline_is_red_around_the_mask_in_each_of_seven_slices():
    grid = (40, 44, 36)
    affine = affine_of("las", grid)
    places = world(affine, grid)
    inputs = {
        "mean_b0": Volume(100.0 * ball(places, (0, 0, 0), 39), affine),
        "brain_mask": Volume(ball(places, (0, 0, 0), 35), affine),
    }
    image = pixels_of(quality_figure(table({"other": 1}), inputs, "dwi_qc"))
    red = ((image[..., 0] > 200) & (image[..., 1] < 120) & (image[..., 2] < 90)).any(axis=0)
    # Letters cover a few columns of an outline, and between two outlines there are more without red.
    columns = np.flatnonzero(red)
    assert np.count_nonzero(np.diff(columns) > 25) == 6
    # The equator's slice is the fourth, and its outline is as wide as the ball: 70 mm of the 86 mm of a slice.
    fourth = np.split(columns, np.flatnonzero(np.diff(columns) > 25) + 1)[3]
    assert (fourth[-1] - fourth[0]) / 161 == pytest.approx(70 / 86, abs=0.04)


def test_values_per_shell_are_plotted_at_their_height_and_numbers_have_their_unit():
    figure = draw_layout("", [metrics_plot(METRICS)]).figure
    correlations, contrasts = figure.axes
    points = {tuple(line.get_ydata()) for line in correlations.get_lines() if line.get_marker() == "o"}
    assert points == {(0.95, 0.87), (0.98, 0.96)}
    assert [bar.get_height() for bar in contrasts.patches] == [2.1, 1.4]
    shown = [text.get_text() for text in figure.texts]
    assert {"0.912", "1,433 ml", "n/a", "3"} <= set(shown)


def test_a_table_without_known_metrics_says_so():
    assert texts_of({}) == texts_of({"qsiprep_raw_ndc": 0.5}) == ["", "No QC metrics"]


def test_a_single_shell_with_a_negative_correlation_is_plotted():
    correlations, *_ = draw_layout("", [metrics_plot({"ndc_b1000": -0.2, "cnr_b1000": None})]).figure.axes
    assert correlations.get_ylim()[0] < -0.15


def test_the_figure_and_the_summary_use_columns_of_the_catalog():
    catalog = pytest.importorskip("kwneuro_assets.qc.catalog", reason="the catalog of QC metrics is not there yet")
    known = {metric.name for metric in catalog.CATALOG}
    used = {*quality._MAIN, *(number.column for number in quality_plot._NUMBERS)}
    assert used <= known
    assert {f"{name}_b{{shell}}" for name in ("ndc", "ndc_denoised", "cnr")} <= known
