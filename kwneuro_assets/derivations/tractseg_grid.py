"""The grid on which TractSeg works, and the way back.

TractSeg's networks were trained on images with cubic voxels along the world axes, in the voxel orientation LAS. Flips
and permutations of the axes bring most images there without a change of any value. Others are resampled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.orientation import (
    nearest,
    nearest_voxels,
    orientation,
    reoriented,
    tilt,
    world_aligned_grid,
)
from kwneuro_assets.imaging import Volume

TRACTSEG_AXES = "LAS"
# Outside of these tolerances, an image is resampled. At the edge of a brain, 90 mm from its center, one degree is
# 1.6 mm: less than a voxel.
TILT_TOLERANCE = 1.0  # degrees
ANISOTROPY_TOLERANCE = 1.05  # longest edge of a voxel divided by its shortest


class TractSegGrid:
    """An image (x, y, z, n) on the grid of TractSeg, and the way back to its own.

    Attributes:
        image: The image on TractSeg's grid.
    """

    def __init__(self, image: Volume) -> None:
        self._original = image
        isotropic = max(image.voxel_size) / min(image.voxel_size) <= ANISOTROPY_TOLERANCE
        self._voxels: NDArray[np.intp] | None = None
        if isotropic and tilt(image) <= TILT_TOLERANCE:
            self.image = reoriented(image, TRACTSEG_AXES)
        else:
            self.image = nearest(image, *world_aligned_grid(image, min(image.voxel_size)))
            self._voxels = nearest_voxels(self.image.grid, self.image.affine, image.grid, image.affine)

    def back(self, values: NDArray[Any]) -> NDArray[Any]:
        """An image (x, y, z) on TractSeg's grid, on the grid of the original."""
        if self._voxels is None:
            return reoriented(Volume(values, self.image.affine), orientation(self._original)).array
        result = np.zeros(self._voxels.shape, values.dtype)
        inside = self._voxels >= 0
        result[inside] = values.ravel()[self._voxels[inside]]
        return result
