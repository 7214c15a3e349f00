"""NIfTI files, read and written as streams, one volume at a time.

Reading validates the file before a value is built from it. Writing gives the same bytes for the same volume, without
a time in the gzip header.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike, NDArray
from upath import UPath

from kwneuro_assets.imaging import InvalidData, StreamedVolume, Volume
from kwneuro_assets.storage.files import (
    Fingerprint,
    Opened,
    Replaced,
    fingerprint_of,
    missing_content,
    opened,
    pointer_kind,
)
from kwneuro_assets.storage.gzip_stream import BROKEN_STREAM, MAGIC, GzipStream, read_gzip, write_gzip
from kwneuro_assets.storage.nifti_frame import forms_agree, world_frame
from kwneuro_assets.threads import thread_count

SCANNER_FRAME = 1  # NIFTI_XFORM_SCANNER_ANAT
_BUFFER = 1 << 20  # bytes
_POINTER = 1 << 10  # bytes that distinguish a pointer file from an image
_MAX_EXPANSION = 1032  # deflate's limit: 258 bytes out of two bits (zlib's technical details)
_UNSCALED = (1.0, 0.0)
_HEADER_BYTES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_EXTENSION_FLAG = 4  # bytes after the header; the first is not zero if extensions follow
_IN_A_PAIR = b"ni"  # start of the magic of a header whose voxels are in another file


def write_nifti(file: IO[bytes], volume: Volume | StreamedVolume, threads: int | None = None) -> None:
    """Write `volume` as a gzip-compressed NIfTI-1 file: affine to the world frame in sform and qform, mm.

    The bytes depend on the values alone, not on the number of `threads` (default: `thread_count()`).
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(volume.array.dtype if isinstance(volume, Volume) else np.dtype(np.float32))
    header.set_data_shape(volume.shape)
    # The sform first: the qform cannot represent shear, and rounds.
    header.set_sform(volume.affine, code=SCANNER_FRAME)
    header.set_qform(volume.affine, code=SCANNER_FRAME, strip_shears=True)
    if not forms_agree(header):
        header["qform_code"] = 0
    header.set_xyzt_units("mm", "sec")
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"] = 1
    start = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    write_gzip(file, _pieces(start, volume), threads or thread_count())


def _pieces(start: bytes, volume: Volume | StreamedVolume) -> Iterator[memoryview]:
    """The bytes of a file: `start`, then the voxels."""
    yield memoryview(start)
    for part in volume.volumes() if isinstance(volume, StreamedVolume) else _slabs(volume.array):
        # Flat in NIfTI's order: a view if the array is in that order, as all arrays that are read or created here are.
        yield part.ravel(order="F").view(np.uint8).data


def read_nifti(path: Path | UPath, volumes: range | None = None) -> Volume:
    """The image of a .nii or .nii.gz file: uint8 if it is unscaled uint8, else float32 with the scaling applied.

    `volumes` selects along the last axis of a 4-D image, in any order; the file is not decompressed beyond the last of
    them. Raises InvalidData, with the path, if the file is not a complete and consistent NIfTI image.
    """
    with _named(str(path)), opened(path) as file:
        return decode_nifti(file, volumes)


def decode_nifti(file: Opened, volumes: range | None = None, threads: int | None = None) -> Volume:
    """As `read_nifti`, for an open file. `threads` (default: `thread_count()`) decompress a file that was written
    here.
    """
    with streamed_nifti(file, threads) as image:
        return image.in_memory() if volumes is None else image.part(_require_volumes(volumes, image.shape))


