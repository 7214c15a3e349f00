"""TractSeg's cube: a brain without its surroundings, padded to a cube and scaled to the size of the network's slices.

TractSeg scales by nearest-neighbor interpolation, so its cube is a selection of voxels, and so is its way back. Here
TractSeg's functions select the numbers of voxels, once. The same selection then serves every peak and every bundle, and
only those voxels of the cube are stored that the result takes. (A brain of less than nine voxels along each axis is the
exception: TractSeg counts the nine channels as voxels, and pads it further.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.networks import quiet

Axes = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]


class Cube:
    """The cube around the nonzero voxels of an image (x, y, z, n) in TractSeg's orientation.

    `size` is the number of voxels along each edge of the cube. Raises ValueError if all voxels are zero.
    """

    def __init__(self, image: NDArray[np.float32], size: int) -> None:
        with quiet():
            from tractseg.libs import data_utils
        self._image = image
        box = data_utils.get_bbox_from_mask(image.any(axis=3))
        self._box = tuple(slice(low, high) for low, high in box)
        shape = image[self._box].shape[:3]
        # Numbers from 1, because TractSeg fills with zeros.
        self._voxels, fit = data_utils.pad_and_scale_img_to_square_img(_numbers(shape), target_size=size, nr_cpus=1)
        back = data_utils.cut_and_scale_img_back_to_original_img(_numbers((size, size, size)), fit, nr_cpus=1)
        taken = [_along(back, axis, size) for axis in range(3)]
        self.used: Axes = tuple(np.unique(one[one >= 0]) for one in taken)  # type: ignore[assignment]
        # For each axis: places in the image, and where their values are among those used.
        self._places = np.ix_(*(low + np.flatnonzero(one >= 0) for (low, _), one in zip(box, taken, strict=True)))
        order = (np.searchsorted(used, one[one >= 0]) for used, one in zip(self.used, taken, strict=True))
        self._order = np.ix_(*order)

    def array(self) -> NDArray[np.float32]:
        """The image in the cube (size, size, size, n), in TractSeg's order in memory: its last axis varies slowest.

        The order matters: the mean of a slice, which TractSeg subtracts, is a sum in the order of memory.
        """
        values = self._image[self._box]
        result = np.empty((values.shape[3], *self._voxels.shape), np.float32)
        for target, image in zip(result, np.moveaxis(values, 3, 0), strict=True):
            np.take(np.concatenate([np.zeros(1, np.float32), image.ravel()]), self._voxels, out=target)
        return result.transpose(1, 2, 3, 0)

    def to_image(self, values: NDArray[Any]) -> NDArray[Any]:
        """An image (x, y, z) of the values at the voxels `used` of the cube; zero outside of the brain's box."""
        image = np.zeros(self._image.shape[:3], values.dtype)
        image[self._places] = values[self._order]
        return image

    def all_to_image(self, values: NDArray[Any]) -> NDArray[Any]:
        """As `to_image`, of the values at all voxels of the cube."""
        return self.to_image(values[np.ix_(*self.used)])


def _numbers(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The numbers of the voxels of an image, from 1, in C order."""
    return np.arange(1, 1 + int(np.prod(shape))).reshape(shape)


def _along(back: NDArray[np.int64], axis: int, size: int) -> NDArray[np.intp]:
    """For each place along one axis of the image, the index in the cube that TractSeg takes there.

    `back` has numbers of voxels of the cube. The index is -1 where TractSeg takes none, because rounding moves the last
    place out of the cube.
    """
    numbers = back.max(axis=tuple({0, 1, 2} - {axis}))
    return np.where(numbers > 0, (numbers - 1) // size ** (2 - axis) % size, -1)
