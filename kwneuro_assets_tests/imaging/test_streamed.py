"""A streamed DWI series gives the same values as one in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, StreamedVolume, Volume, streamed
from kwneuro_assets.imaging.streamed import is_large
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, head, signal, table

AFFINE = AFFINES["oblique"]


class VolumeReader:
    """Reads volumes one by one, and records their indices."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        self.array = array
        self.read_indices: list[int] = []

    def read(self, chosen: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        for index in chosen:
            self.read_indices.append(index)
            yield np.asfortranarray(self.array[..., index])


def noisy() -> NDArray[np.float32]:
    return signal(table()) + np.random.default_rng(0).random((*head().shape, len(table().bvals)), np.float32)


def pair() -> tuple[Dwi, Dwi, VolumeReader]:
    """A DWI series in memory, the same series streamed, and its reader."""
    gradients = GradientTable(table().bvals, table().world, "world")
    array = noisy()
    reader = VolumeReader(array)
    in_memory = Dwi(Volume(array, AFFINE), gradients)
    return in_memory, Dwi(StreamedVolume(array.shape, AFFINE, reader.read), gradients), reader


def test_a_streamed_series_equals_the_series_in_memory() -> None:
    in_memory, streamed_dwi, _ = pair()
    np.testing.assert_array_equal(streamed_dwi.array, in_memory.array)
    assert not streamed_dwi.array.flags.writeable
    np.testing.assert_array_equal(streamed_dwi.mean_b0().array, in_memory.mean_b0().array)
    np.testing.assert_array_equal(streamed_dwi.image(7), in_memory.image(7))
    for one, other in zip(streamed_dwi.images([2, 5, 25]), in_memory.images([2, 5, 25]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert streamed_dwi.volume.shape == in_memory.volume.shape
    assert streamed_dwi.volume.grid == in_memory.volume.grid
    assert streamed_dwi.volume.voxel_size == in_memory.volume.voxel_size
    assert streamed_dwi.volume.same_grid(in_memory.volume)
    np.testing.assert_array_equal(streamed_dwi.world_bvecs, in_memory.world_bvecs)


@pytest.mark.parametrize("volumes", [None, [3, 4, 9], [9, 3, 4], [5, 5, 2], [], np.array([25, 0])])
def test_signals_are_in_the_requested_order_of_volumes(volumes: Sequence[int] | None) -> None:
    in_memory, streamed_dwi, _ = pair()
    chosen = list(range(26)) if volumes is None else list(volumes)
    expected = in_memory.array[head()][:, chosen]
    np.testing.assert_array_equal(in_memory.signals(head(), volumes), expected)
    np.testing.assert_array_equal(streamed_dwi.signals(head(), volumes), expected)


def test_only_needed_volumes_are_read_and_each_once() -> None:
    _, streamed_dwi, reader = pair()
    reader.read_indices.clear()
    streamed_dwi.mean_b0()
    streamed_dwi.mean_b0()
    assert reader.read_indices == np.flatnonzero(streamed_dwi.b0_mask).tolist()
    reader.read_indices.clear()
    next(streamed_dwi.images())
    assert reader.read_indices == [0]


@pytest.mark.parametrize("chosen", [[3, 2], [2, 2], [-1], [26]])
def test_indices_out_of_order_or_range_raise_an_error(chosen: list[int]) -> None:
    with pytest.raises(InvalidData, match="ascending indices below 26"):
        pair()[1].images(chosen)


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 0), (4, 5, 6, 7, 1)])
def test_a_streamed_volume_has_four_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidData, match="4 dimensions"):
        StreamedVolume(shape, AFFINE, VolumeReader(noisy()).read)


def test_a_streamed_series_is_validated_like_one_in_memory() -> None:
    gradients = GradientTable(table().bvals, table().world, "world")
    dark = np.zeros_like(noisy())
    with pytest.raises(InvalidData, match="a signal somewhere"):
        Dwi(StreamedVolume(dark.shape, AFFINE, VolumeReader(dark).read), gradients)
    with pytest.raises(InvalidData, match="25 entries"):
        Dwi(StreamedVolume((8, 7, 6, 25), AFFINE, VolumeReader(noisy()).read), gradients)


def test_only_the_size_of_the_image_determines_whether_it_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_large((128, 128, 60, 193))
    assert is_large((168, 174, 171, 300))
    shape = (8, 7, 6, 26)
    monkeypatch.setattr(streamed, "LARGE", 4 * math.prod(shape))
    assert not is_large(shape)
    monkeypatch.setattr(streamed, "LARGE", 4 * math.prod(shape) - 1)
    assert is_large(shape)
