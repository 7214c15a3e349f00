"""Moving arrays between voxel orientations, for networks that were trained on one of them.

A voxel orientation is written as the world directions in which the three indices grow: "LAS" means that the
first index grows to the left, the second to the front, the third to the top. Only voxels move here. Vectors
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
    """`volume` with its voxel axes permuted and flipped to those nearest to `axes`; no value changes.

    Any of the 48 orientations may be asked for, also one with z before x such as "SPL". On an oblique grid each
    axis takes the name of the world axis that it is nearest to.
    """
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    change = ornt_transform(io_orientation(volume.affine), axcodes2ornt(axes))
    affine = volume.affine @ inv_ornt_aff(change, volume.grid)
    return Volume(apply_orientation(volume.array, change), affine, volume.names)


def orientation(volume: Volume) -> str:
    """The volume's own voxel orientation, such as "LAS"; `reoriented(result, orientation(volume))` undoes a move."""
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(volume.affine))


def tilt(volume: Volume) -> float:
    """The largest angle, in degrees, between a voxel axis and the world axis nearest to it."""
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosines = np.abs(reoriented_axes(directions).diagonal())
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())


def reoriented_axes(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns of `directions` (3, 3), each moved to the place of the world axis it is nearest to."""
    best = max(itertools.permutations(range(3)), key=lambda order: np.abs(directions[:, order].diagonal()).sum())
    return directions[:, best]


def world_aligned_grid(volume: Volume, spacing: float) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine of an L-A-S grid along the world axes with cubic voxels of `spacing` mm that covers `volume`."""
    corners = np.array(list(itertools.product(*((0, size - 1) for size in volume.grid))))
    places = corners @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    low, high = places.min(axis=0), places.max(axis=0)
    size = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
    affine = np.diag([-spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (low + high) / 2 - affine[:3, :3] @ ((size - 1) / 2)
    return (int(size[0]), int(size[1]), int(size[2])), affine


def nearest(volume: Volume, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Volume:
    """`volume` looked up at the voxel centres of another grid, zero outside: nearest neighbour.

    What cannot be averaged (masks, peaks with their arbitrary sign and order) is moved by it.
    """
    to_source = np.linalg.inv(volume.affine) @ affine
    result: NDArray[Any] = np.zeros((*shape, *volume.shape[3:]), volume.array.dtype)
    plane = np.indices(shape[1:]).reshape(2, -1)
    # One sheet at a time: coordinates of the whole grid would take more memory than the image.
    for x in range(shape[0]):
        index = to_source[:3, :1] * x + to_source[:3, 1:3] @ plane + to_source[:3, 3:]
        voxel = np.rint(index).astype(np.intp)
        inside = ((voxel >= 0) & (voxel < np.array(volume.grid)[:, None])).all(axis=0)
        result[x].reshape(plane.shape[1], -1)[inside] = volume.array[tuple(voxel[:, inside])].reshape(inside.sum(), -1)
    return replace(volume, array=result, affine=affine)
