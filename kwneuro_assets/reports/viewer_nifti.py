"""Compressed NIfTI-1 files of bytes, for the viewer."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

LEVEL = 6  # higher ones take longer and gain under 1 % on maps
_RGB24 = 128  # NIFTI_TYPE_RGB24
_SCANNER_FRAME = 1  # NIFTI_XFORM_SCANNER_ANAT
# Deflate, without name and time, unknown operating system (RFC 1952).
_GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"


def nifti_bytes(
    image: NDArray[np.uint8],
    affine: NDArray[np.float64],
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    colors: bool = False,
) -> bytes:
    """A NIfTI-1 file, compressed with gzip: the same bytes for the same image.

    `image` is (x, y, z) or (x, y, z, n), uint8; a voxel means `slope * image + intercept`. With `colors`, n is 3, and
    the file is (x, y, z) of RGB. `affine` (4, 4) maps voxel indices to world coordinates, scanner RAS+ in mm.
    """
    header: Any = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(image.shape[:3] if colors else image.shape)
    if colors:
        header["datatype"], header["bitpix"] = _RGB24, 24
    header.set_sform(affine, code=_SCANNER_FRAME)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["vox_offset"] = header.single_vox_offset
    start = header.binaryblock.ljust(header.single_vox_offset, b"\0")
    # The three colors of a voxel follow each other.
    voxels = np.moveaxis(image, 3, 0) if colors else image
    return gzip_bytes(start + voxels.tobytes(order="F"))


def gzip_bytes(content: bytes) -> bytes:
    """`content`, compressed. Python's gzip writes another header in each of its versions."""
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = compressor.compress(content) + compressor.flush()
    return _GZIP_HEADER + body + struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)
