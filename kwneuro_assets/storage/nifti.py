"""NIfTI files, read and written as streams, one volume at a time.

Reading checks all that a file can get wrong before a value is made of it; writing gives the same bytes for
the same volume, with no time in the gzip header.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from isal import igzip, igzip_threaded, isal_zlib
from numpy.typing import DTypeLike, NDArray
from upath import UPath

from kwneuro_assets.imaging import InvalidData, StreamedVolume, Volume
from kwneuro_assets.storage.files import Opened, Replaced, Stamp, opened, stamp_of
from kwneuro_assets.storage.gzip_stream import is_in_blocks, read_gzip, write_gzip
from kwneuro_assets.threads import thread_count

SCANNER_FRAME = 1  # NIFTI_XFORM_SCANNER_ANAT
_BUFFER = 1 << 20  # bytes
_INFLATED = 1 << 18  # bytes that are inflated at once; eight times as many are read of the file
_GZIP_MAGIC = b"\x1f\x8b"
_MOST_EXPANSION = 1032  # deflate's own limit: 258 bytes out of two bits (zlib's technical details)
_UNSCALED = (1.0, 0.0)
_HEADER_BYTES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
# isal types its exception class as an instance.
_BROKEN_STREAM: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, isal_zlib.IsalError)  # type: ignore[assignment]


def write_nifti(file: IO[bytes], volume: Volume | StreamedVolume, threads: int | None = None) -> None:
    """Write `volume` as a gzip-compressed NIfTI-1 file: world frame in sform and qform, mm.

    The same bytes for the same values, compressed by `threads` threads: `thread_count()` by default.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(volume.array.dtype if isinstance(volume, Volume) else np.dtype(np.float32))
    header.set_data_shape(volume.shape)
    # The sform first: the qform cannot hold shear, and rounds what it holds.
    header.set_sform(volume.affine, code=SCANNER_FRAME)
    header.set_qform(volume.affine, code=SCANNER_FRAME, strip_shears=True)
    if not _forms_agree(header):
        header["qform_code"] = 0
    header.set_xyzt_units("mm", "sec")
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"] = 1
    start = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    write_gzip(file, _pieces(start, volume), threads or thread_count())


def _pieces(start: bytes, volume: Volume | StreamedVolume) -> Iterator[memoryview]:
    """The bytes of a file: what comes before the voxels, and these."""
    yield memoryview(start)
    for part in volume.volumes() if isinstance(volume, StreamedVolume) else _slabs(volume.array):
        # Flat in NIfTI's order: a view where the array is in that order, as those that are read or made here are.
        yield part.ravel(order="F").view(np.uint8).data


def read_nifti(path: Path | UPath, volumes: range | None = None) -> Volume:
    """The image of a .nii or .nii.gz file: float32 with its scaling applied, or uint8 where unscaled uint8.

    `volumes` chooses along the last axis of a 4-D image; what lies behind the last of them is not decompressed.
    Raises InvalidData, naming the file, for all that is not a whole and consistent NIfTI image.
    """
    with _named(str(path)), opened(path) as file:
        return decode_nifti(file, volumes)


