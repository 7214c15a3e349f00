"""The data version: the same for the same content, another for any other."""

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
from kwneuro_assets.versioning.content import Value, data_version, text_version
from kwneuro_assets_tests.small_dataset import AFFINES, signal, table

OBLIQUE = AFFINES["oblique"]
ARRAY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def volume(array: Any = ARRAY, affine: Any = OBLIQUE, names: tuple[str, ...] = ()) -> Volume:
    return Volume(np.array(array), affine, names)


def moved(millimetres: float) -> np.ndarray[Any, Any]:
    affine = OBLIQUE.copy()
    affine[0, 3] += millimetres
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
    replace(TISSUES, white_voxels=300),
    replace(TISSUES, grey=TISSUES.grey + 1),
    replace(TISSUES, grey=TISSUES.water, water=TISSUES.grey),
    NotApplicable("one shell"),
    NotApplicable("two shells"),
]


def test_any_other_content_is_another_version() -> None:
    assert len({data_version(value) for value in DIFFERENT}) == len(DIFFERENT)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_layout_in_memory_is_no_content(order: Any) -> None:
    assert data_version(volume(np.array(ARRAY, order=order))) == data_version(volume(ARRAY))
    padded = np.zeros((4, 6, 8), np.float32)[::2, ::2, ::2]
    padded[...] = ARRAY
    assert data_version(Volume(padded, OBLIQUE)) == data_version(volume(ARRAY))
    assert data_version(Volume(ARRAY.astype(">f4"), OBLIQUE)) == data_version(volume(ARRAY))


def test_the_frame_that_gradients_came_in_is_no_content() -> None:
    whole = series()
    assert data_version(Dwi(whole.volume, whole.gradients, False)) == data_version(whole)


def test_a_version_is_the_same_on_every_machine() -> None:
    """Written down once: a change here makes every stored derivative stale."""
    assert data_version(NotApplicable("one shell")) == text_of("NotApplicable\none shell")
    assert text_version({"b": 1.5, "a": [None, True]}) == text_of('{"a":[null,true],"b":1.5}')


def text_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_number_that_is_none_has_no_version() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        text_version({"a": float("nan")})


def test_a_streamed_series_has_the_version_of_the_same_in_memory() -> None:
    whole = series()
    apart = StreamedVolume(whole.volume.shape, OBLIQUE, lambda chosen: (whole.array[..., index] for index in chosen))
    assert data_version(Dwi(apart, whole.gradients)) == data_version(whole)


def test_the_order_in_memory_and_of_bytes_changes_no_version() -> None:
    """Written out: the slabs of an image, and little-endian bytes, as a hash of the whole gives them."""
    array = np.random.default_rng(0).random((3, 4, 5, 6), np.float32)
    affine = volume().affine
    told = b"Volume\n[]<f8(4, 4)\n" + affine.tobytes("F") + b"<f4(3, 4, 5, 6)\n" + array.astype("<f4").tobytes("F")
    for other in (array, np.asfortranarray(array), array.transpose(1, 0, 2, 3).copy().transpose(1, 0, 2, 3)):
        assert data_version(volume(other)) == hashlib.sha256(told).hexdigest()
