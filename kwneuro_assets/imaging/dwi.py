"""A diffusion-weighted series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.gradients import GradientTable
from kwneuro_assets.imaging.streamed import StreamedVolume
from kwneuro_assets.imaging.volume import Volume


@dataclass(frozen=True, eq=False)
class Dwi:
    """A 4-D volume (x, y, z, n), float32, with the gradient table of its n volumes.

    One that does not fit in memory is a StreamedVolume. What reads voxels by `images`, `signals` and `mean_b0` need
    not know which it is; `array` reads such a series whole.

    `gradients` may come in either frame and is kept in the FSL frame, as it is stored; `world_bvecs` is what
    derivations use. `interpolated` tells that the voxels were resampled (motion or distortion correction),
    after which the noise of neighbours is no longer independent.

    Raises InvalidData for a volume that is not 4-D, a table of another length, no b=0 volume, or an image
    that is zero everywhere.
    """

    volume: Volume | StreamedVolume
    gradients: GradientTable
    interpolated: bool = False

    def __post_init__(self) -> None:
        if len(self.volume.shape) != 4:
            raise InvalidData("diffusion-weighted image", expected="4 dimensions", found=f"shape {self.volume.shape}")
        if isinstance(self.volume, Volume) and self.volume.array.dtype != np.float32:
            object.__setattr__(self, "volume", Volume(self.volume.array.astype(np.float32), self.volume.affine))
        object.__setattr__(self, "gradients", self.gradients.to_frame("fsl", self.volume.affine))
        if len(self.gradients) != self.volume.shape[3]:
            raise InvalidData(
                "gradient table",
                expected=f"{self.volume.shape[3]} entries, one for each volume",
                found=f"{len(self.gradients)}",
                remedy="The image and its bval and bvec files do not belong together.",
            )
        self.gradients.require_b0()
        require_signal(any(bool(image.any()) for image in self.images()))

    @property
    def array(self) -> NDArray[np.float32]:
        """(x, y, z, n), the whole of it in memory."""
        return self.volume.array  # float32 by __post_init__

    @property
    def affine(self) -> NDArray[np.float64]:
        return self.volume.affine

    @property
    def bvals(self) -> NDArray[np.float64]:
        """(n,) in s/mm^2."""
        return self.gradients.bvals

    @property
    def world_bvecs(self) -> NDArray[np.float64]:
        """(n, 3) unit vectors (zero for b=0 without one) in the world frame, scanner RAS+."""
        return self.gradients.to_frame("world", self.affine).bvecs

    @property
    def b0_mask(self) -> NDArray[np.bool_]:
        """(n,) True where a volume counts as b=0."""
        return self.gradients.b0_mask

    def with_array(self, array: NDArray[np.float32]) -> Dwi:
        """The same acquisition with other voxel values."""
        return Dwi(Volume(array, self.affine), self.gradients, self.interpolated)

    def images(self, chosen: Iterable[int] | None = None) -> Iterator[NDArray[np.float32]]:
        """The volumes (x, y, z), all of them or those at these indices, which ascend; each is read when it is asked
        for, and may be kept."""
        return self.volume.volumes(chosen)

    def image(self, index: int) -> NDArray[np.float32]:
        """One volume (x, y, z)."""
        (image,) = self.images([index])
        return image

    def signals(
        self, inside: NDArray[np.bool_], volumes: NDArray[np.intp] | Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """The signals (voxels, n) of the voxels `inside` (x, y, z) in C order of the grid, of all volumes or of some.

        Each volume's are contiguous in memory: what a fit takes of a series, gathered volume by volume.
        """
        chosen = np.arange(self.volume.shape[3]) if volumes is None else np.asarray(volumes, np.intp)
        # Positions along a volume as it lies in memory, x fastest.
        positions = np.ravel_multi_index(np.nonzero(inside), inside.shape, order="F")
        gathered = np.empty((chosen.size, positions.size), np.float32)
        ascending = np.unique(chosen)
        for index, image in zip(ascending, self.images(ascending.tolist()), strict=True):
            for row in np.flatnonzero(chosen == index):
                np.take(image.ravel(order="F"), positions, out=gathered[row])
        return gathered.T

    def mean_b0(self) -> Volume:
        """The mean of the b=0 volumes, (x, y, z) float32, summed in float64."""
        return self._mean_b0

    @cached_property
    def _mean_b0(self) -> Volume:
        mean = np.zeros(self.volume.grid)
        chosen = np.flatnonzero(self.b0_mask)
        for image in self.images(chosen.tolist()):
            mean += image
        return Volume((mean / chosen.size).astype(np.float32), self.affine)


def require_signal(is_there: bool) -> None:
    """Raises InvalidData for an image that is zero everywhere."""
    if not is_there:
        raise InvalidData("image", expected="a signal somewhere", found="zero in every voxel")
