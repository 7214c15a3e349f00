"""The figure of each derivative."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from kwneuro_assets.figures import bundles
from kwneuro_assets.figures import subject as figures
from kwneuro_assets.figures.close_up import close_up
from kwneuro_assets.figures.colors import WARNING, bundle_colors, direction_colors
from kwneuro_assets.figures.render import THUMBNAIL_BYTES, thumbnail
from kwneuro_assets.figures.tissues import TISSUES, tissue_panel
from kwneuro_assets.figures.view import AXIAL, Cut, View
from kwneuro_assets.imaging import MapSet, NotApplicable, Volume
from kwneuro_assets_tests.figures.heads import AXES, affine_of, ball, every_value, head, three_tissues, world

FIGURES = {
    "denoised_dwi": (figures.denoised_figure, ("dwi",)),
    "mean_b0": (figures.mean_b0_figure, ("denoised_dwi",)),
    "brain_mask": (figures.brain_mask_figure, ("mean_b0",)),
    "dti": (figures.tensor_figure, ("denoised_dwi", "brain_mask")),
    "noddi": (figures.noddi_figure, ("denoised_dwi", "brain_mask")),
    "fiber_response": (figures.response_figure, ("denoised_dwi", "brain_mask")),
    "group_response": (figures.group_response_figure, ("fiber_response",)),
    "csd_peaks": (figures.peaks_figure, ("denoised_dwi", "brain_mask", "fiber_response")),
    "tract_masks": (figures.tracts_figure, ("csd_peaks",)),
    "tract_endings": (figures.endings_figure, ("csd_peaks",)),
    "tract_orientations": (figures.orientations_figure, ("csd_peaks", "tract_masks")),
}
OF_THREE_TISSUES = ("fiber_response", "group_response", "csd_peaks")
CASES = [
    *(pytest.param(name, every_value, id=name) for name in FIGURES),
    *(pytest.param(name, three_tissues, id=f"{name} of three tissues") for name in OF_THREE_TISSUES),
]


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def panels_of_the_first_row(png):
    """The slices of the first row: they are neutral gray on black, page and letters are not."""
    image = Image.open(io.BytesIO(png))
    row = pixels_of(png)[: int(image.info["Thumbnail-Height"])]
    neutral = (row.max(axis=2) == row.min(axis=2)).sum(axis=0) > 40
    edges = np.flatnonzero(np.diff(np.r_[False, neutral, False].astype(int))).reshape(-1, 2)
    panels = []
    for start, stop in edges[edges[:, 1] - edges[:, 0] > 60]:
        panel = row[:, start:stop]
        rows = np.flatnonzero((panel.max(axis=2) == panel.min(axis=2)).mean(axis=1) > 0.5)
        panels.append(panel[rows[0] : rows[-1] + 1])
    return panels


@pytest.mark.parametrize("orientation", AXES)
def test_figures_are_in_neurological_convention_for_every_affine(orientation):
    png = figures.mean_b0_figure(head_with_bright_gray(orientation), {}, "mean_b0")
    axial, coronal, sagittal = panels_of_the_first_row(png)

    # The bright ball is white, letters are not; it is left, anterior and superior of the head's middle.
    for panel, (right, down) in ((axial, (-1, -1)), (coronal, (-1, -1)), (sagittal, (1, -1))):
        row, column = np.nonzero(panel.min(axis=2) == 255)
        middle = np.array(panel.shape[:2]) / 2
        assert row.size > 100
        assert np.sign(column.mean() - middle[1]) == right
        assert np.sign(row.mean() - middle[0]) == down


def head_with_bright_gray(orientation):
    volume = head(orientation)
    # The gray is bright enough for the foreground: the crop is around the head, not around the bright ball.
    return Volume(np.minimum(volume.array, 400), volume.affine)


@pytest.mark.parametrize("orientation", ["las", "oblique", "sagittal"])
def test_the_left_bundle_is_drawn_at_the_left(orientation):
    grid = (30, 32, 28)
    affine = affine_of(orientation, grid)
    coordinates = world(affine, grid)
    brain = ball(coordinates, (0, 0, 0), 26)
    left = ball(coordinates, (-12, 0, 0), 8)
    amplitudes = Volume(0.5 * brain[..., None].astype(np.float32), affine)
    peaks = MapSet({"peaks": Volume(np.zeros((*grid, 3), np.float32), affine), "peakvalues": amplitudes})
    masks = Volume(np.stack([left, np.zeros(grid, bool)], axis=-1), affine, ("CST_left", "CST_right"))

    row = pixels_of(figures.tracts_figure(masks, {"csd_peaks": peaks}, "tracts"))
    color = np.round(255 * np.array(bundle_colors(masks.names)["CST_left"]))
    axial = row[95:500, :380]
    painted = np.nonzero(np.abs(axial - color).max(axis=2) <= 1)[1]
    silhouette = np.nonzero((axial == axial[..., :1]).all(axis=2) & (axial[..., 0] > 60))[1]

    assert painted.size > 100
    assert painted.max() < (silhouette.min() + silhouette.max()) / 2


@pytest.mark.parametrize("orientation", AXES)
def test_a_close_up_shows_a_peak_at_its_angle_to_the_world_axes(orientation):
    grid = (8, 8, 8)
    affine = affine_of(orientation, grid)
    direction = np.array([2, 1, 0]) / np.sqrt(5)
    peaks = np.broadcast_to(direction, (*grid, 3)).astype(np.float32)
    view = View.of(Volume(peaks, affine))
    panel = close_up(view, Cut(AXIAL, 4), peaks, np.ones((*grid, 1), np.float32))
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()

    panel.overlay(axes)

    (lines,) = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    segments = np.array(lines.get_segments())
    along = segments[:, 1] - segments[:, 0]
    # On an oblique grid the plane is tilted: the expected direction is relative to the plane's own axes.
    right, front = (world_axis(affine, axis) @ direction for axis in (0, 1))
    expected = np.arctan2(front, right)
    angle = np.arctan2(along[:, 1], along[:, 0])
    np.testing.assert_allclose(angle, expected, atol=1e-5)
    assert right > 0
    assert front > 0


def world_axis(affine, axis):
    """The unit vector along the voxel axis nearest to a world axis, with the world axis's sign."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    nearest = int(np.abs(columns[axis]).argmax())
    return columns[:, nearest] * np.sign(columns[axis, nearest])