def decode_grid(file: Opened) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine of an open file, from the header alone. Raises InvalidData as `read_nifti` does."""
    with _named(file.where), _decompressed(file) as (stream, _):
        header = _read_header(stream)
        return tuple(int(size) for size in header.get_data_shape()), world_frame(header).affine


class Streamed:
    """A NIfTI file while it is read: shape and affine of its header, and its volumes along the last axis in order.

    `is_oriented` is whether the header defines the orientation of the voxel axes; if not, the affine is a guess.
    `warnings` are messages about what was repaired or ignored; they are complete once the last volume was yielded.
    """

    def __init__(self, stream: io.BufferedReader, max_bytes: int, *, series: bool = False) -> None:
        self._header = _read_header(stream)
        self._stream = stream
        self._max_bytes = max_bytes
        shape = tuple(int(size) for size in self._header.get_data_shape())
        self.shape = _dwi_shape(shape) if series else shape
        frame = world_frame(self._header)
        self.affine = frame.affine
        self.is_oriented = frame.is_oriented
        self.warnings = list(frame.warnings)

    def volumes(
        self,
        chosen: Sequence[int] | None = None,
        *,
        dtype: DTypeLike | None = None,
        into: Iterable[NDArray[Any]] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """The volumes at these ascending indices, all by default. Can be called once.

        Each is a new array, of the dtype of `read_nifti` or of `dtype`, or the next of the Fortran-ordered arrays
        `into`. The file is not decompressed beyond the last index; but before the image's last volume is yielded, the
        file is read to its end and its checksum is verified.
        """
        voxels = self._voxels
        wanted = range(self.shape[-1]) if chosen is None else chosen
        created = (np.empty(self.shape[:-1], dtype or voxels.dtype, order="F") for _ in wanted)
        targets = iter(created if into is None else into)
        position = 0
        for index in wanted:
            for skipped in range(position, index):
                voxels.read(skipped, None)
            part = next(targets)
            voxels.read(index, part)
            position = index + 1
            if position == self.shape[-1]:
                self._finish()
            yield part

    def in_memory(self) -> Volume:
        """The complete image."""
        return self.part(range(self.shape[-1]))

    def part(self, chosen: Sequence[int]) -> Volume:
        """The volumes at these distinct indices, in their order."""
        array = np.empty((*self.shape[:-1], len(chosen)), self._voxels.dtype, order="F")
        targets = (array[..., position] for position in sorted(range(len(chosen)), key=chosen.__getitem__))
        for _ in self.volumes(sorted(chosen), into=targets):  # in the order of the file
            pass
        return Volume(array, self.affine)

    def _finish(self) -> None:
        """Read to the end, where gzip has its checksum, and warn of trailing bytes; zeros are padding."""
        trailing, is_padding = 0, True
        while block := self._stream.read(_BUFFER):
            trailing += len(block)
            is_padding = is_padding and not block.strip(b"\0")
        if not is_padding:
            self.warnings.append(f"{trailing} bytes follow its voxels: they are ignored")
        if isinstance(self._stream, GzipStream) and self._stream.trailing:
            self.warnings.append(f"{self._stream.trailing} bytes follow the end of its gzip stream: they are ignored")

    @cached_property
    def _voxels(self) -> _Voxels:
        return _Voxels(self._stream, self._header, self.shape, self._max_bytes)


def _dwi_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(x, y, z, n) of a DWI series, also of one that is stored as a 3-D volume or with further axes of length one."""
    grid, axes = shape[:3], [size for size in shape[3:] if size > 1]
    return shape if len(shape) < 3 else (*grid, *(axes or [1]))


@contextmanager
def streamed_nifti(file: Opened, threads: int | None = None, *, series: bool = False) -> Iterator[Streamed]:
    """An open file as a stream of volumes. Raises InvalidData as `read_nifti` does, also at any volume.

    With `series`, the shape is always (x, y, z, n): (x, y, z) is one volume, and axes of length one beyond the third
    are dropped.
    """
    with _named(file.where), _decompressed(file, threads or thread_count()) as (stream, max_bytes):
        yield Streamed(stream, max_bytes, series=series)


def reread_volumes(
    path: Path | UPath, fingerprint: Fingerprint, chosen: Sequence[int]
) -> Iterator[NDArray[np.float32]]:
    """The volumes at these ascending indices of a DWI series whose file had this fingerprint when it was first read.

    Raises Replaced if the file has changed, or changes before the last volume is yielded, and InvalidData as
    `read_nifti` does.
    """
    try:
        with opened(path) as file, streamed_nifti(file, series=True) as image:
            for count, volume in enumerate(image.volumes(chosen, dtype=np.float32), start=1):
                if count == len(chosen):
                    _require_same(path, fingerprint)
                yield volume
    except (InvalidData, OSError):  # a change of the file explains it better
        _require_same(path, fingerprint)
        raise


