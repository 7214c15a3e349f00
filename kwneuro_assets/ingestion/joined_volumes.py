"""The volumes of joined runs: in memory, in a temporary file, or read again from their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from kwneuro_assets.imaging import StreamedVolume, Volume
from kwneuro_assets.imaging.scratch import ScratchSeries
from kwneuro_assets.imaging.streamed import is_large
from kwneuro_assets.ingestion.repair import Repair
from kwneuro_assets.ingestion.run_tables import RunTable
from kwneuro_assets.ingestion.series import Series
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.storage.files import Fingerprint, Replaced, fingerprint_of
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.nifti import Streamed, reread_volumes


class JoinedVolumes:
    """Collects the volumes of all runs while they are read.

    They are stored in one array. If that is too large for memory, the volumes of a local dataset are not stored but
    read again when they are needed, and those of a remote dataset are stored in a temporary file.
    """

    def __init__(self, series: Series, tables: Sequence[RunTable], step: int) -> None:
        self._array: NDArray[np.float32] | None = None
        self._scratch: ScratchSeries | None = None
        self._fingerprints: list[Fingerprint] = []  # of the images, where they are read again
        self._grid = (0, 0, 0)  # subsampled
        self._series = series
        self._chosen = [table.chosen for table in tables]
        self._count = sum(map(len, self._chosen))
        self._step = step

    def read(self, number: int, image: Streamed) -> Iterator[NDArray[Any]]:
        """All volumes of the run of this number; those that are not excluded are stored on the way."""
        run, chosen = self._series.runs[number], set(self._chosen[number])
        if number == 0:  # all runs have the grid of the first
            x, y, z = (len(range(0, size, self._step)) for size in image.shape[:3])
            self._grid = (x, y, z)
            if not is_large((x, y, z, self._count)):
                self._array = np.empty((x, y, z, self._count), np.float32, order="F")
            elif not is_local(run.image):
                self._scratch = ScratchSeries()
        if self._array is not None:
            start = sum(map(len, self._chosen[:number]))
            places = (self._array[..., index] for index in range(start, start + len(chosen)))
            if self._step > 1:
                return self._subsampled(image, chosen, places)
            excluded = np.empty(self._grid, np.float32, order="F") if len(chosen) < image.shape[3] else None
            return image.volumes(into=(next(places) if i in chosen else excluded for i in range(image.shape[3])))  # type: ignore[misc]
        if self._scratch:
            return self._stored(image, chosen, self._scratch)
        self._fingerprints.append(fingerprint_of(run.image))
        return image.volumes()

    def volume(self, affine: NDArray[np.float64], repair: Repair) -> Volume | StreamedVolume:
        """The joined runs, (x, y, z, n), repaired. Volumes that are read again raise SourceError if a file changed."""
        if self._array is not None:
            repair.apply_to_all(self._array)
            return Volume(self._array, affine)
        if self._scratch:
            return repair.applied_to(self._scratch.volume(self._grid, affine))
        files = [
            (run.image, fingerprint, chosen)
            for run, fingerprint, chosen in zip(self._series.runs, self._fingerprints, self._chosen, strict=True)
        ]
        step = self._step
        return repair.applied_to(
            StreamedVolume((*self._grid, self._count), affine, lambda indices: _read_again(files, indices, step))
        )

    def _subsampled(
        self, image: Streamed, chosen: set[int], places: Iterator[NDArray[np.float32]]
    ) -> Iterator[NDArray[Any]]:
        for index, volume in enumerate(image.volumes()):
            if index in chosen:
                next(places)[...] = _every(self._step, volume)
            yield volume

    def _stored(self, image: Streamed, chosen: set[int], scratch: ScratchSeries) -> Iterator[NDArray[Any]]:
        for index, volume in enumerate(image.volumes(dtype=np.float32)):
            if index in chosen:
                scratch.append(_every(self._step, volume))
            yield volume


def _every(step: int, volume: NDArray[Any]) -> NDArray[Any]:
    return volume[::step, ::step, ::step]


def _read_again(
    files: Sequence[tuple[UPath, Fingerprint, tuple[int, ...]]], indices: Sequence[int], step: int
) -> Iterator[NDArray[np.float32]]:
    """The volumes at these indices of the joined runs.

    Each run is given by its file, the fingerprint of its first reading, and the indices of its volumes that are joined.
    """
    start = 0
    for path, fingerprint, joined in files:
        inside = [joined[index - start] for index in indices if start <= index < start + len(joined)]
        start += len(joined)
        try:
            for volume in reread_volumes(path, fingerprint, inside) if inside else ():
                yield np.asfortranarray(_every(step, volume))
        except Replaced as error:
            raise SourceError(f"{error}. Take the change in with: kwneuro-assets ingest") from None
        except OSError as error:
            raise SourceError(f"{path}: cannot be read any more ({error.strerror})") from None
