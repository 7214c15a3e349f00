"""The data version of a value: a hash of its content that is the same on every machine."""

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
    RigidTransform,
    Segmentation,
    StreamedVolume,
    Table,
    TissueResponses,
    Volume,
)

Value = (
    Volume
    | Segmentation
    | Dwi
    | MapSet
    | ResponseFunction
    | TissueResponses
    | RigidTransform
    | Table
    | Report
    | NotApplicable
)


def data_version(value: Value) -> str:
    """The SHA-256 of the content of `value` as it is stored, 64 hex digits.

    The hash covers the dtype, shape and bytes of an array (in NIfTI's order, x fastest), the affine and names of a
    Volume, the probabilities of a Segmentation, the identity of a Report that has one, and the b-values, b-vectors (FSL
    frame), b=0 threshold, `interpolated` and `preprocessing` of a Dwi. A streamed image has the same data version as
    the same image in memory.
    """
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def text_version(content: object) -> str:
    """The SHA-256 of the canonical JSON of `content`, 64 hex digits. Raises as `canonical_json`."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def canonical_json(content: object) -> str:
    """JSON with sorted keys and no blanks: equal content gives equal text.

    Raises ValueError if a number is NaN or infinite, and TypeError if JSON has no form for a value.

    >>> canonical_json({"b": [1, 2.5], "a": None})
    '{"a":null,"b":[1,2.5]}'
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _feed(digest: Any, value: Value | StreamedVolume) -> None:
    # A streamed image is hashed as the Volume with the same voxels.
    kind = Volume if isinstance(value, StreamedVolume) else type(value)
    digest.update(f"{kind.__name__}\n".encode())
    if isinstance(value, Volume):
        digest.update(canonical_json(value.names).encode())
        _feed_array(digest, value.affine)
        _feed_array(digest, value.array)
        if isinstance(value, Segmentation):
            _feed_array(digest, value.probabilities.array)
    elif isinstance(value, StreamedVolume):
        digest.update(canonical_json(()).encode())
        _feed_array(digest, value.affine)
        _feed_slabs(digest, np.dtype(np.float32), value.shape, value.volumes())
    elif isinstance(value, Dwi):
        table = value.gradients
        digest.update(canonical_json([value.interpolated, table.b0_threshold]).encode())
        _feed_array(digest, table.bvals)
        _feed_array(digest, table.bvecs)
        if value.preprocessing:
            digest.update(canonical_json(dict(value.preprocessing)).encode())
        _feed(digest, value.volume)
    elif isinstance(value, MapSet):
        for name, volume in value.items():
            digest.update(f"{name}\n".encode())
            _feed(digest, volume)
    elif isinstance(value, ResponseFunction):
        digest.update(canonical_json([value.bvalue, value.voxels]).encode())
        _feed_array(digest, value.coefficients)
    elif isinstance(value, TissueResponses):
        digest.update(canonical_json([value.wm_voxels, value.gm_voxels, value.csf_voxels]).encode())
        for array in (value.bvalues, value.wm, value.gm, value.csf):
            _feed_array(digest, array)
    elif isinstance(value, RigidTransform):
        _feed_array(digest, value.matrix)
    elif isinstance(value, Table):
        columns = [[name, value.kinds[name], cells] for name, cells in value.columns.items()]
        digest.update(canonical_json(columns).encode())
    elif isinstance(value, Report):
        digest.update((value.identity or value.html).encode())
    else:
        digest.update(value.reason.encode())


def _feed_array(digest: Any, array: NDArray[Any]) -> None:
    # One slab at a time: no copy of an entire array in C order.
    slabs = (array[..., index] for index in range(array.shape[-1])) if array.ndim > 1 else (array,)
    _feed_slabs(digest, array.dtype, array.shape, slabs)


def _feed_slabs(digest: Any, dtype: np.dtype[Any], shape: tuple[int, ...], slabs: Iterable[NDArray[Any]]) -> None:
    little = dtype.newbyteorder("<")
    digest.update(f"{little.str}{shape}\n".encode())
    for slab in slabs:
        # No copy if the slab is in Fortran order and little-endian, as the slabs of images are.
        digest.update(np.asarray(slab, little).ravel(order="F").view(np.uint8).data)
