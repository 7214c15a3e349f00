"""Simple heads on any grid, from formulas in world coordinates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.imaging import Volume

SEMI_AXES = np.array([60.0, 78.0, 54.0])  # mm, of an ellipsoid that resembles a brain
CENTER = np.array([6.0, -14.0, 20.0])  # mm

Where = Callable[[NDArray[np.float64]], NDArray[np.bool_]]


def rotation(*, yaw: float = 0, roll: float = 0, pitch: float = 0) -> NDArray[np.float64]:
    """The matrix (3, 3) of rotations about the vertical, the anterior and the right axis, in degrees."""
    (sy, sr, sp), (cy, cr, cp) = np.sin(np.radians([yaw, roll, pitch])), np.cos(np.radians([yaw, roll, pitch]))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return np.asarray(about_z @ about_y @ about_x)


# The directions of the voxel axes as columns, in world coordinates (right, anterior, superior).
GRIDS = {
    "RAS": np.diag([1.0, 1, 1]),
    "LAS": np.diag([-1.0, 1, 1]),
    "SPL": np.array([[0.0, 0, -1], [0, -1, 0], [1, 0, 0]]),
    "oblique": rotation(yaw=12, roll=-9, pitch=17) @ np.diag([-1.0, 1, 1]),
}


def grid(axes: ArrayLike, voxel: float = 4.0, size: float = 180.0) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine (4, 4) of a cubic grid around the head with these voxel axes."""
    count = round(size / voxel)
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(axes) * voxel
    affine[:3, 3] = CENTER - affine[:3, :3] @ np.full(3, (count - 1) / 2)
    return (count, count, count), affine


def world(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The positions (x, y, z, 3) of the voxels in mm, relative to the center of the head."""
    points = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T
    return np.asarray(points + affine[:3, 3] - CENTER)


def head(
    axes: ArrayLike, *, pose: ArrayLike = GRIDS["RAS"], without: Where | None = None, voxel: float = 4.0
) -> Volume:
    """The mask of an ellipsoid in `pose` (a rotation), without the points for which `without` is true in its frame."""
    shape, affine = grid(axes, voxel)
    points = world(shape, affine) @ np.asarray(pose)  # in the frame of the head
    inside = ((points / SEMI_AXES) ** 2).sum(axis=-1) < 1
    return Volume(inside & ~without(points) if without else inside, affine)


def image(mask: Volume, values: NDArray[np.generic]) -> Volume:
    """An image on the grid of a mask."""
    return Volume(values, mask.affine)
