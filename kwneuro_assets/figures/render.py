"""Figures as PNG, thumbnails for the event log, and Markdown that embeds them."""

from __future__ import annotations

import base64
import io
import itertools
from typing import TYPE_CHECKING

import numpy as np

from kwneuro_assets.figures.colors import WARNING
from kwneuro_assets.figures.layout import Row, draw_layout
from kwneuro_assets.figures.page import BACKGROUND, DIM, TEXT

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

THUMBNAIL_BYTES = 6000  # 8 kB in base64: the event log stores it permanently
_THUMBNAIL_WIDTH = 480
_NARROWER = 0.9
_HEIGHT_NOTE = "Thumbnail-Height"
_QUALITIES = (75, 50, 30, 18, 10, 5)  # maps and labels are legible even at the last


def png(title: str, *rows: Row, thumbnail_rows: int = 1, compact: bool = False) -> bytes:
    """A figure of these rows as PNG; its thumbnail shows the title and the first rows. `compact` as in `to_png`."""
    layout = draw_layout(title, rows, thumbnail_rows)
    return to_png(layout.figure, layout.thumbnail_height, compact)


def to_png(figure: Figure, thumbnail_height: int = 0, compact: bool = False) -> bytes:
    """The figure as PNG: the same bytes for the same figure, without date and software name.

    `thumbnail_height`, the height in pixels from the top that the thumbnail shows, is stored in the PNG if given.
    A compact PNG has at most 256 colors, the same for every figure: about a third of the bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if compact:
        image = image.quantize(palette=_palette(), dither=Image.Dither.NONE)
    note = PngInfo()
    if thumbnail_height:
        note.add_text(_HEIGHT_NOTE, str(thumbnail_height))
    encoded = io.BytesIO()
    image.save(encoded, "PNG", pnginfo=note, optimize=compact)
    return encoded.getvalue()


def thumbnail(png: bytes) -> bytes:
    """A WebP image of at most THUMBNAIL_BYTES, with the largest width up to 480 pixels and then the best quality.

    It shows the upper part of the PNG that `to_png` was asked for, or all of it.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    height = min(image.height, int(image.info.get(_HEIGHT_NOTE, image.height)))
    figure = image.convert("RGB").crop((0, 0, image.width, height))
    width = min(figure.width, _THUMBNAIL_WIDTH)
    while True:
        size = (width, max(1, round(figure.height * width / figure.width)))
        small = figure.resize(size, Image.Resampling.LANCZOS)
        if len(_webp(small, _QUALITIES[-1])) <= THUMBNAIL_BYTES:
            fitting = (encoded for quality in _QUALITIES if len(encoded := _webp(small, quality)) <= THUMBNAIL_BYTES)
            return next(fitting)
        width = int(width * _NARROWER)


def markdown_image(webp: bytes) -> str:
    """Markdown that embeds a WebP image as a data URL."""
    return f"![](data:image/webp;base64,{base64.b64encode(webp).decode('ascii')})"


def _palette() -> Image:
    """An image whose palette has 6 levels of red, green and blue each, 36 of gray, and the colors of a page."""
    from PIL import Image, ImageColor

    levels = range(0, 256, 255 // 5)
    grays = [(round(255 * step / 35),) * 3 for step in range(36)]
    page = map(ImageColor.getrgb, (BACKGROUND, TEXT, DIM, WARNING))
    colors = dict.fromkeys([*itertools.product(levels, levels, levels), *grays, *page])
    palette = Image.new("P", (1, 1))
    palette.putpalette(bytes(itertools.chain.from_iterable(colors)))
    return palette


def _webp(figure: Image, quality: int) -> bytes:
    encoded = io.BytesIO()
    figure.save(encoded, "WEBP", quality=quality, method=6)
    return encoded.getvalue()