def _require_same(path: Path | UPath, fingerprint: Fingerprint) -> None:
    if fingerprint_of(path) != fingerprint:
        raise Replaced(f"{path}: was changed or removed after it was first read")


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Turn any error of the file into InvalidData with its path."""
    try:
        yield
    except InvalidData as error:
        raise error.at(where) from None
    except OSError as error:
        found, remedy = missing_content(where) or (error.strerror or str(error), "")
        raise InvalidData("image", expected="a readable file", found=found, remedy=remedy, where=where) from None
    except BROKEN_STREAM as error:
        raise InvalidData(
            "compressed image",
            expected="a complete gzip stream",
            found=f"a damaged one ({error})",
            remedy="Copy it again from its origin.",
            where=where,
        ) from None


@contextmanager
def _decompressed(file: Opened, threads: int = 0) -> Iterator[tuple[io.BufferedReader, int]]:
    """The content of the file, decompressed by threads ahead of its reader, and the maximum of its bytes."""
    start = file.stream.peek(_POINTER)[:_POINTER]
    if not start:
        raise InvalidData("image", expected="a NIfTI file", found="an empty file")
    if pointer := pointer_kind(start):
        raise InvalidData("image", expected="a NIfTI file", found=pointer.found, remedy=pointer.remedy)
    if start.startswith(MAGIC):
        with read_gzip(file.stream, threads) as stream:
            yield stream, file.size * _MAX_EXPANSION
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
    if header["magic"].item()[:2] == _IN_A_PAIR:
        raise InvalidData(
            "image", expected="header and voxels in one file", found="a header whose voxels are in an .img file"
        )
    if not shape or min(shape) < 1:
        raise InvalidData("image", expected="a shape of positive numbers", found=f"{tuple(map(int, shape))}")
    _start_of_voxels(header)
    return header


def _start_of_voxels(header: Any) -> int:
    """The offset of the first voxel. nibabel writes and reads 0 for directly after the header and its extension flag;
    niftilib and nibabel disagree on other offsets before that.
    """
    minimum = int(header["sizeof_hdr"]) + _EXTENSION_FLAG
    offset = float(header["vox_offset"])
    if offset == 0:
        return minimum
    if not (offset >= minimum and offset.is_integer()):
        raise InvalidData(
            "image",
            expected=f"voxels that start at byte {minimum} or later, or vox_offset 0, which means {minimum}",
            found=f"vox_offset {offset:g}",
            remedy="The start of its voxels is unknown: convert the image again.",
        )
    return int(offset)


class _Voxels:
    """The voxels after the header, read from the start, one volume along the last axis at a time."""

    def __init__(self, stream: io.BufferedReader, header: Any, shape: tuple[int, ...], max_bytes: int) -> None:
        self.shape = shape
        self._stream = stream
        self._stored = header.get_data_dtype()
        if self._stored.kind not in "iuf":
            raise InvalidData("image", expected="real numbers", found=f"voxels of type {self._stored}")
        self._total = math.prod(self.shape) * self._stored.itemsize
        # Before anything is allocated: a broken header may declare more bytes than there is memory.
        if _start_of_voxels(header) + self._total > max_bytes:
            raise _incomplete(self.shape, self._total, f"at most {max_bytes} in the file")
        _skip_to_voxels(stream, header)
        self._scaling = _scaling(header)
        is_mask = self._stored == np.uint8 and self._scaling == _UNSCALED
        self.dtype = np.dtype(np.uint8) if is_mask else np.dtype(np.float32)
        self._block = np.empty(math.prod(self.shape[:-1]) * self._stored.itemsize, np.uint8)

    def read(self, index: int, part: NDArray[Any] | None) -> None:
        """Read the next volume, which has this index, into `part`; skip it if `part` is None."""
        # Directly into the array if it has the dtype of the file.
        direct = part is not None and self._scaling == _UNSCALED and part.dtype == self._stored
        target = part.ravel(order="F").view(np.uint8) if direct and part is not None else self._block
        count = self._stream.readinto(target.data)
        if count < self._block.size:
            raise _incomplete(self.shape, self._total, f"{index * self._block.size + count}")
        if part is not None and not direct:
            _convert(self._block.view(self._stored).reshape(part.shape, order="F"), part, self._scaling)


def _skip_to_voxels(stream: io.BufferedReader, header: Any) -> None:
    """Read from the end of the header to the first voxel."""
    flag = stream.read(_EXTENSION_FLAG)
    if header["vox_offset"] == 0 and any(flag[:1]):
        raise InvalidData(
            "image",
            expected="a vox_offset with the start of the voxels after the header's extensions",
            found="vox_offset 0",
            remedy="Convert the image again.",
        )
    left = _start_of_voxels(header) - int(header["sizeof_hdr"]) - len(flag)
    while left > 0 and (skipped := stream.read(min(left, _BUFFER))):
        left -= len(skipped)


def _convert(values: NDArray[Any], part: NDArray[Any], scaling: tuple[float, float]) -> None:
    """Write the file's numbers to `part` in its dtype; `scaling` is slope and intercept."""
    slope, intercept = scaling
    # A number that overflows float32 becomes infinite, which is refused here or by Volume.
    with np.errstate(over="ignore", invalid="ignore"):
        part[...] = values if scaling == _UNSCALED else values.astype(np.float64) * slope + intercept
    if scaling != _UNSCALED and values.dtype.kind in "iu" and not np.isfinite(part).all():
        raise InvalidData(
            "scaling of the voxels",
            expected="a slope and an intercept whose results fit float32",
            found=f"scl_slope {slope:g} and scl_inter {intercept:g}, which overflow",
        )


def _require_volumes(volumes: range, shape: tuple[int, ...]) -> range:
    differ = len(set(volumes)) == len(volumes)  # always for a range, but an untyped caller may pass a list
    if len(shape) != 4 or not volumes or not differ or min(volumes) < 0 or max(volumes) >= shape[3]:
        raise InvalidData("choice of volumes", expected="some of a 4-D image", found=f"{volumes} of shape {shape}")
    return volumes


def _incomplete(shape: tuple[int, ...], size: int, found: str) -> InvalidData:
    return InvalidData(
        "image",
        expected=f"the {size} bytes of voxels that its header declares, {shape}",
        found=found,
        remedy="Copy it again from its origin.",
    )


def _scaling(header: Any) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):  # NIfTI: a slope of zero means no scaling; some writers leave NaN
        return _UNSCALED
    if not np.isfinite([slope, intercept]).all():
        raise InvalidData(
            "scaling of the voxels", expected="finite numbers", found=f"scl_slope {slope}, scl_inter {intercept}"
        )
    return slope, intercept


def _slabs(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The array in parts in NIfTI's order: a single part if it has that order in memory."""
    return iter([array]) if array.flags.f_contiguous else _layers(array)


def _layers(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The parts of the array along its last axis."""
    return (array[..., index] for index in range(array.shape[-1]))
