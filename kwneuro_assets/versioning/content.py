"""The data version of a value: a hash of its canonical content, the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import (
    Dwi,
    MapSet,
    NotApplicable,
    Report,
    ResponseFunction,
    StreamedVolume,
    Table,
    TissueResponses,
    Volume,
)

Value = Volume | Dwi | MapSet | ResponseFunction | TissueResponses | Table | Report | NotApplicable


def data_version(value: Value) -> str:
    """The sha256, 64 hex digits, over the content of `value` as it is stored.

    Arrays count by dtype, shape and bytes in NIfTI's order, volumes by affine and names too, a Dwi by its
    b-values, b-vectors (FSL frame), threshold of b=0 and provenance.
    """
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def text_version(content: object) -> str:
    """The sha256, 64 hex digits, over the canonical JSON of `content`."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def canonical_json(content: object) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _feed(digest: Any, value: Value | StreamedVolume) -> None:
    # A series counts by what it holds, wherever that lies.
    kind = Volume if isinstance(value, StreamedVolume) else type(value)
    digest.update(f"{kind.__name__}\n".encode())
    if isinstance(value, Volume):
        digest.update(canonical_json(value.names).encode())
        _feed_array(digest, value.affine)
        _feed_array(digest, value.array)
    elif isinstance(value, StreamedVolume):
        digest.update(canonical_json(()).encode())
        _feed_array(digest, value.affine)
        _feed_slabs(digest, np.dtype(np.float32), value.shape, value.volumes())
    elif isinstance(value, Dwi):
        table = value.gradients
        digest.update(canonical_json([value.interpolated, table.b0_threshold]).encode())
        _feed_array(digest, table.bvals)
        _feed_array(digest, table.bvecs)
        _feed(digest, value.volume)
    elif isinstance(value, MapSet):
        for name, volume in value.items():
            digest.update(f"{name}\n".encode())
            _feed(digest, volume)
    elif isinstance(value, ResponseFunction):
        digest.update(canonical_json([value.bvalue, value.voxels]).encode())
        _feed_array(digest, value.coefficients)
    elif isinstance(value, TissueResponses):
        digest.update(canonical_json([value.white_voxels, value.grey_voxels, value.water_voxels]).encode())
        for array in (value.bvalues, value.white, value.grey, value.water):
            _feed_array(digest, array)
    elif isinstance(value, Table):
        columns = [[name, value.kinds[name], cells] for name, cells in value.columns.items()]
        digest.update(canonical_json(columns).encode())
    elif isinstance(value, Report):
        digest.update(value.html.encode())
    else:
        digest.update(value.reason.encode())


def _feed_array(digest: Any, array: NDArray[Any]) -> None:
    # One slab at a time: an array in C order is never copied whole.
    slabs = (array[..., index] for index in range(array.shape[-1])) if array.ndim > 1 else (array,)
    _feed_slabs(digest, array.dtype, array.shape, slabs)


def _feed_slabs(digest: Any, dtype: np.dtype[Any], shape: tuple[int, ...], slabs: Iterable[NDArray[Any]]) -> None:
    little = dtype.newbyteorder("<")
    digest.update(f"{little.str}{shape}\n".encode())
    for slab in slabs:
        # A view where the slab lies in NIfTI's order and is little-endian, as those of images do and are.
        digest.update(np.asarray(slab, little).ravel(order="F").view(np.uint8).data)
