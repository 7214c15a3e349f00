"""The midsagittal plane of a brain mask, and its reflection there.

The plane is found in the world frame (scanner RAS+), so that it does not depend on the order and direction of the voxel
axes, nor on how oblique the grid is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Volume

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Voxels = tuple[Indices, ...]  # three arrays (n,): the indices of n voxels

HALVINGS = 5  # of the first steps: to 0.3 degree and 0.25 mm, while a voxel is about 2 mm
SAMPLE = 20_000  # voxels that the search is made with; the symmetry of its result is that of all voxels


class Plane(NamedTuple):
    """A nearly sagittal plane: its normal is (1, yaw, roll) in the world frame; `shift` mm from the mask's center."""

    yaw: float
    roll: float
    shift: float


FIRST_STEPS = Plane(0.16, 0.16, 8.0)  # of the search: 9 degrees and 8 mm


@dataclass(frozen=True, eq=False)
class Mirror:
    """The reflection of a mask at its midsagittal plane.

    Attributes:
        mirrored: (n,) for each voxel of the mask, in C order, the position of the voxel nearest to its reflection in
            the raveled grid; -1 outside of the grid.
        right: (n,) True for the voxels on the right side of the plane.
        symmetry: The fraction of the voxels whose reflection is in the mask: the Dice coefficient of the mask and its
            reflection.
    """

    mirrored: Indices
    right: NDArray[np.bool_]
    symmetry: float


def reflected(mask: Volume) -> Mirror | None:
    """The reflection of a mask (x, y, z) at the plane that makes it most symmetric.

    The search begins at the sagittal plane of the world frame through the mask's center of mass. It rotates the plane
    about the inferior-superior and the anterior-posterior axis and shifts it, as long as the symmetry rises.

    Returns None if the mask is empty, or if the grid has one voxel only from left to right.
    """
    inside = mask.array > 0
    sideways = int(np.argmax(np.abs(mask.affine[0, :3]) / np.linalg.norm(mask.affine[:3, :3], axis=0)))
    if not inside.any() or inside.shape[sideways] == 1:
        return None
    voxels = np.nonzero(inside)
    reflection = _Reflection(inside, mask.affine, voxels)
    plane = reflection.best_plane(_sample(voxels))
    mirrored = reflection.mirrored(plane, voxels)
    right = reflection.distance(plane, voxels) > 0
    return Mirror(mirrored, right, float(reflection.is_inside(mirrored).mean()))


class _Reflection:
    """The reflection of voxels of a mask at planes through its neighborhood."""

    def __init__(self, inside: NDArray[np.bool_], affine: Floats, voxels: Voxels) -> None:
        self._inside = inside
        self._affine = affine
        self._inverse = np.linalg.inv(affine)[:3, :3]
        self._center = [float(axis.mean()) for axis in voxels]

    def best_plane(self, voxels: Voxels) -> Plane:
        """The result of a compass search: a step to the best of six neighbors; half the steps if none is better."""
        plane = Plane(0.0, 0.0, 0.0)
        symmetry = self._symmetry(plane, voxels)
        for halving in range(HALVINGS + 1):
            while True:
                neighbors = [_moved(plane, axis, sign / 2**halving) for axis, sign in product(range(3), (-1, 1))]
                found = [self._symmetry(neighbor, voxels) for neighbor in neighbors]
                if max(found) <= symmetry:
                    break
                symmetry = max(found)
                plane = neighbors[found.index(symmetry)]
        return plane

    def distance(self, plane: Plane, voxels: Voxels) -> Floats:
        """The signed distance (n,) of voxels from the plane in mm, positive on the right."""
        weights = (_normal(plane)[:, None] * self._affine[:3, :3]).sum(axis=0)
        x, y, z = (weight * (axis - center) for weight, axis, center in zip(weights, voxels, self._center, strict=True))
        return np.asarray(x + y + z - plane.shift)

    def mirrored(self, plane: Plane, voxels: Voxels) -> Indices:
        """The positions (n,) of the voxels nearest to the reflections of voxels; -1 outside of the grid."""
        step = (self._inverse * _normal(plane)).sum(axis=1)  # voxels per mm along the normal
        distance = self.distance(plane, voxels)
        found = [np.rint(axis - 2 * step * distance).astype(np.intp) for axis, step in zip(voxels, step, strict=True)]
        shape = self._inside.shape
        outside = [(axis < 0) | (axis >= size) for axis, size in zip(found, shape, strict=True)]
        positions = np.ravel_multi_index(tuple(found), shape, mode="clip")
        return np.where(outside[0] | outside[1] | outside[2], -1, positions)

    def is_inside(self, positions: Indices) -> NDArray[np.bool_]:
        """(n,) True where a position is that of a voxel of the mask."""
        return np.asarray(self._inside.ravel()[positions] & (positions >= 0))

    def _symmetry(self, plane: Plane, voxels: Voxels) -> float:
        return float(self.is_inside(self.mirrored(plane, voxels)).mean())


def _sample(voxels: Voxels) -> Voxels:
    """Every second (third, ...) voxel along each axis, so that about `SAMPLE` remain."""
    step = round((voxels[0].size / SAMPLE) ** (1 / 3))
    if step < 2:
        return voxels
    x, y, z = (axis % step == 0 for axis in voxels)
    chosen = x & y & z
    return tuple(axis[chosen] for axis in voxels) if chosen.any() else voxels


def _normal(plane: Plane) -> Floats:
    """The unit normal (3,), toward the right."""
    normal = np.array([1.0, plane.yaw, plane.roll])
    return np.asarray(normal / np.sqrt((normal**2).sum()))


def _moved(plane: Plane, axis: int, steps: float) -> Plane:
    moved = list(plane)
    moved[axis] += steps * FIRST_STEPS[axis]
    return Plane(*moved)
