"""A 4-D image that is too large for memory: its volumes are read on demand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.volume import OnGrid, checked_affine

# Bytes as float32: larger images are streamed, in parts of at most this size. A constant, not a setting or a fraction
# of the machine's memory, so that results do not depend on the machine.
LARGE = 2 << 30


def is_large(shape: Sequence[int]) -> bool:
    """Whether an image of this shape is streamed: more than 2 GiB as float32.

    >>> is_large((104, 104, 72, 100)), is_large((180, 220, 180, 270))
    (False, True)
    """
    return math.prod(shape) * np.dtype(np.float32).itemsize > LARGE


@dataclass(frozen=True, eq=False)
class StreamedVolume(OnGrid):
    """An image (x, y, z, n), float32, whose voxels stay in its files.

    `read` yields the volumes (x, y, z) at ascending indices. It may raise any error of reading, and raises a clear one
    if the image has changed. The caller guarantees that all voxels are finite.

    Raises InvalidData if `shape` does not have four dimensions or the affine is singular.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    read: Callable[[Sequence[int]], Iterator[NDArray[np.float32]]]

    def __post_init__(self) -> None:
        if len(self.shape) != 4 or 0 in self.shape:
            raise InvalidData("DWI series", expected="4 dimensions, none of them empty", found=f"shape {self.shape}")
        object.__setattr__(self, "affine", checked_affine(self.affine))

    def volumes(self, chosen: Iterable[int] | None = None) -> Iterator[NDArray[np.float32]]:
        """The volumes (x, y, z): all, or those at the ascending indices `chosen`. Each is read when it is reached.

        Raises InvalidData if the indices do not ascend or are out of range, and the errors of `read`.
        """
        wanted = range(self.shape[3]) if chosen is None else list(chosen)
        if any(not 0 <= index < self.shape[3] for index in wanted) or any(
            later <= index for index, later in itertools.pairwise(wanted)
        ):
            raise InvalidData(
                "choice of volumes", expected=f"ascending indices below {self.shape[3]}", found=f"{list(wanted)}"
            )
        return self.read(wanted) if wanted else iter(())

    @property
    def array(self) -> NDArray[np.float32]:
        """(x, y, z, n), float32, in Fortran order, read-only. The entire image is read and may not fit in memory."""
        array = np.empty(self.shape, np.float32, order="F")
        for index, volume in enumerate(self.volumes()):
            array[..., index] = volume
        array.setflags(write=False)
        return array