def read_grid(path: Path | UPath) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine from the header alone. Raises InvalidData as `read_nifti` does."""
    with _named(str(path)), opened(path) as file:
        return decode_grid(file)


def decode_nifti(file: Opened, volumes: range | None = None, threads: int | None = None) -> Volume:
    """As `read_nifti`, of a file that is open; one that was written here is decompressed by `threads` threads,
    `thread_count()` by default."""
    with streamed_nifti(file, threads) as image:
        return image.whole() if volumes is None else image.part(_require_volumes(volumes, image.shape))


def decode_grid(file: Opened) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """As `read_grid`, of a file that is open."""
    with _named(file.where), _decompressed(file) as (stream, _):
        header = _read_header(stream)
        return tuple(int(size) for size in header.get_data_shape()), _world_affine(header)


class Streamed:
    """A NIfTI file as it is read: what its header tells, and its volumes along the last axis, one after the other."""

    def __init__(self, stream: io.BufferedReader, most: int) -> None:
        self._header = _read_header(stream)
        self._stream = stream
        self._most = most
        self.shape = tuple(int(size) for size in self._header.get_data_shape())
        self.affine = _world_affine(self._header)
        # Whether the header says where the voxel axes point; else the affine is a guess.
        self.is_oriented = bool(self._header["sform_code"] or self._header["qform_code"])

    def volumes(
        self,
        chosen: Sequence[int] | None = None,
        *,
        dtype: DTypeLike | None = None,
        into: Iterable[NDArray[Any]] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """The volumes at these indices, which ascend; all by default, and once at most.

        Each is an array of its own, of the type that `read_nifti` gives or of `dtype`, or the next of the arrays
        `into`, in Fortran order. What lies behind the last is not decompressed; but before the image's last volume is
        handed out, the file has been read to its end, and what it tells of its own wholeness checked.
        """
        voxels = self._voxels
        wanted = range(self.shape[-1]) if chosen is None else chosen
        made = (np.empty(self.shape[:-1], dtype or voxels.kept, order="F") for _ in wanted)
        places = iter(made if into is None else into)
        position = 0
        for index in wanted:
            for passed in range(position, index):
                voxels.read(passed, None)
            part = next(places)
            voxels.read(index, part)
            position = index + 1
            if position == self.shape[-1]:
                _drain(self._stream)
            yield part

    def whole(self) -> Volume:
        """The image in memory."""
        return self.part(range(self.shape[-1]))

    def part(self, chosen: Sequence[int]) -> Volume:
        """The volumes at these indices, which ascend, in memory."""
        array = np.empty((*self.shape[:-1], len(chosen)), self._voxels.kept, order="F")
        for _ in self.volumes(chosen, into=_layers(array)):
            pass
        return Volume(array, self.affine)

    @cached_property
    def _voxels(self) -> _Voxels:
        return _Voxels(self._stream, self._header, self._most)


@contextmanager
def streamed_nifti(file: Opened, threads: int | None = None) -> Iterator[Streamed]:
    """The file, which is open, as a stream of volumes. Raises InvalidData as `read_nifti` does, at any volume too."""
    with _named(file.where), _decompressed(file, threads or thread_count()) as (stream, most):
        yield Streamed(stream, most)


def volumes_again(path: Path | UPath, stamp: Stamp, chosen: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """The volumes at these indices, which ascend, of a file that was read before, when its stamp was `stamp`.

    Raises Replaced where it is another file by now, or becomes one before the last of them, and InvalidData as
    `read_nifti` does.
    """
    try:
        with opened(path) as file, streamed_nifti(file) as image:
            for count, volume in enumerate(image.volumes(chosen, dtype=np.float32), start=1):
                if count == len(chosen):
                    _require_same(path, stamp)
                yield volume
    except (InvalidData, OSError):  # a change explains it, if there was one
        _require_same(path, stamp)
        raise


def _require_same(path: Path | UPath, stamp: Stamp) -> None:
    if stamp_of(path) != stamp:
        raise Replaced(f"{path}: has changed, or is gone, since it was first read")


def _drain(stream: io.BufferedReader) -> None:
    """To the end, where gzip keeps its checksum."""
    while stream.read(_BUFFER):
        pass


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Whatever is wrong with the file becomes one error that names it."""
    try:
        yield
    except InvalidData as error:
        raise error.at(where) from None
    except _BROKEN_STREAM as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not gzip's
            raise InvalidData(
                "image", expected="a file that can be read", found=f"{error.strerror}", where=where
            ) from None
        raise InvalidData(
            "compressed image",
            expected="a whole gzip stream",
            found=f"a broken one ({error})",
            remedy="Copy it again from where it came.",
            where=where,
        ) from None


