"""A DWI series: a 4-D image with its gradient table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.gradients import GradientTable
from kwneuro_assets.imaging.streamed import StreamedVolume
from kwneuro_assets.imaging.table import Kind, Table
from kwneuro_assets.imaging.volume import Volume


@dataclass(frozen=True, eq=False)
class Dwi:
    """A DWI series: a 4-D image (x, y, z, n), float32, and the gradient table of its n volumes.

    `volume` is a Volume, or a StreamedVolume if the image does not fit in memory. `images`, `signals` and `mean_b0`
    work on both; `array` loads a streamed image into memory.

    `gradients` may be in either frame; it is converted to the FSL frame, in which it is stored. Derivations use
    `world_bvecs`. `interpolated` means that the voxels were resampled (motion or distortion correction), so that the
    noise of neighboring voxels is no longer independent.

    `preprocessing` has what preprocessing measured of the raw DWI by name, such as `qsiprep_mean_fd`: finite numbers
    and text, as a row of a Table may have. It is immutable, and a series that is derived from another has none.

    Raises InvalidData if the image is not 4-D, has another number of volumes than the gradient table, has no b=0
    volume, or is zero everywhere, and as Table does for a name or value of `preprocessing`.

    >>> image = Volume(np.full((2, 2, 1, 3), 100.0), np.diag([2, 2, 2, 1]))
    >>> dwi = Dwi(image, GradientTable([0, 1000, 1000], [[0, 0, 0], [1, 0, 0], [0, 1, 0]]))
    >>> dwi.world_bvecs.tolist()  # x is negated: the determinant of the affine is positive
    [[0.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    >>> dwi.mean_b0().shape
    (2, 2, 1)
    """

    volume: Volume | StreamedVolume
    gradients: GradientTable
    interpolated: bool = False
    preprocessing: Mapping[str, float | int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "preprocessing", _checked_values(self.preprocessing))
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
        """(x, y, z, n), float32; a streamed image is loaded into memory."""
        return self.volume.array  # float32 by __post_init__

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), voxel indices to world coordinates, scanner RAS+ in mm."""
        return self.volume.affine

    @property
    def bvals(self) -> NDArray[np.float64]:
        """(n,) in s/mm^2."""
        return self.gradients.bvals

    @property
    def world_bvecs(self) -> NDArray[np.float64]:
        """(n, 3) unit vectors in the world frame, scanner RAS+; zero for a b=0 volume without a direction."""
        return self.gradients.to_frame("world", self.affine).bvecs

    @property
    def b0_mask(self) -> NDArray[np.bool_]:
        """(n,) True where a volume counts as b=0."""
        return self.gradients.b0_mask

    def with_array(self, array: NDArray[np.float32]) -> Dwi:
        """The same acquisition with other voxel values (x, y, z, n), without `preprocessing`."""
        return Dwi(Volume(array, self.affine), self.gradients, self.interpolated)

    def without_preprocessing(self) -> Dwi:
        """The same DWI series without `preprocessing`; itself if it has none."""
        return replace(self, preprocessing={}) if self.preprocessing else self

    def images(self, chosen: Iterable[int] | None = None) -> Iterator[NDArray[np.float32]]:
        """The volumes (x, y, z), float32: all, or those at the ascending indices `chosen`.

        Each is read when the iterator reaches it; the arrays stay valid afterwards.
        """
        return self.volume.volumes(chosen)

    def image(self, index: int) -> NDArray[np.float32]:
        """One volume (x, y, z)."""
        (image,) = self.images([index])
        return image

    def signals(
        self, inside: NDArray[np.bool_], volumes: NDArray[np.intp] | Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """The signals (voxels, n) of the voxels `inside` (x, y, z), in C order of the grid: of `volumes`, or of all.

        The signals of one volume are contiguous in memory.
        """
        chosen = np.arange(self.volume.shape[3]) if volumes is None else np.asarray(volumes, np.intp)
        # Positions in a volume in Fortran order, x fastest.
        positions = np.ravel_multi_index(np.nonzero(inside), inside.shape, order="F")
        gathered = np.empty((chosen.size, positions.size), np.float32)
        ascending = np.unique(chosen)
        for index, image in zip(ascending, self.images(ascending.tolist()), strict=True):
            for row in np.flatnonzero(chosen == index):
                np.take(image.ravel(order="F"), positions, out=gathered[row])
        return gathered.T

    def mean_b0(self) -> Volume:
        """The mean of the b=0 volumes, (x, y, z), float32; summed in float64."""
        return self._mean_b0

    @cached_property
    def _mean_b0(self) -> Volume:
        mean = np.zeros(self.volume.grid)
        chosen = np.flatnonzero(self.b0_mask)
        for image in self.images(chosen.tolist()):
            mean += image
        return Volume((mean / chosen.size).astype(np.float32), self.affine)


def _checked_values(values: Mapping[str, float | int | str]) -> Mapping[str, float | int | str]:
    """An immutable copy. Raises InvalidData if a row of a Table cannot have these names and values."""
    kinds = {name: _kind_of(value) for name, value in values.items()}
    columns = Table({name: (value,) for name, value in values.items()}, kinds).columns if values else {}
    checked = {name: cell for name, (cell,) in columns.items() if cell is not None}
    if missing := [name for name in values if name not in checked]:
        raise InvalidData("preprocessing", expected="numbers and text", found=f"no value of {', '.join(missing)}")
    return MappingProxyType(checked)


def _kind_of(value: float | int | str) -> Kind:
    if isinstance(value, str):
        return "text"
    return "integer" if isinstance(value, int) else "number"


def require_signal(has_signal: bool) -> None:
    """Raises InvalidData if an image has no signal, which means that it is zero everywhere."""
    if not has_signal:
        raise InvalidData("image", expected="a signal somewhere", found="zero in every voxel")
