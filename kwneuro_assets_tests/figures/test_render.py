"""Figures as PNG, thumbnails and Markdown."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from kwneuro_assets.figures.page import Box, Page
from kwneuro_assets.figures.render import THUMBNAIL_BYTES, markdown_image, thumbnail, to_png


def png_of(pixels):
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def page():
    one = Page(600, 300)
    one.axes(Box(50, 50, 400, 200)).plot([0, 1, 0.5])
    one.text(20, 20, "FA (no unit)", size=14)
    return one.figure


def test_a_figure_gives_the_same_bytes_each_time_without_date_and_software():
    png = to_png(page())
    assert png == to_png(page())
    assert Image.open(io.BytesIO(png)).info == {}
    assert Image.open(io.BytesIO(png)).size == (600, 300)


def test_a_compact_figure_has_few_colors_that_are_close_to_those_of_the_other():
    png, compact = to_png(page()), to_png(page(), compact=True)
    few, all_colors = (np.asarray(Image.open(io.BytesIO(one)).convert("RGB")).astype(int) for one in (compact, png))
    assert len(np.unique(few @ [65536, 256, 1])) <= 256
    # Half of the step of 51 between two levels, and what Pillow's search of the nearest color leaves.
    assert np.abs(few - all_colors).max() <= 40
    assert (few[0, 0] == all_colors[0, 0]).all()
    assert len(compact) < len(png)


@pytest.mark.parametrize("shape", [(1300, 1200, 3), (500, 1200, 3), (3000, 1200, 3), (40, 40, 3)])
def test_a_thumbnail_of_noise_has_at_most_the_allowed_bytes(shape):
    # Noise compresses worst: no figure needs more bytes.
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    webp = thumbnail(png_of(pixels))
    assert len(webp) <= THUMBNAIL_BYTES
    assert len(base64.b64encode(webp)) <= 8192
    assert Image.open(io.BytesIO(webp)).format == "WEBP"


def test_a_thumbnail_of_a_smooth_figure_has_full_width_and_the_same_proportions():
    ramp = np.linspace(0, 255, 1200).astype(np.uint8)
    pixels = np.repeat(np.broadcast_to(ramp, (600, 1200))[..., None], 3, axis=2)
    small = Image.open(io.BytesIO(thumbnail(png_of(pixels))))
    assert small.size == (480, 240)
    shown = np.asarray(small.convert("L"), float)[120]
    # A few gray levels of lossy compression.
    np.testing.assert_allclose(shown, np.linspace(0, 255, 480), atol=6)


def test_a_thumbnail_shows_the_requested_part():
    entire = Image.open(io.BytesIO(thumbnail(to_png(page()))))
    upper = Image.open(io.BytesIO(thumbnail(to_png(page(), thumbnail_height=100))))
    assert entire.size == (480, 240)
    assert upper.size == (480, 80)


def test_the_markdown_embeds_the_image():
    webp = thumbnail(to_png(page()))
    text = markdown_image(webp)
    start, end = "![](data:image/webp;base64,", ")"
    assert text.startswith(start)
    assert text.endswith(end)
    assert base64.b64decode(text[len(start) : -len(end)]) == webp