@contextmanager
def _decompressed(file: Opened, threads: int = 0) -> Iterator[tuple[io.BufferedReader, int]]:
    """The content of the file, decompressed by threads ahead of its reader, and the most bytes that it can hold."""
    start = file.stream.peek(2)[:2]
    if not start:
        raise InvalidData("image", expected="a NIfTI file", found="an empty file")
    if start == _GZIP_MAGIC and not threads:
        with igzip.IGzipFile(fileobj=file.stream, mode="rb") as stream:
            yield io.BufferedReader(stream), file.size * _MOST_EXPANSION
    elif start == _GZIP_MAGIC and is_in_blocks(file.stream):
        with read_gzip(file.stream, threads) as stream:
            yield stream, file.size * _MOST_EXPANSION
    elif start == _GZIP_MAGIC:
        # In a thread of its own, so that the next block is inflated while this one is put in its place.
        with igzip_threaded.open(file.stream, "rb", threads=1, block_size=_INFLATED) as stream:
            yield stream, file.size * _MOST_EXPANSION
    else:
        yield file.stream, file.size


def _read_header(stream: IO[bytes]) -> Any:
    start = stream.read(4)
    sizes = {int(np.frombuffer(start, order + "i4")[0]) for order in "<>"} if len(start) == 4 else set()
    known = sizes & set(_HEADER_BYTES)
    if not known:
        raise InvalidData("image", expected="a NIfTI header", found="other bytes", remedy="Convert it to NIfTI.")
    size = known.pop()
    block = start + stream.read(size - 4)
    if len(block) < size:
        raise InvalidData("image", expected=f"a header of {size} bytes", found=f"a file of {len(block)}")
    try:
        header: Any = _HEADER_BYTES[size](block, check=False)  # type: ignore[no-untyped-call]
        header.get_data_dtype()
        shape = header.get_data_shape()
    except (nib.spatialimages.HeaderDataError, ValueError, KeyError) as error:
        raise InvalidData("image", expected="a valid NIfTI header", found=str(error)) from None
    if header["magic"].item()[:2] == b"ni":
        raise InvalidData(
            "image", expected="header and voxels in one file", found="a header whose voxels lie in an .img file"
        )
    if not shape or min(shape) < 1:
        raise InvalidData("image", expected="a shape of positive numbers", found=f"{tuple(map(int, shape))}")
    if not header["vox_offset"] >= 0:
        raise InvalidData("image", expected="a valid NIfTI header", found=f"vox_offset {header['vox_offset']}")
    return header


def _world_affine(header: Any) -> NDArray[np.float64]:
    sform, sform_code = header.get_sform(coded=True)
    try:
        qform, qform_code = header.get_qform(coded=True)
    except (nib.spatialimages.HeaderDataError, ValueError) as error:  # negative edges, a quaternion that is none
        raise InvalidData("qform", expected="a rotation and positive voxel sizes", found=str(error)) from None
    if sform_code and qform_code:
        _require_agreement(sform, qform, header.get_data_shape()[:3])
    affine = sform if sform_code else qform if qform_code else header.get_base_affine()
    return np.asarray(affine, np.float64)


def _require_agreement(sform: NDArray[Any], qform: NDArray[Any], grid: tuple[int, ...]) -> None:
    """The two frames of a header must put every voxel in the same place, within half a voxel."""
    offset = _largest_offset(sform, qform, grid)
    if not offset <= _half_a_voxel(sform):
        raise InvalidData(
            "orientation",
            expected="sform and qform that agree within half a voxel",
            found=f"up to {offset:.1f} mm between them",
            remedy="Decide which is right and write it into both.",
        )


def _forms_agree(header: Any) -> bool:
    sform, qform = header.get_sform(), header.get_qform()
    return bool(_largest_offset(sform, qform, header.get_data_shape()[:3]) <= _half_a_voxel(sform))


