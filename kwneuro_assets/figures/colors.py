"""Colors of directions and bundles."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]
Floats = NDArray[np.float64]

WARNING = "#ff5a36"  # outlines of masks, empty bundles, negative signals
WELL_KNOWN = ("CST", "AF", "CG", "UF", "OR", "MCP")  # bundles of well-known shapes that overlap little

# Okabe and Ito's colors for all kinds of color vision (https://jfly.uni-koeln.de/color/), for WELL_KNOWN.
_OKABE_ITO = ("#56b4e9", "#e69f00", "#f0e442", "#cc79a7", "#009e73", "#0072b2")
_LEVELS = 16  # of red, green and blue among the candidates for further colors
_LIGHTNESS = (45.0, 95.0)  # CIELAB: visible on a black background
_MIN_CHROMA = 30.0  # CIELAB: not gray, as the anatomy behind bundles is

# With all of it, 41 colors differ by 11 at least under any vision; with this fraction, by 20 under normal vision and by
# 8 under the others, which distinguish fewer colors. Evenly spaced hues differ by 0.2 for the green-blind.
_NORMAL = 0.4

# Red-blind and green-blind vision of linear RGB (Machado et al. 2009, doi:10.1109/TVCG.2009.113, severity 1).
_VISIONS = (
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
)
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)


def direction_colors(vectors: NDArray[Any], strength: NDArray[Any]) -> NDArray[np.float32]:
    """Direction-encoded colors (..., 3) of world vectors (..., 3), with brightness `strength` (0 to 1).

    >>> direction_colors(np.array([[0, -2, 0]]), np.array([0.5]))
    array([[0. , 0.5, 0. ]], dtype=float32)


    Red is left-right, green posterior-anterior, blue inferior-superior (Pajevic and Pierpaoli 1999); the length of a
    vector has no effect, and zero vectors are black.
    """
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit = np.abs(vectors) / np.where(length > 0, length, 1)
    colors: NDArray[np.float32] = (unit * np.clip(strength, 0, 1)[..., None]).astype(np.float32)
    return colors


def side_free(bundle: str) -> str:
    """The name of a bundle without its side.

    >>> side_free("AF_left")
    'AF'
    """
    return bundle.removesuffix("_left").removesuffix("_right")


def bundle_colors(bundles: tuple[str, ...]) -> dict[str, Color]:
    """A distinct color for each bundle; left and right have the same color.

    The bundles of WELL_KNOWN always have the same colors, the others in the order of their first appearance.
    """
    kinds = list(dict.fromkeys(map(side_free, bundles)))
    others = [kind for kind in kinds if kind not in WELL_KNOWN]
    order = {kind: place for place, kind in enumerate((*WELL_KNOWN, *others))}
    palette = distinct_colors(len(order))
    return {bundle: palette[order[side_free(bundle)]] for bundle in bundles}


@functools.cache
def distinct_colors(count: int) -> tuple[Color, ...]:
    """`count` colors for a dark background: Okabe and Ito's, then each one as different as possible from WARNING and
    those before.

    The difference is that in CIELAB under red-blind or green-blind vision, or _NORMAL times that under normal vision,
    whichever is smallest. Candidates are all RGB colors in steps of 1/15 that are not dark, gray or almost white.
    """
    chosen = [_from_hex(code) for code in _OKABE_ITO[:count]]
    if count <= len(chosen):
        return tuple(chosen)
    levels = np.linspace(0, 1, _LEVELS)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, *chroma = lab(candidates).T
    bright = (lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1])
    candidates = candidates[bright & (np.hypot(*chroma) >= _MIN_CHROMA)]
    seen = _seen(candidates)
    distance = np.min([_difference(seen, color) for color in (*chosen, _from_hex(WARNING))], axis=0)
    while len(chosen) < count:
        best = int(distance.argmax())
        red, green, blue = candidates[best].tolist()
        chosen.append((red, green, blue))
        distance = np.minimum(distance, _difference(seen, chosen[-1]))
    return tuple(chosen)


def lab(colors: NDArray[Any], vision: Floats = _VISIONS[0]) -> Floats:
    """CIELAB coordinates (..., 3) of sRGB colors (..., 3) from 0 to 1, seen with a color vision (3, 3)."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ vision.T, 0, 1) @ (_TO_XYZ / _TO_XYZ.sum(axis=1, keepdims=True)).T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _seen(colors: NDArray[Any]) -> Floats:
    """CIELAB coordinates (3 color visions, ..., 3)."""
    return np.stack([lab(colors, vision) for vision in _VISIONS])


def _difference(seen: Floats, color: Color) -> Floats:
    """The differences (n,) of colors that are `seen` (visions, n, 3) to one color, under the least favorable vision."""
    normal, *others = np.linalg.norm(seen - _seen(np.array(color))[:, None], axis=-1)
    apart: Floats = np.min([_NORMAL * normal, *others], axis=0)
    return apart


def _from_hex(code: str) -> Color:
    red, green, blue = (int(code[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue
