"""A subject's source files as values, or looked at without their voxels.

Either way each file is read once, from its start to its end, and the data version is that of the very bytes
which gave the value: no change in between can part the two. Of a series that does not fit in memory that holds for the
first look; when its volumes are read again, the files must be the same still, by their stamps. From a remote dataset it
is fetched once, and kept in a temporary file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from kwneuro_assets.derivations.gradient_check import GradientCheck, Verdict
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, StreamedVolume, Volume
from kwneuro_assets.imaging.dwi import require_signal
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs
from kwneuro_assets.imaging.scratch import ScratchSeries
from kwneuro_assets.imaging.streamed import is_large
from kwneuro_assets.imaging.volume import (
    binary_mask,
    not_finite,
    require_finite,
    require_same_grid,
    subsampled_affine,
    without_voxels,
)
from kwneuro_assets.ingestion.dataset import Run, Series, SourceDataset
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.storage.files import Digest, Opened, Replaced, Stamp, digested, drain, opened, read_bytes, stamp_of
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.nifti import Streamed, decode_nifti, streamed_nifti, volumes_again
from kwneuro_assets.versioning.content import text_version


def read_dwi(dataset: SourceDataset, series: Series) -> tuple[Dwi, str]:
    """The runs of a series joined along the fourth axis, subsampled as the settings say, and the data version.

    A large one is streamed: its volumes are read from the files when they are needed, and raise SourceError where a
    file has changed by then. Of a remote dataset they are kept in a temporary file; raises ScratchError where there is
    no room for it.

    Raises InvalidData, naming the file, for an image or a table that cannot be trusted, and for runs whose
    grids differ; StorageError for a place that cannot be read.
    """
    texts = _texts(series)
    joined = _Joined(series, texts, dataset.settings.subsample)
    looks = _looks(dataset, series, texts, joined.volumes)
    version = _version(dataset, series, texts, [look.sha256 for look in looks])
    table = _joined([look.table for look in looks], dataset.settings.b0_threshold)
    affine = subsampled_affine(looks[0].grid.affine, dataset.settings.subsample)
    with located(", ".join(str(run.image) for run in series.runs)):
        volume: Volume | StreamedVolume
        if joined.array is not None:
            volume = Volume(joined.array, affine)
        elif joined.scratch:
            volume = joined.scratch.volume(joined.grid, affine)
        else:
            files = [
                (run.image, stamp, len(look.table))
                for run, stamp, look in zip(series.runs, joined.stamps, looks, strict=True)
            ]
            shape = (*joined.grid, len(table))
            volume = StreamedVolume(shape, affine, lambda chosen: _again(files, chosen, dataset.settings.subsample))
        return Dwi(volume, table, interpolated=series.interpolated), version


@dataclass(frozen=True)
class DwiLook:
    """What a look at a series tells: its grid (with no voxels), its table (FSL frame), the data version that
    `read_dwi` gives, whether all headers say where their axes point, and where that was asked what each image says of
    its b-vectors, by the path of these."""

    grid: Volume
    gradients: GradientTable
    version: str
    is_oriented: bool
    verdicts: Mapping[UPath, Verdict] = field(default_factory=dict)


def look_at_dwi(dataset: SourceDataset, series: Series, *, check_gradients: bool = False) -> DwiLook:
    """Read a series from its first byte to its last without keeping its voxels, and check all that `read_dwi` checks.

    Raises as `read_dwi` does.
    """
    texts = _texts(series)
    looks = _looks(dataset, series, texts, lambda run, image: image.volumes(), check_gradients)
    table = _joined([look.table for look in looks], dataset.settings.b0_threshold)
    with located(", ".join(str(run.image) for run in series.runs)):
        table.require_b0()
        require_signal(any(look.has_signal for look in looks))
    version = _version(dataset, series, texts, [look.sha256 for look in looks])
    verdicts = {look.run.bvec: look.verdict for look in looks if look.verdict}
    return DwiLook(looks[0].grid, table, version, all(look.is_oriented for look in looks), verdicts)


def read_mask(dataset: SourceDataset, path: UPath) -> tuple[Volume, str]:
    """A provided brain mask, subsampled as the settings say, and its data version.

    Raises InvalidData, naming the file; StorageError for a place that cannot be read.
    """
    volume, version = _read_mask(path, dataset.settings.subsample)
    with located(path):
        return binary_mask(volume.subsampled(dataset.settings.subsample), "brain mask"), version


def look_at_mask(dataset: SourceDataset, path: UPath) -> tuple[Volume, str]:
    """A provided brain mask as it lies there, and the data version that `read_mask` gives. Raises as that does."""
    volume, version = _read_mask(path, dataset.settings.subsample)
    with located(path):
        binary_mask(volume.subsampled(dataset.settings.subsample), "brain mask")
    return volume, version


@dataclass(frozen=True)
class _TextFile:
    path: UPath
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def text(self) -> str:
        try:
            return self.content.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidData("text file", expected="numbers in ASCII", found="other bytes").at(self.path) from None


@dataclass(frozen=True)
class _RunLook:
    run: Run
    grid: Volume
    table: GradientTable
    is_oriented: bool
    has_signal: bool
    sha256: str
    verdict: Verdict | None


_Texts = Mapping[UPath, _TextFile]
_Volumes = Callable[[Run, Streamed], Iterator[NDArray[Any]]]


class _Joined:
    """Where the volumes of all runs are put while they are looked at: together in memory; where they are too large for
    that, nowhere, for they can be read again, or, of a remote dataset, into a temporary file."""

    def __init__(self, series: Series, texts: _Texts, step: int) -> None:
        counts = []
        for run in series.runs:
            with located(run.bval):
                counts.append(len(parse_bvals(texts[run.bval].text)))
        self.array: NDArray[np.float32] | None = None
        self.grid = (0, 0, 0)  # of what is kept
        self.scratch: ScratchSeries | None = None
        self.stamps: list[Stamp] = []  # of the images of a large series
        self._count = sum(counts)
        self._step = step
        self._filled = 0

    def volumes(self, run: Run, image: Streamed) -> Iterator[NDArray[Any]]:
        """The volumes of the next run, kept on the way."""
        if not self._filled:  # the grid is known with the first run, and is that of the others
            x, y, z = (len(range(0, size, self._step)) for size in image.shape[:3])
            self.grid = (x, y, z)
            if not is_large((x, y, z, self._count)):
                self.array = np.empty((x, y, z, self._count), np.float32, order="F")
            elif not is_local(run.image):
                self.scratch = ScratchSeries()
        start, self._filled = self._filled, self._filled + image.shape[3]
        if self.array is not None:
            places = (self.array[..., index] for index in range(start, self._filled))
            return image.volumes(into=places) if self._step == 1 else self._subsampled(image, places)
        if self.scratch:
            return self._put_aside(image, self.scratch)
        self.stamps.append(stamp_of(run.image))
        return image.volumes()

    def _subsampled(self, image: Streamed, places: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[Any]]:
        for volume, place in zip(image.volumes(), places, strict=True):
            place[...] = _every(self._step, volume)
            yield volume

    def _put_aside(self, image: Streamed, scratch: ScratchSeries) -> Iterator[NDArray[Any]]:
        for volume in image.volumes(dtype=np.float32):
            scratch.append(_every(self._step, volume))
            yield volume


def _every(step: int, volume: NDArray[Any]) -> NDArray[Any]:
    return volume[::step, ::step, ::step]


def _again(
    files: Sequence[tuple[UPath, Stamp, int]], chosen: Sequence[int], step: int
) -> Iterator[NDArray[np.float32]]:
    """The volumes at these indices of runs, each a file, its stamp when it was looked at, and its number of volumes."""
    start = 0
    for path, stamp, count in files:
        inside = [index - start for index in chosen if start <= index < start + count]
        start += count
        try:
            for volume in volumes_again(path, stamp, inside) if inside else ():
                yield np.asfortranarray(_every(step, volume))
        except Replaced as error:
            raise SourceError(f"{error}. Take the change in with: kwneuro-assets ingest") from None
        except OSError as error:
            raise SourceError(f"{path}: cannot be read any more ({error.strerror})") from None


def _texts(series: Series) -> _Texts:
    """The tables of all runs, once each: runs may share one that lies above them."""
    return {path: _read_text(path) for run in series.runs for path in (run.bval, run.bvec)}


def _version(dataset: SourceDataset, series: Series, texts: _Texts, images: list[str]) -> str:
    """The data version of `dwi`, of the sha256 of each run's image and of what else is read."""
    files = [
        digest
        for run, image in zip(series.runs, images, strict=True)
        for digest in (image, texts[run.bval].sha256, texts[run.bvec].sha256)
    ]
    return text_version(
        {
            "files": files,
            "interpolated": series.interpolated,
            "subsample": dataset.settings.subsample,
            "b0_threshold": dataset.settings.b0_threshold,
        }
    )


