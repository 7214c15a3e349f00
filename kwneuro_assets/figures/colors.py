"""Colors of directions, bundles and scales."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]

_GOLDEN_RATIO = 0.618034  # steps of this fraction of the color circle never come close to one another


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
    """A distinct color for each bundle; left and right have the same color."""
    kinds = list(dict.fromkeys(side_free(bundle) for bundle in bundles))
    palette = {kind: _spread(index) for index, kind in enumerate(kinds)}
    return {bundle: palette[side_free(bundle)] for bundle in bundles}


def _spread(index: int) -> Color:
    return colorsys.hsv_to_rgb((0.02 + index * _GOLDEN_RATIO) % 1, 0.5 + 0.25 * (index % 2), 1.0 - 0.12 * (index % 3))