def drawing(name, values):
    """The figure function, its value and its inputs."""
    draw, parents = FIGURES[name]
    inputs = {parent: values[parent] for parent in parents}
    if name != "group_response":
        return draw, values[name], inputs
    own = values["fiber_response"]
    return draw, own, {"fiber_response": {"sub-01": own, "sub-02": own.scaled(2), "sub-03": NotApplicable("no shell")}}


@pytest.mark.parametrize(("name", "values_on"), CASES)
def test_the_same_value_gives_the_same_bytes_and_a_small_thumbnail(name, values_on):
    draw, value, inputs = drawing(name, values_on((16, 18, 14), "oblique"))

    png = draw(value, inputs, f"{name} sub-01")

    assert png == draw(value, inputs, f"{name} sub-01")
    assert Image.open(io.BytesIO(png)).width <= 1200
    webp = thumbnail(png)
    assert len(webp) <= THUMBNAIL_BYTES
    assert Image.open(io.BytesIO(webp)).width >= 320


@pytest.mark.parametrize(("name", "values_on"), CASES)
@pytest.mark.parametrize("grid", [(1, 1, 1), (6, 8, 1)])
def test_the_smallest_grids_are_drawn_without_inputs(name, grid, values_on):
    draw, value, inputs = drawing(name, values_on(grid, "sagittal"))
    inputs = dict.fromkeys(inputs, NotApplicable("too few directions")) if grid == (1, 1, 1) else {}

    # Letters, panels and scales: an empty figure has two colors.
    assert len(np.unique(pixels_of(draw(value, inputs, name)) @ [65536, 256, 1])) > 20