def _looks(
    dataset: SourceDataset, series: Series, texts: _Texts, volumes: _Volumes, check_gradients: bool = False
) -> list[_RunLook]:
    """One look at each run, all of which must lie on the grid of the first."""
    looks: list[_RunLook] = []
    for run in series.runs:
        looks.append(_look_at_run(dataset, run, texts, volumes, looks[0] if looks else None, check_gradients))
    return looks


def _look_at_run(
    dataset: SourceDataset, run: Run, texts: _Texts, volumes: _Volumes, first: _RunLook | None, check_gradients: bool
) -> _RunLook:
    with _digested_image(run.image) as (file, digest):
        with streamed_nifti(file) as image:
            with located(run.image):
                grid = without_voxels(image.shape[:3], image.affine)
                if first:
                    require_same_grid(grid, first.grid, "this run", first.run.image.name)
            table = _table_of(image.shape, run, texts, dataset.settings.b0_threshold)
            check = GradientCheck(table, grid.grid, grid.affine) if check_gradients else None
            bad, has_signal = 0, False
            for index, volume in enumerate(volumes(run, image)):
                bad += not_finite(volume)
                has_signal = has_signal or bool(volume.any())
                if check and not bad:
                    check.add(index, volume)
        with located(run.image):
            require_finite(bad, math.prod(image.shape))
        drain(file)
        verdict = check.verdict() if check else None
        return _RunLook(run, grid, table, image.is_oriented, has_signal, digest.close(), verdict)


