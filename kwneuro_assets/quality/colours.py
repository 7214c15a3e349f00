"""Colours of directions, bundles and scales."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]

_GOLDEN_RATIO = 0.618034  # steps of it around the colour circle never come close to one another


def direction_colours(vectors: NDArray[Any], strength: NDArray[Any]) -> NDArray[np.float32]:
    """Direction-encoded colours (..., 3) of world vectors (..., 3) of any length, as bright as `strength` (0 to 1).

    Red for left-right, green for posterior-anterior, blue for inferior-superior (Pajevic and Pierpaoli 1999);
    black where a vector is zero.
    """
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit = np.abs(vectors) / np.where(length > 0, length, 1)
    colours: NDArray[np.float32] = (unit * np.clip(strength, 0, 1)[..., None]).astype(np.float32)
    return colours


def side_free(bundle: str) -> str:
    """The name of a bundle without its side: "AF_left" is "AF"."""
    return bundle.removesuffix("_left").removesuffix("_right")


def bundle_colours(bundles: tuple[str, ...]) -> dict[str, Colour]:
    """A colour for each bundle, the same for left and right, as unlike one another as so many can be."""
    kinds = list(dict.fromkeys(side_free(bundle) for bundle in bundles))
    palette = {kind: _spread(index) for index, kind in enumerate(kinds)}
    return {bundle: palette[side_free(bundle)] for bundle in bundles}


def _spread(index: int) -> Colour:
    return colorsys.hsv_to_rgb((0.02 + index * _GOLDEN_RATIO) % 1, 0.5 + 0.25 * (index % 2), 1.0 - 0.12 * (index % 3))
