"""A series on its way that does not fit in memory: compressed, in a temporary file that has no name."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging.streamed import StreamedVolume
from kwneuro_assets.threads import map_ahead, thread_count

_LEVEL = 1  # of isal's compression: the fastest that compresses float32 at all
_THREADS = 4  # at most: each holds a volume or two


class ScratchError(ActionableError):
    """The folder for temporary files cannot take a series; says which, and what to do."""


class _Place(NamedTuple):
    start: int
    size: int


class ScratchSeries:
    """A series (x, y, z, n) of float32 that is added in slabs of slices, or in whole volumes, and read by volumes, any
    number of times.

    The file lies in the folder for temporary files (`TMPDIR`). It goes with the last reference to this and to the
    volume made of it, or with the process, however that ends.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="kwneuro-")  # noqa: SIM115  # lives as long as this
        self._slabs: list[tuple[int, list[_Place]]] = []  # number of slices, and where each volume's part lies
        self._end = 0

    def add(self, slab: NDArray[np.float32]) -> None:
        """The next slices (x, y, slices, n), all volumes of them. Raises ScratchError where there is no room."""
        parts = (slab[..., index] for index in range(slab.shape[3]))
        blocks = map_ahead(_compressed, parts, min(thread_count(), _THREADS))
        self._slabs.append((slab.shape[2], [self._put(block) for block in blocks]))

    def append(self, image: NDArray[np.float32]) -> None:
        """The next volume (x, y, z), of a series that is added by volumes. Raises as `add` does."""
        if not self._slabs:
            self._slabs.append((image.shape[2], []))
        ((_, places),) = self._slabs
        places.append(self._put(_compressed(image)))

    def _put(self, block: bytes) -> _Place:
        try:
            self._file.write(block)
            self._file.flush()
        except OSError as error:
            raise ScratchError(
                f"{tempfile.gettempdir()}: a part of a series could not be put there ({error.strerror}). Make room, or "
                "set the environment variable TMPDIR to a folder with room for the compressed series"
            ) from None
        place = _Place(self._end, len(block))
        self._end += len(block)
        return place

    def volume(self, grid: tuple[int, int, int], affine: ArrayLike) -> StreamedVolume:
        """The whole of what was added, on a grid of this many voxels."""
        count = len(self._slabs[0][1])

        def read(chosen: Sequence[int]) -> Iterator[NDArray[np.float32]]:
            return map_ahead(lambda index: self._image(index, grid), chosen, min(thread_count(), _THREADS))

        return StreamedVolume((*grid, count), np.asarray(affine), read)

    def _image(self, index: int, grid: tuple[int, int, int]) -> NDArray[np.float32]:
        image = np.empty(grid, np.float32, order="F")
        start = 0
        for slices, places in self._slabs:
            part = image[:, :, start : start + slices]
            place = places[index]
            block = os.pread(self._file.fileno(), place.size, place.start)
            content = isal_zlib.decompress(block, bufsize=math.prod(part.shape) * part.itemsize)
            part[...] = np.frombuffer(content, np.float32).reshape(part.shape, order="F")
            start += slices
        return image


def _compressed(part: NDArray[np.float32]) -> bytes:
    return bytes(isal_zlib.compress(part.ravel(order="F").data, _LEVEL))
