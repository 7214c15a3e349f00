"""A 4-D image that is too large for memory: its volumes are read when they are needed, one after the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.volume import OnGrid, checked_affine

# Bytes as float32. What is larger is streamed, and then never held in larger parts. By the image alone and not by a
# setting or the machine: what an image gives must not depend on where it is read.
LARGE = 2 << 30


def is_large(shape: Sequence[int]) -> bool:
    """Whether an image of this shape is streamed."""
    return math.prod(shape) * np.dtype(np.float32).itemsize > LARGE


@dataclass(frozen=True, eq=False)
class StreamedVolume(OnGrid):
    """An image (x, y, z, n), float32, that stays where it is: in its files.

    `read` gives the volumes (x, y, z) at indices, which ascend, and may raise whatever reading may, with a clear
    message where the image has changed. Who makes a StreamedVolume has seen that it is finite.

    Raises InvalidData for another number of dimensions or a singular affine.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    read: Callable[[Sequence[int]], Iterator[NDArray[np.float32]]]

    def __post_init__(self) -> None:
        if len(self.shape) != 4 or 0 in self.shape:
            raise InvalidData("series", expected="4 dimensions, none of them empty", found=f"shape {self.shape}")
        object.__setattr__(self, "affine", checked_affine(self.affine))

    def volumes(self, chosen: Iterable[int] | None = None) -> Iterator[NDArray[np.float32]]:
        """The volumes, all of them or those at these indices, which ascend; each is read when it is asked for.

        Raises InvalidData for indices that do not ascend or that there are not, and as `read` does.
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
        """(x, y, z, n), read whole: it may not fit in memory. In Fortran order, read-only."""
        array = np.empty(self.shape, np.float32, order="F")
        for index, volume in enumerate(self.volumes()):
            array[..., index] = volume
        array.setflags(write=False)
        return array
