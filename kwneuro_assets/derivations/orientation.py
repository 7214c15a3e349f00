"""Conversion of images between voxel orientations, for networks that were trained on one of them.

A voxel orientation is written as the world directions in which the three indices increase: "LAS" means that the first
index increases to the left, the second to anterior, the third to superior. Only the order of voxels changes; vectors
stored in them are in the world frame and keep their components.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Volume


def reoriented(volume: Volume, axes: str) -> Volume:
    """`volume` with its voxel axes permuted and flipped to the orientation `axes`; voxel values do not change.

    `axes` is any of the 48 orientations, such as "LAS" or "SPL". On an oblique grid, each voxel axis counts as the
    nearest world axis.

    >>> volume = Volume(np.arange(6).reshape(3, 2, 1), np.diag([2, 2, 2, 1]))
    >>> flipped = reoriented(volume, "LAS")
    >>> flipped.array[:, 0, 0].tolist(), flipped.affine[:3, 3].tolist()
    ([4.0, 2.0, 0.0], [4.0, 0.0, 0.0])
    """
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    change = ornt_transform(io_orientation(volume.affine), axcodes2ornt(axes))
    affine = volume.affine @ inv_ornt_aff(change, volume.grid)
    return Volume(apply_orientation(volume.array, change), affine, volume.names)


def orientation(volume: Volume) -> str:
    """The voxel orientation of `volume`, such as "LAS".

    `reoriented(other, orientation(volume))` converts another image back to it.

    >>> orientation(Volume(np.ones((3, 2, 1)), np.diag([-2, 2, 2, 1])))
    'LAS'
    """
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(volume.affine))


def tilt(volume: Volume) -> float:
    """The maximum angle, in degrees, between a voxel axis and the nearest world axis."""
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosines = np.abs(reoriented_axes(directions).diagonal())
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())


def reoriented_axes(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns of `directions` (3, 3) in the order of the nearest world axes."""
    best = max(itertools.permutations(range(3)), key=lambda order: np.abs(directions[:, order].diagonal()).sum())
    return directions[:, best]


def world_aligned_grid(volume: Volume, spacing: float) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """The shape and affine of an LAS grid along the world axes that covers `volume`, with voxels of `spacing` mm."""
    corners = np.array(list(itertools.product(*((0, size - 1) for size in volume.grid))))
    places = corners @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    low, high = places.min(axis=0), places.max(axis=0)
    size = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
    affine = np.diag([-spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (low + high) / 2 - affine[:3, :3] @ ((size - 1) / 2)
    return (int(size[0]), int(size[1]), int(size[2])), affine


def nearest(volume: Volume, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Volume:
    """`volume` resampled to another grid by nearest-neighbor interpolation; zero outside of `volume`.

    For images that cannot be averaged: masks, and peaks, whose sign and order are arbitrary.
    """
    voxels = nearest_voxels(volume.grid, volume.affine, shape, affine)
    inside = voxels >= 0
    result: NDArray[Any] = np.zeros((*shape, *volume.shape[3:]), volume.array.dtype)
    result[inside] = volume.array[np.unravel_index(voxels[inside], volume.grid)]
    return replace(volume, array=result, affine=affine)


def nearest_voxels(
    grid: tuple[int, int, int],
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    other: NDArray[np.float64],
) -> NDArray[np.intp]:
    """For each voxel of another grid (`shape`, `other`), the number of the nearest voxel of `grid` with `affine`.

    Numbers are in C order, as in an array that is raveled; -1 stands for a voxel outside of `grid`.
    """
    to_source = np.linalg.inv(affine) @ other
    plane = np.indices(shape[1:]).reshape(2, -1)
    result = np.empty(shape, np.intp)
    # One plane at a time: the coordinates of all voxels would take much memory.
    for x in range(shape[0]):
        index = to_source[:3, :1] * x + to_source[:3, 1:3] @ plane + to_source[:3, 3:]
        voxel = np.rint(index).astype(np.intp)
        inside = ((voxel >= 0) & (voxel < np.array(grid)[:, None])).all(axis=0)
        voxel[:, ~inside] = 0
        result[x] = np.where(inside, np.ravel_multi_index(tuple(voxel), grid), -1).reshape(shape[1:])
    return result