def _largest_offset(sform: NDArray[Any], qform: NDArray[Any], grid: tuple[int, ...]) -> float:
    """The distance in mm between where the two put a corner of the grid, at its worst."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in (*grid, 1, 1)[:3]])).reshape(3, -1)
    return float(np.linalg.norm((sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:], axis=0).max())


def _half_a_voxel(affine: NDArray[Any]) -> float:
    return float(np.linalg.norm(affine[:3, :3], axis=0).min()) / 2


class _Voxels:
    """What follows the header, read from its start, one volume along the last axis after the other."""

    def __init__(self, stream: io.BufferedReader, header: Any, most: int) -> None:
        self.shape = tuple(int(size) for size in header.get_data_shape())
        self._stream = stream
        self._stored = header.get_data_dtype()
        if self._stored.kind not in "iuf":
            raise InvalidData("image", expected="real numbers", found=f"voxels of type {self._stored}")
        self._whole = math.prod(self.shape) * self._stored.itemsize
        # Before anything is allocated: a broken header may promise more than there is memory.
        if header["vox_offset"] + self._whole > most:
            raise _broken_promise(self.shape, self._whole, f"at most {most} in the whole file")
        stream.read(max(int(header["vox_offset"]) - int(header["sizeof_hdr"]), 0))
        self._scaling = _scaling(header)
        is_mask = self._stored == np.uint8 and self._scaling == _UNSCALED
        self.kept = np.dtype(np.uint8) if is_mask else np.dtype(np.float32)
        self._block = np.empty(math.prod(self.shape[:-1]) * self._stored.itemsize, np.uint8)

    def read(self, index: int, part: NDArray[Any] | None) -> None:
        """The next volume, the one of this index, into `part`, or past it."""
        # Straight into the array where its type is that of the file.
        straight = part is not None and self._scaling == _UNSCALED and part.dtype == self._stored
        target = part.ravel(order="F").view(np.uint8) if straight and part is not None else self._block
        count = self._stream.readinto(target.data)
        if count < self._block.size:
            raise _broken_promise(self.shape, self._whole, f"{index * self._block.size + count}")
        if part is not None and not straight:
            _convert(self._block.view(self._stored).reshape(part.shape, order="F"), part, self._scaling)


def _convert(values: NDArray[Any], part: NDArray[Any], scaling: tuple[float, float]) -> None:
    """Write the file's numbers as ours; `scaling` is slope and intercept."""
    slope, intercept = scaling
    # What overflows float32 is infinite, and refused here or by Volume.
    with np.errstate(over="ignore", invalid="ignore"):
        part[...] = values if scaling == _UNSCALED else values.astype(np.float64) * slope + intercept
    if scaling != _UNSCALED and values.dtype.kind in "iu" and not np.isfinite(part).all():
        raise InvalidData(
            "scaling of the voxels",
            expected="a slope and an intercept whose results fit float32",
            found=f"scl_slope {slope:g} and scl_inter {intercept:g}, which overflow",
        )


def _require_volumes(volumes: range, shape: tuple[int, ...]) -> range:
    if len(shape) != 4 or not volumes or min(volumes) < 0 or max(volumes) >= shape[3]:
        raise InvalidData("choice of volumes", expected="some of a 4-D image", found=f"{volumes} of shape {shape}")
    return range(min(volumes), max(volumes) + 1, abs(volumes.step))


def _broken_promise(shape: tuple[int, ...], promised: int, found: str) -> InvalidData:
    return InvalidData(
        "image",
        expected=f"the {promised} bytes of voxels that its header promises, {shape}",
        found=found,
        remedy="Copy it again from where it came.",
    )


def _scaling(header: Any) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):  # NIfTI: a slope of zero is none; some writers leave NaN for it
        return _UNSCALED
    if not np.isfinite([slope, intercept]).all():
        raise InvalidData(
            "scaling of the voxels", expected="finite numbers", found=f"scl_slope {slope}, scl_inter {intercept}"
        )
    return slope, intercept


def _slabs(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The array in parts that follow each other in NIfTI's order; one part where it lies so in memory."""
    return iter([array]) if array.flags.f_contiguous else _layers(array)


def _layers(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """What the array holds along its last axis."""
    return (array[..., index] for index in range(array.shape[-1]))