def test_an_input_on_another_grid_is_ignored():
    values = every_value((6, 8, 9), "las")
    other = every_value((7, 8, 9), "las")
    for name in ("denoised_dwi", "tract_masks"):
        draw, parents = FIGURES[name]
        assert draw(values[name], {parent: other[parent] for parent in parents}, name) == draw(values[name], {}, name)


@pytest.mark.parametrize("name", ["tract_masks", "tract_endings", "tract_orientations", "csd_peaks", "brain_mask"])
def test_values_without_a_single_voxel_are_drawn(name):
    value = three_tissues((6, 8, 9), "ras")[name]
    empty = (
        MapSet({key: Volume(np.zeros_like(volume.array), volume.affine) for key, volume in value.items()})
        if isinstance(value, MapSet)
        else Volume(np.zeros_like(value.array), value.affine, value.names)
    )
    assert FIGURES[name][0](empty, {}, name).startswith(b"\x89PNG")


def test_empty_bundles_are_listed_and_take_no_place_in_the_plot_of_volumes():
    grid, names = (12, 13, 11), tuple(f"T_{index}_left" for index in range(60))
    masks = np.zeros((*grid, 60), np.uint8)
    masks[4:8, 4:8, 4:8, :2] = 1
    some = Volume(masks, affine_of("las", grid), names)
    only = Volume(masks[..., :2], some.affine, names[:2])
    few, many = (pixels_of(figures.tracts_figure(stack, {}, "tracts")) for stack in (only, some))
    # Three or four more lines of text, and the same bars.
    assert 0 < many.shape[0] - few.shape[0] < 100
    assert pixels_in_color(few, to_rgb(WARNING)).size == 0
    assert pixels_in_color(many, to_rgb(WARNING)).size > 0


def test_large_bundles_are_outlined_in_place_of_empty_well_known_ones():
    counts = np.array([9, 0, 5, 7, 3, 800, 700, 2])
    kinds = ["CST", "AF", "CG", "SLF_II", "MCP", "CC", "CC_1", "ILF"]
    assert bundles._chosen_kinds(kinds, counts) == ["CST", "CG", "MCP", "CC", "SLF_II", "ILF", "AF"]


def test_the_outline_of_a_mask_is_drawn_around_its_voxels():
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[4:10, 6:16, 5:15] = 1
    image = Volume(np.full((20, 20, 20), 100, np.float32), np.eye(4))
    png = figures.brain_mask_figure(Volume(mask, np.eye(4)), {"mean_b0": image}, "brain_mask")

    axial = panels_of_the_first_row(png)[0]
    row, column = np.nonzero((axial[..., 0] > 200) & (axial[..., 1] < 120))
    scale = axial.shape[1] / 20
    # Lines are 2 pixels wide, and panels start at fractions of a pixel.
    assert abs(column.min() - 4 * scale) < 3
    assert abs(column.max() - 10 * scale) < 3
    assert abs(row.min() - (20 - 16) * scale) < 3
    assert abs(row.max() - (20 - 6) * scale) < 3


def test_a_voxel_mixes_the_colors_of_its_tissues_by_their_fractions():
    grid = (5, 4, 3)
    fractions = np.zeros((*grid, 3), np.float32)
    fractions[1, 1, 1] = [1, 0, 0]
    fractions[2, 1, 1] = [0, 1, 0]
    fractions[3, 1, 1] = [0, 0, 1]
    fractions[1, 2, 1] = [0.25, 0.25, 0.5]
    volumes = tuple(Volume(fractions[..., index], np.eye(4)) for index in range(3))
    image = tissue_panel(View.of(volumes[0]), Cut(AXIAL, 1), volumes).image

    colors = np.array([tissue.color for tissue in TISSUES])
    np.testing.assert_allclose(image[1, 1:4], colors, rtol=1e-6)
    np.testing.assert_allclose(image[2, 1], [0.25, 0.25, 0.5] @ colors, rtol=1e-6)
    assert np.count_nonzero(image.any(axis=2)) == 4
    # Different fractions have different colors: no tissue's color is a mix of the others'.
    assert np.linalg.matrix_rank(np.column_stack([colors, np.ones(3)]), tol=0.1) == 3


