"""The data version: equal for equal content, different for any other content."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kwneuro_assets.imaging import (
    Dwi,
    GradientTable,
    MapSet,
    NotApplicable,
    ResponseFunction,
    StreamedVolume,
    TissueResponses,
    Volume,
)
from kwneuro_assets.imaging.content_hash import Value, data_version, text_version
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, signal, table

OBLIQUE = AFFINES["oblique"]
ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def volume(array: Any = ARRAY, affine: Any = OBLIQUE, names: tuple[str, ...] = ()) -> Volume:
    return Volume(np.array(array), affine, names)


def moved(millimeters: float) -> np.ndarray[Any, Any]:
    affine = OBLIQUE.copy()
    affine[0, 3] += millimeters
    return affine


def one_voxel() -> np.ndarray[Any, Any]:
    array = ARRAY.copy()
    array[1, 1, 1] = np.nextafter(array[1, 1, 1], np.float32(np.inf))
    return array


def series(**changes: Any) -> Dwi:
    parts: dict[str, Any] = {"bvals": table().bvals, "bvecs": table().world, "threshold": 50.0, "interpolated": False}
    parts |= changes
    gradients = GradientTable(parts["bvals"], parts["bvecs"], "world", parts["threshold"])
    return Dwi(Volume(signal(table()), OBLIQUE), gradients, parts["interpolated"])


TISSUES = TissueResponses(np.array([0.0, 1000]), np.array([[3.0, 0], [2, -1]]), np.array([4.0, 3]), np.array([9.0, 1]))
DIFFERENT: list[Value] = [
    volume(),
    volume(one_voxel()),
    volume(ARRAY.astype(np.uint8)),
    volume(ARRAY.reshape(3, 2, 4)),
    volume(ARRAY.reshape(2, 3, 4, 1)),
    volume(affine=moved(0.001)),
    volume(ARRAY.reshape(2, 3, 1, 4), names=("a", "b", "c", "d")),
    volume(ARRAY.reshape(2, 3, 1, 4), names=("a", "b", "d", "c")),
    volume(ARRAY.reshape(2, 3, 1, 4)),
    MapSet({"fa": volume()}),
    MapSet({"md": volume()}),
    MapSet({"fa": volume(), "md": volume()}),
    MapSet({"md": volume(), "fa": volume()}),
    series(),
    series(bvals=table().bvals + 1),
    series(bvecs=-table().world),
    series(threshold=60.0),
    series(interpolated=True),
    ResponseFunction(np.array([3.0, -1]), 1000),
    ResponseFunction(np.array([3.0, -1, 0]), 1000),
    ResponseFunction(np.array([3.0, -1]), 1001),
    ResponseFunction(np.array([3.0, -1]), 1000, 300),
    TISSUES,
    replace(TISSUES, wm_voxels=300),
    replace(TISSUES, gm=TISSUES.gm + 1),
    replace(TISSUES, gm=TISSUES.csf, csf=TISSUES.gm),
    NotApplicable("one shell"),
    NotApplicable("two shells"),
]


def test_different_content_has_different_versions() -> None:
    assert len({data_version(value) for value in DIFFERENT}) == len(DIFFERENT)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_memory_layout_does_not_change_the_version(order: Any) -> None:
    assert data_version(volume(np.array(ARRAY, order=order))) == data_version(volume(ARRAY))
    padded = np.zeros((4, 6, 8), np.float32)[::2, ::2, ::2]
    padded[...] = ARRAY
    assert data_version(Volume(padded, OBLIQUE)) == data_version(volume(ARRAY))
    assert data_version(Volume(ARRAY.astype(">f4"), OBLIQUE)) == data_version(volume(ARRAY))


def test_the_frame_of_the_gradient_table_does_not_change_the_version() -> None:
    in_memory = series()
    assert data_version(Dwi(in_memory.volume, in_memory.gradients, False)) == data_version(in_memory)


def test_a_version_is_the_same_on_every_machine() -> None:
    """A change here makes every stored derivative stale."""
    assert data_version(NotApplicable("one shell")) == text_of("NotApplicable\none shell")
    assert text_version({"b": 1.5, "a": [None, True]}) == text_of('{"a":[null,true],"b":1.5}')


def text_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_nan_has_no_version() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        text_version({"a": float("nan")})


def test_a_streamed_series_has_the_version_of_the_series_in_memory() -> None:
    in_memory = series()
    streamed = StreamedVolume(
        in_memory.volume.shape, OBLIQUE, lambda chosen: (in_memory.array[..., index] for index in chosen)
    )
    assert data_version(Dwi(streamed, in_memory.gradients)) == data_version(in_memory)


def test_array_order_and_byte_order_do_not_change_the_version() -> None:
    """The hash of slabs equals the hash of the complete image in Fortran order, little-endian."""
    array = np.random.default_rng(0).random((3, 4, 5, 6), np.float32)
    affine = volume().affine
    content = b"Volume\n[]<f8(4, 4)\n" + affine.tobytes("F") + b"<f4(3, 4, 5, 6)\n" + array.astype("<f4").tobytes("F")
    for other in (array, np.asfortranarray(array), array.transpose(1, 0, 2, 3).copy().transpose(1, 0, 2, 3)):
        assert data_version(volume(other)) == hashlib.sha256(content).hexdigest()
