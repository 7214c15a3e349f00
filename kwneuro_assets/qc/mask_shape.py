"""The shape of a mask: its pieces and holes, and where the field of view or a straight cut ends it.

Sides are named in anatomical words: `superior` is the side of the grid that is nearest to superior in the world frame,
for any order and direction of the voxel axes, and for oblique grids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.orientation import orientation
from kwneuro_assets.imaging import Volume

Mask = NDArray[np.bool_]

_SIDES = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "I": "inferior", "S": "superior"}
_OPPOSITE = dict(zip("LRPAIS", "RLAPSI", strict=True))


class FlatFace(NamedTuple):
    """The side that a flat face of a mask is on, and its area divided by the largest cross section parallel to it."""

    side: str
    area: float


def piece_sizes(inside: Mask) -> NDArray[np.int64]:
    """The voxels of each connected piece of a mask (x, y, z), largest first. Neighbors share a face, edge or corner."""
    from scipy.ndimage import generate_binary_structure, label

    pieces, _ = label(_bounding_box(inside), generate_binary_structure(3, 3))
    return np.sort(np.bincount(pieces.ravel())[1:])[::-1]


def hole_voxels(inside: Mask) -> int:
    """The number of voxels outside a mask (x, y, z) that it encloses; in a single slice, within the slice.

    A path out of a hole may cross faces of voxels only, so that the mask may be closed by edges and corners.
    """
    from scipy.ndimage import label

    box = _bounding_box(inside)
    padding = [(0, 0) if size == 1 else (1, 1) for size in inside.shape]
    if not box.size or (0, 0) == min(padding) == max(padding):
        return 0
    background = np.pad(~box, padding, constant_values=True)
    regions, _ = label(background)
    return int(np.count_nonzero(regions) - np.count_nonzero(regions == regions[0, 0, 0]))


def edge_faces(mask: Volume) -> Mapping[str, float]:
    """The sides of the field of view that a mask (x, y, z) touches, each with the area in which it does.

    The area is divided by that of the mask's largest cross section parallel to this side: 1 if the field of view ends
    in the middle of a head. Axes of the grid with a single voxel have no sides.
    """
    found = {}
    for (low, high), layers in _layers(mask):
        largest = _areas(layers).max()
        for side, layer in ((low, layers[0]), (high, layers[-1])):
            if area := np.count_nonzero(layer):
                found[side] = area / largest
    return dict(sorted(found.items()))


def flattest_face(mask: Volume) -> FlatFace | None:
    """The largest flat face of a mask (x, y, z) inside the field of view: None if it has none, as an empty mask.

    A flat face are the voxels of one layer of the grid that end the mask in the same direction. A head is round: its
    layers shrink by a few voxels at a time, and the area is small. Where a mask was cut along the grid, it is 1.
    """
    best = None
    for (low, high), layers in _layers(mask):
        largest = _areas(layers).max()
        if not largest:
            return None
        before, after = layers[:-1], layers[1:]
        for side, ends in ((low, after & ~before), (high, before & ~after)):
            area = _areas(ends).max() / largest
            if area and (best is None or area > best.area):
                best = FlatFace(side, float(area))
    return best


def _layers(mask: Volume) -> Iterator[tuple[tuple[str, str], Mask]]:
    """For each axis with more than one voxel: the names of its low and high side, and the layers along it, first axis.

    In the order left-right, posterior-anterior, inferior-superior, so that ties are the same for any order of the axes.
    """
    letters = orientation(mask)
    inside = mask.array > 0
    for pair in ("LR", "PA", "IS"):
        axis = next(axis for axis, letter in enumerate(letters) if letter in pair)
        if inside.shape[axis] > 1:
            high = letters[axis]
            yield (_SIDES[_OPPOSITE[high]], _SIDES[high]), np.moveaxis(inside, axis, 0)


def _areas(layers: Mask) -> NDArray[np.intp]:
    areas: NDArray[np.intp] = np.asarray(np.count_nonzero(layers, axis=(1, 2)))
    return areas


def _bounding_box(inside: NDArray[Any]) -> NDArray[Any]:
    """The part of a mask (x, y, z) that holds all of its voxels."""
    box = []
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(found[0], found[-1] + 1) if found.size else slice(0, 0))
    return inside[tuple(box)]
