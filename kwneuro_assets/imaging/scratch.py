"""Temporary storage for a DWI series that does not fit in memory: compressed, in an unnamed temporary file."""

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

_LEVEL = 1  # of isal's compression: the fastest level that reduces the size of float32
_THREADS = 4  # at most: each holds one or two volumes


class ScratchError(ActionableError):
    """A DWI series cannot be written to the folder for temporary files; names the folder and the remedy."""


class _Place(NamedTuple):
    start: int
    size: int


class ScratchSeries:
    """A DWI series (x, y, z, n), float32, written in slabs of slices or volume by volume, and read by volumes.

    The file is in the folder for temporary files (`TMPDIR`). It is deleted with the last reference to this object and
    to its `volume`, or when the process ends, even if that is killed.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="kwneuro-")  # noqa: SIM115  # open as long as this object
        self._slabs: list[tuple[int, list[_Place]]] = []  # number of slices, and the place of each volume's part
        self._end = 0

    def add(self, slab: NDArray[np.float32]) -> None:
        """Appends the next slices (x, y, slices, n) of all volumes. Raises ScratchError if the disk is full."""
        parts = (slab[..., index] for index in range(slab.shape[3]))
        blocks = map_ahead(_compressed, parts, min(thread_count(), _THREADS))
        self._slabs.append((slab.shape[2], [self._put(block) for block in blocks]))

    def append(self, image: NDArray[np.float32]) -> None:
        """Appends the next volume (x, y, z), if the DWI series is written volume by volume. Raises as `add`."""
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
                f"{tempfile.gettempdir()}: cannot write a part of a DWI series ({error.strerror}). Free disk space, or "
                "set the environment variable TMPDIR to a folder with space for the compressed DWI series"
            ) from None
        place = _Place(self._end, len(block))
        self._end += len(block)
        return place

    def volume(self, grid: tuple[int, int, int], affine: ArrayLike) -> StreamedVolume:
        """The complete DWI series, streamed from the file; `grid` (x, y, z) and `affine` (4, 4) as in Volume."""
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