@pytest.mark.parametrize("orientation", ["las", "oblique", "sagittal"])
def test_the_peaks_figure_has_a_column_of_tissues_at_the_position_of_the_brain(orientation):
    grid = (30, 32, 28)
    affine = affine_of(orientation, grid)
    coordinates = world(affine, grid)
    brain = ball(coordinates, (0, 0, 0), 26)
    left = ball(coordinates, (-12, 0, 0), 8)
    fractions = {"wmfraction": brain & ~left, "gmfraction": np.zeros(grid, bool), "csffraction": left}
    maps = {name: Volume(fraction.astype(np.float32), affine) for name, fraction in fractions.items()}
    none = {"peaks": Volume(np.zeros((*grid, 3), np.float32), affine)}
    none["peakvalues"] = Volume(np.zeros((*grid, 1), np.float32), affine)

    image = pixels_of(figures.peaks_figure(MapSet({**none, **maps}), {}, "peaks"))

    white, csf = (pixels_in_color(image, TISSUES[index].color) for index in (0, 2))
    assert min(white.shape[1], csf.shape[1]) > 1000
    # In the axial panel of the first row, CSF is left of the middle.
    first_row = white[0] < 400
    axial = csf[1][csf[0] < 250]
    assert axial.size > 100
    assert axial.max() < (white[1][first_row].min() + white[1][first_row].max()) / 2
    without = pixels_of(figures.peaks_figure(MapSet(none), {}, "peaks"))
    assert pixels_in_color(without, TISSUES[0].color).size == 0


def pixels_in_color(image, color):
    """Rows and columns of the pixels with this color."""
    return np.array(np.nonzero(np.abs(image - np.round(255 * np.array(color))).max(axis=2) <= 1))


def test_fod_coefficients_do_not_change_the_figure():
    values = three_tissues((8, 9, 7), "las")
    peaks = values["csd_peaks"]
    fod = Volume(np.ones((8, 9, 7, 15), np.float32), peaks.affine)
    png = figures.peaks_figure(MapSet({**peaks, "fod": fod}), values, "peaks")
    assert png == figures.peaks_figure(peaks, values, "peaks")


def test_directions_have_the_colors_of_the_world_axes():
    vectors = np.array([[-3.0, 0, 0], [0, 2, 0], [0, 0, -1], [0, 0, 0]])
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 0.5], [0, 0, 0]]
    np.testing.assert_array_equal(direction_colors(vectors, np.array([1, 7, 0.5, 1])), expected)


def test_left_and_right_have_the_same_color_and_different_bundles_different_ones():
    names = ("AF_left", "AF_right", *(f"T_{index}_left" for index in range(40)))
    colors = bundle_colors(names)
    assert colors["AF_left"] == colors["AF_right"]
    kinds = np.array(list(dict.fromkeys(colors.values())))
    assert len(kinds) == 41
    apart = np.linalg.norm(kinds[:, None] - kinds[None], axis=-1)[~np.eye(41, dtype=bool)]
    assert apart.min() > 0.05


def test_another_process_gives_the_same_bytes_without_pyplot_and_imports_matplotlib_on_use():
    script = (
        "import sys, hashlib\n"
        "from kwneuro_assets.figures import subject as figures\n"
        "assert 'matplotlib' not in sys.modules and 'scipy' not in sys.modules\n"
        "from kwneuro_assets_tests.figures.heads import every_value\n"
        "values = every_value((6, 8, 9), 'las')\n"
        "png = figures.tensor_figure(values['dti'], values, 'dti')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "print(hashlib.sha256(png).hexdigest())\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=root)
    values = every_value((6, 8, 9), "las")
    assert run.stdout.strip() == hashlib.sha256(figures.tensor_figure(values["dti"], values, "dti")).hexdigest()
