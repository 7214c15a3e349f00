"""A figure as PNG, its thumbnail for the event log, and the Markdown that shows it."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

THUMBNAIL_BYTES = 6000  # 8 kB once in base64: it stays in the event log for ever
_THUMBNAIL_WIDTH = 480
_NARROWER = 0.9
_HEIGHT_NOTE = "Thumbnail-Height"
_QUALITIES = (75, 50, 30, 18, 10, 5)  # even the last leaves maps and lettering legible


def to_png(figure: Figure, thumbnail_height: int = 0) -> bytes:
    """The figure as PNG: the same bytes for the same figure, with no date and no software name in it.

    `thumbnail_height`, where given, is noted in the PNG: how many pixels from the top make its thumbnail.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    note = PngInfo()
    if thumbnail_height:
        note.add_text(_HEIGHT_NOTE, str(thumbnail_height))
    encoded = io.BytesIO()
    image.save(encoded, "PNG", pnginfo=note)
    return encoded.getvalue()


def thumbnail(png: bytes) -> bytes:
    """A WebP of at most THUMBNAIL_BYTES: as wide as fits up to 480 pixels, then as good as fits.

    It shows the part of the PNG that `to_png` noted, otherwise all of it.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    height = min(image.height, int(image.info.get(_HEIGHT_NOTE, image.height)))
    picture = image.convert("RGB").crop((0, 0, image.width, height))
    width = min(picture.width, _THUMBNAIL_WIDTH)
    while True:
        size = (width, max(1, round(picture.height * width / picture.width)))
        small = picture.resize(size, Image.Resampling.LANCZOS)
        if len(_webp(small, _QUALITIES[-1])) <= THUMBNAIL_BYTES:
            fitting = (encoded for quality in _QUALITIES if len(encoded := _webp(small, quality)) <= THUMBNAIL_BYTES)
            return next(fitting)
        width = int(width * _NARROWER)


def markdown_image(webp: bytes) -> str:
    """The Markdown of an image that carries its own bytes."""
    return f"![](data:image/webp;base64,{base64.b64encode(webp).decode('ascii')})"


def _webp(picture: Image, quality: int) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=quality, method=6)
    return encoded.getvalue()
