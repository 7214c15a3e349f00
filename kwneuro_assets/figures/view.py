"""Selection and orientation of the slices in figures.

Voxel axes are reordered and flipped to the nearest scanner RAS+ without resampling: an oblique grid is shown along its
own axes. Figures are in neurological convention: the subject's left is at the left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.volume import OnGrid

MARGIN = 2  # voxels around the region of interest
MIN_ASPECT = 0.2  # width over length; a narrower plane is not legible
_AIR = 0.15  # fraction of the bright voxels' intensity below which a voxel counts as air


class Plane(NamedTuple):
    """The world axes (0: left to right, 1: posterior to anterior, 2: inferior to superior) of one kind of slice."""

    name: str
    across: int
    up: int
    through: int


AXIAL = Plane("axial", across=0, up=1, through=2)
CORONAL = Plane("coronal", across=0, up=2, through=1)
SAGITTAL = Plane("sagittal", across=1, up=2, through=0)
PLANES = (AXIAL, CORONAL, SAGITTAL)


class Cut(NamedTuple):
    """One slice: its plane, and its position along the plane's third axis, in voxels of the cropped grid."""

    plane: Plane
    position: int


@dataclass(frozen=True, eq=False)
class View:
    """The orientation and crop of the images of one grid.

    `axes[w]` is the voxel axis nearest to world axis w, `flips[w]` whether it points in the opposite direction,
    `lengths[w]` its number of voxels, `crop[w]` the range of voxels along it. `voxel_size` (mm) and `center` (voxels of
    the cropped grid) have the same order. `world_to_axes` (3, 3) maps a world vector to its components along those
    axes.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    lengths: tuple[int, int, int]
    crop: tuple[slice, slice, slice]
    center: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    world_to_axes: NDArray[np.float64]

    @classmethod
    def of(cls, grid: OnGrid, inside: NDArray[Any] | None = None) -> View:
        """The view of a grid, cropped to and centered on the voxels where `inside` (x, y, z) is true.

        If `inside` is None or false everywhere, the view is the entire grid.
        """
        axes, flips = _nearest_ras(grid.affine)
        directions = grid.affine[:3, :3][:, axes] * np.where(flips, -1, 1)
        size = np.linalg.norm(directions, axis=0)
        x, y, z = (grid.grid[axis] for axis in axes)
        entire = (slice(None), slice(None), slice(None))
        to_axes = np.linalg.inv(directions / size)
        uncropped = cls(axes, flips, (x, y, z), entire, (0, 0, 0), tuple(size.tolist()), to_axes)
        crop, center = _bounds(uncropped.cropped(np.ones(grid.grid, bool) if inside is None else inside))
        return replace(uncropped, crop=crop, center=center)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels of the cropped grid along the axes nearest to R, A and S."""
        x, y, z = (part.stop - part.start for part in self.crop)
        return x, y, z

    def cropped(self, array: NDArray[Any]) -> NDArray[Any]:
        """The cropped image with axes nearest to R, A and S, from (x, y, z, ...); no copy."""
        ordered = array.transpose(*self.axes, *range(3, array.ndim))
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        image: NDArray[Any] = ordered[steps][self.crop]
        return image

    def cut(self, array: NDArray[Any], cut: Cut) -> NDArray[Any]:
        """One slice (rows, columns, ...) of an image (x, y, z, ...): row 0 is the lowest, column 0 the leftmost."""
        where: list[Any] = [slice(None)] * 3
        where[cut.plane.through] = cut.position
        return np.ascontiguousarray(self.cropped(array)[tuple(where)].swapaxes(0, 1))

    def label(self, cut: Cut) -> str:
        """The voxel index of a slice, from 0, along the axis i, j or k of the image file: `k = 34`."""
        through = cut.plane.through
        position = self.crop[through].start + cut.position
        index = self.lengths[through] - 1 - position if self.flips[through] else position
        return f"{'ijk'[self.axes[through]]} = {index}"

    def project(self, array: NDArray[Any], plane: Plane) -> NDArray[Any]:
        """The projection (rows, columns) of an image (x, y, z): true if any voxel along the line of sight is not 0."""
        return np.ascontiguousarray(self.cropped(array).any(axis=plane.through).T)

    def extent(self, plane: Plane) -> tuple[float, float]:
        """Width and height of a slice in mm."""
        across, up = plane.across, plane.up
        return self.shape[across] * self.voxel_size[across], self.shape[up] * self.voxel_size[up]

    def planes(self) -> tuple[Plane, ...]:
        """The legible planes: all three, or fewer for a slab or a single slice."""
        legible = [plane for plane in PLANES if min(self.extent(plane)) >= MIN_ASPECT * max(self.extent(plane))]
        return tuple(legible) or (max(PLANES, key=lambda plane: float(np.prod(self.extent(plane)))),)

    def cuts(self) -> tuple[Cut, ...]:
        """One slice through the center in each legible plane, or three slices if only one plane is legible."""
        planes = self.planes()
        if len(planes) > 1:
            return tuple(Cut(plane, self.center[plane.through]) for plane in planes)
        return self.stack(planes[0], 3)

    def stack(self, plane: Plane, count: int) -> tuple[Cut, ...]:
        """At most `count` slices of one plane, evenly spaced over the middle of the cropped grid."""
        depth = self.shape[plane.through]
        positions = np.round(depth * (np.arange(count) + 1) / (count + 1) - 0.5).astype(int)
        return tuple(Cut(plane, position) for position in np.unique(np.clip(positions, 0, depth - 1)).tolist())


def foreground(image: NDArray[Any]) -> NDArray[np.bool_]:
    """The voxels of an image (x, y, z) that are not air; all voxels of an image without bright voxels."""
    bright = float(np.percentile(image, 99))
    inside: NDArray[np.bool_] = image > _AIR * bright
    return inside if bright > 0 else np.ones(image.shape, bool)


def _nearest_ras(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    from nibabel.orientations import io_orientation

    orientation = io_orientation(affine)
    x, y, z = np.argsort(orientation[:, 0]).tolist()
    flip_x, flip_y, flip_z = (bool(orientation[axis, 1] < 0) for axis in (x, y, z))
    return (x, y, z), (flip_x, flip_y, flip_z)


def _bounds(inside: NDArray[Any]) -> tuple[tuple[slice, slice, slice], tuple[int, int, int]]:
    """The bounding box with a margin of the voxels inside, and their center of mass relative to its corner."""
    crop, center = [], []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        counts = np.count_nonzero(inside, axis=others)
        if not counts.any():
            counts = np.ones_like(counts)
        found = np.flatnonzero(counts)
        start, stop = max(0, int(found[0]) - MARGIN), min(len(counts), int(found[-1]) + 1 + MARGIN)
        crop.append(slice(start, stop))
        center.append(round(float(np.average(np.arange(len(counts)), weights=counts))) - start)
    return (crop[0], crop[1], crop[2]), (center[0], center[1], center[2])
