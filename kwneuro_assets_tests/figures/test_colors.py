"""Colors of bundles, and the legend of directions."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from kwneuro_assets.figures.colors import _VISIONS, WARNING, WELL_KNOWN, bundle_colors, distinct_colors, lab
from kwneuro_assets.figures.rows import direction_disk
from kwneuro_assets.figures.view import PLANES, View
from kwneuro_assets.imaging import Volume
from kwneuro_assets_tests.figures.heads import affine_of

TRACTSEG = 41  # kinds of bundles, without their sides


def smallest_difference(colors, vision):
    seen = lab(np.array(colors), vision)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    return apart[~np.eye(len(colors), dtype=bool)].min()


def test_cielab_has_the_published_coordinates_of_the_primaries():
    # Bruce Lindbloom's values for sRGB and D65 (http://www.brucelindbloom.com), rounded to 0.01.
    found = lab(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]))
    expected = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(found, expected, atol=0.03)


@pytest.mark.parametrize(("vision", "apart"), list(zip(_VISIONS, (18, 7, 7), strict=True)))
def test_bundles_have_colors_that_differ_for_any_kind_of_color_vision(vision, apart):
    # A difference of about 2.3 is just noticeable; that of evenly spaced hues is 0.2 for the green-blind.
    assert smallest_difference([*distinct_colors(TRACTSEG), to_rgb(WARNING)], vision) > apart
    assert smallest_difference(distinct_colors(len(WELL_KNOWN)), vision) > 15


def test_a_well_known_bundle_has_the_same_color_whatever_the_other_bundles_are():
    few, many = bundle_colors(("CST_left", "MCP")), bundle_colors(("ILF_left", "MCP", "X", "CST_right", "CST_left"))
    assert few["CST_left"] == many["CST_right"] == many["CST_left"]
    assert few["MCP"] == many["MCP"]


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("orientation", ["las", "sagittal"])
def test_the_disk_of_directions_has_the_color_of_each_axis_at_its_place(plane, orientation):
    view = View.of(Volume(np.ones((40, 40, 40), np.float32), affine_of(orientation, (40, 40, 40))))
    width, height = view.extent(plane)
    figure = Figure(figsize=(width / 10, height / 10), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    direction_disk(axes, view, plane)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png")
    pixels = np.asarray(Image.open(encoded).convert("RGB"))

    left, right, bottom, top = axes.images[0].get_extent()
    middle = (left + right) / 2, (bottom + top) / 2

    def strongest(x, y):
        return pixels[pixels.shape[0] - 1 - int(10 * y), int(10 * x)].argmax()

    near = 0.92  # of the radius: just inside the edge
    assert strongest(*middle) == plane.through
    for sign in (-1, 1):
        assert strongest(middle[0] + sign * near * (right - left) / 2, middle[1]) == plane.across
        assert strongest(middle[0], middle[1] + sign * near * (top - bottom) / 2) == plane.up
    assert pixels[: pixels.shape[0] // 3, : pixels.shape[1] // 3].max() == 0
