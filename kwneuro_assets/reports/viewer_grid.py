"""The voxel grid of the viewer's volumes: that of the derivatives, cropped, in the order of RAS+, coarser if need be.

Voxel axes are permuted and flipped to the nearest world axes, so that the first index increases to the right, the
second to anterior, the third to superior. Nothing is resampled: an oblique grid stays oblique, and each voxel of the
viewer is a voxel of the derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.volume import OnGrid

MARGIN = 3  # voxels around the head


@dataclass(frozen=True, eq=False)
class ViewerGrid(OnGrid):
    """A part of the grid of the derivatives.

    Attributes:
        shape: The number of voxels (x, y, z) along the axes nearest to R, A and S.
        affine: (4, 4), voxel indices to world coordinates, scanner RAS+ in mm.
        steps: Every how many voxels of the derivatives there is one here, by axis.
        to_source: (4, 4), integers: voxel indices to those of the derivatives, as they are stored.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    steps: tuple[int, int, int]
    to_source: NDArray[np.int64]
    _orientation: NDArray[np.float64]
    _part: tuple[slice, slice, slice]

    @classmethod
    def of(cls, source: OnGrid, inside: NDArray[Any], steps: tuple[int, int, int] = (1, 1, 1)) -> ViewerGrid:
        """The part of the grid of `source` around the voxels where `inside` (x, y, z) is not 0, and MARGIN more.

        The entire grid if there is no such voxel. Every n-th voxel is taken along each axis, n given by `steps`.
        """
        from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

        orientation = io_orientation(source.affine)
        part = tuple(
            slice(start, stop, step)
            for (start, stop), step in zip(_bounds(apply_orientation(inside, orientation)), steps, strict=True)
        )
        cut = np.diag([*steps, 1])
        cut[:3, 3] = [one.start for one in part]
        to_source = np.rint(inv_ornt_aff(orientation, source.grid)).astype(np.int64) @ cut
        shape = tuple(len(range(one.start, one.stop, one.step)) for one in part)
        return cls(shape, source.affine @ to_source, steps, to_source, orientation, part)  # type: ignore[arg-type]

    def image(self, array: NDArray[Any]) -> NDArray[Any]:
        """The voxels of an array (x, y, z, ...) on the grid of the derivatives; a view."""
        from nibabel.orientations import apply_orientation

        image: NDArray[Any] = apply_orientation(array, self._orientation)[self._part]
        return image

    def coarser(self) -> tuple[int, int, int]:
        """The steps of the next coarser grid: the axis with the smallest spacing has a larger one, z first."""
        spacing = np.round(self.voxel_size, 3)
        axis = max(range(3), key=lambda one: (-spacing[one], one))
        x, y, z = (step + (one == axis) for one, step in enumerate(self.steps))
        return x, y, z


def _bounds(inside: NDArray[Any]) -> list[tuple[int, int]]:
    """The first voxel and the one after the last, along each axis, with the margin."""
    bounds = []
    for axis, size in enumerate(inside.shape):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(inside.any(axis=others))
        start, stop = (int(found[0]), int(found[-1]) + 1) if found.size else (0, size)
        bounds.append((max(0, start - MARGIN), min(size, stop + MARGIN)))
    return bounds