def _read_mask(path: UPath, subsample: int) -> tuple[Volume, str]:
    with _digested_image(path) as (file, digest):
        volume = decode_nifti(file)
        drain(file)
        version = text_version({"file": digest.close(), "subsample": subsample})
    if volume.array.ndim == 4 and volume.shape[3] == 1:  # some tools keep the axis of the series
        volume = Volume(volume.array[..., 0], volume.affine)
    return volume, version


@contextmanager
def _digested_image(path: UPath) -> Iterator[tuple[Opened, Digest]]:
    """The open image, and the digest of what is read of it."""
    with _readable(path, "image", "a file that can be read"), opened(path) as file, digested(file) as pair:
        yield pair


def _read_text(path: UPath) -> _TextFile:
    with _readable(path, "file", "one that can be read"):
        return _TextFile(path, read_bytes(path))


@contextmanager
def _readable(path: UPath, what: str, expected: str) -> Iterator[None]:
    """One file that cannot be read, such as a link whose target was not fetched, is no reason to stop at others."""
    try:
        yield
    except OSError as error:
        found = error.strerror or "nothing there"
        raise InvalidData(what, expected=expected, found=found).at(path) from None


def _table_of(shape: tuple[int, ...], run: Run, texts: _Texts, b0: float) -> GradientTable:
    """The b-values and b-vectors of an image of this shape, FSL frame. Raises InvalidData where they do not fit."""
    image, bval, bvec = run.image, texts[run.bval], texts[run.bvec]
    if len(shape) != 4:
        raise InvalidData("diffusion series", expected="4 dimensions", found=f"shape {shape}").at(image)
    with located(bval.path):
        bvals = parse_bvals(bval.text)
        if shape[3] != len(bvals):
            raise InvalidData(
                "gradient table",
                expected=f"{shape[3]} b-values, one for each volume of {image.name}",
                found=f"{len(bvals)}",
                remedy="Image and bval do not belong together.",
            )
    with located(bvec.path):
        bvecs = parse_bvecs(bvec.text, len(bvals))
    try:
        return GradientTable(bvals, bvecs, b0_threshold=b0)
    except InvalidData as error:
        raise error.at(bval.path if error.problem == "b-values" else bvec.path) from None


def _joined(tables: list[GradientTable], b0_threshold: float) -> GradientTable:
    bvals = np.concatenate([table.bvals for table in tables])
    bvecs = np.concatenate([table.bvecs for table in tables])
    return GradientTable(bvals, bvecs, b0_threshold=b0_threshold)
