"""A subject's source files as values, or looked at without their voxels.

Either way each file is read once, from its start to its end, and the data version is that of the very bytes
which gave the value: no change in between can part the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, Volume
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs
from kwneuro_assets.imaging.volume import binary_mask, require_same_grid
from kwneuro_assets.ingestion.dataset import Series, SourceDataset
from kwneuro_assets.storage.files import Digest, Opened, digested, drain, opened, read_bytes
from kwneuro_assets.storage.nifti import decode_grid, decode_nifti
from kwneuro_assets.versioning.content import text_version


def read_dwi(dataset: SourceDataset, series: Series) -> tuple[Dwi, str]:
    """The runs of a series joined along the fourth axis, subsampled as the settings say, and the data version.

    Raises InvalidData, naming the file, for an image or a table that cannot be trusted, and for runs whose
    grids differ; StorageError for a place that cannot be read.
    """
    volumes, table, version = _read_runs(dataset, series, voxels=True)
    first = volumes[0]
    if len(volumes) > 1:
        joined = np.asfortranarray(np.concatenate([volume.array for volume in volumes], axis=3))
        first = Volume(joined, first.affine)
    with located(", ".join(str(run.image) for run in series.runs)):
        return Dwi(first, table, interpolated=series.interpolated), version


def look_at_dwi(dataset: SourceDataset, series: Series) -> tuple[Volume, str]:
    """The grid of a series, with no voxels, and the data version that `read_dwi` gives.

    Headers and tables are checked as there, voxels are not. Raises as `read_dwi` does.
    """
    volumes, _, version = _read_runs(dataset, series, voxels=False)
    return volumes[0], version


def read_mask(dataset: SourceDataset, path: UPath) -> tuple[Volume, str]:
    """A provided brain mask, subsampled as the settings say, and its data version.

    Raises InvalidData, naming the file; StorageError for a place that cannot be read.
    """
    volume, version = _read_mask(dataset, path, voxels=True)
    if volume.array.ndim == 4 and volume.shape[3] == 1:  # some tools keep the axis of the series
        volume = Volume(volume.array[..., 0], volume.affine)
    with located(path):
        return binary_mask(volume.subsampled(dataset.settings.subsample), "brain mask"), version


def look_at_mask(dataset: SourceDataset, path: UPath) -> tuple[Volume, str]:
    """The grid of a provided brain mask, with no voxels, and the data version that `read_mask` gives.

    Raises as `read_mask` does.
    """
    return _read_mask(dataset, path, voxels=False)


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


def _read_runs(dataset: SourceDataset, series: Series, *, voxels: bool) -> tuple[list[Volume], GradientTable, str]:
    """The image of each run, the b-values and b-vectors of all (FSL frame), and the data version of `dwi`."""
    settings = dataset.settings
    # Once each: runs may share a table that lies above them.
    texts = {path: _read_text(path) for run in series.runs for path in (run.bval, run.bvec)}
    volumes: list[Volume] = []
    tables: list[GradientTable] = []
    sha256: list[str] = []
    grid: Volume | None = None
    for run in series.runs:
        bval, bvec = texts[run.bval], texts[run.bvec]
        with _digested_image(run.image) as (file, digest):
            volume = _decode(file, voxels)
            # Of the whole image: its voxels are subsampled below.
            grid = grid or _without_voxels(volume.grid, volume.affine)
            with located(run.image):
                require_same_grid(volume, grid, "this run", series.runs[0].image.name)
            tables.append(_table_of(volume.shape, run.image, bval, bvec, settings.b0_threshold))
            drain(file)
            sha256 += [digest.close(), bval.sha256, bvec.sha256]
        volumes.append(volume.subsampled(settings.subsample) if voxels else volume)
    version = text_version(
        {
            "files": sha256,
            "interpolated": series.interpolated,
            "subsample": settings.subsample,
            "b0_threshold": settings.b0_threshold,
        }
    )
    return volumes, _joined(tables, settings.b0_threshold), version


def _read_mask(dataset: SourceDataset, path: UPath, *, voxels: bool) -> tuple[Volume, str]:
    with _digested_image(path) as (file, digest):
        volume = _decode(file, voxels)
        drain(file)
        return volume, text_version({"file": digest.close(), "subsample": dataset.settings.subsample})


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


def _decode(file: Opened, voxels: bool) -> Volume:
    if voxels:
        return decode_nifti(file)
    shape, affine = decode_grid(file)
    with located(file.where):
        return _without_voxels(shape, affine)


def _without_voxels(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Volume:
    """A volume of zeros that takes no memory, whatever size a header tells."""
    return Volume(np.broadcast_to(np.uint8(0), shape), affine)


def _table_of(shape: tuple[int, ...], image: UPath, bval: _TextFile, bvec: _TextFile, b0: float) -> GradientTable:
    """The b-values and b-vectors of an image of this shape, FSL frame. Raises InvalidData where they do not fit."""
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
