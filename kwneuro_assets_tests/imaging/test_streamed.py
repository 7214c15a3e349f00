"""A series that stays where it is gives what one in memory gives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, StreamedVolume, Volume, streamed
from kwneuro_assets.imaging.streamed import is_large
from kwneuro_assets_tests.small_dataset import AFFINES, head, signal, table

AFFINE = AFFINES["oblique"]


class Shelf:
    """Volumes that are taken one by one, and how many were."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        self.array = array
        self.taken: list[int] = []

    def read(self, chosen: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        for index in chosen:
            self.taken.append(index)
            yield np.asfortranarray(self.array[..., index])


def noisy() -> NDArray[np.float32]:
    return signal(table()) + np.random.default_rng(0).random((*head().shape, len(table().bvals)), np.float32)


def pair() -> tuple[Dwi, Dwi, Shelf]:
    """One series in memory, the same streamed, and where that comes from."""
    gradients = GradientTable(table().bvals, table().world, "world")
    array = noisy()
    shelf = Shelf(array)
    whole = Dwi(Volume(array, AFFINE), gradients)
    return whole, Dwi(StreamedVolume(array.shape, AFFINE, shelf.read), gradients), shelf


def test_a_streamed_series_gives_what_one_in_memory_gives() -> None:
    whole, apart, _ = pair()
    np.testing.assert_array_equal(apart.array, whole.array)
    assert not apart.array.flags.writeable
    np.testing.assert_array_equal(apart.mean_b0().array, whole.mean_b0().array)
    np.testing.assert_array_equal(apart.image(7), whole.image(7))
    for one, other in zip(apart.images([2, 5, 25]), whole.images([2, 5, 25]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert apart.volume.shape == whole.volume.shape
    assert apart.volume.grid == whole.volume.grid
    assert apart.volume.voxel_size == whole.volume.voxel_size
    assert apart.volume.same_grid(whole.volume)
    np.testing.assert_array_equal(apart.world_bvecs, whole.world_bvecs)


@pytest.mark.parametrize("volumes", [None, [3, 4, 9], [9, 3, 4], [5, 5, 2], [], np.array([25, 0])])
def test_signals_are_gathered_in_the_order_that_is_asked_for(volumes: Sequence[int] | None) -> None:
    whole, apart, _ = pair()
    chosen = list(range(26)) if volumes is None else list(volumes)
    expected = whole.array[head()][:, chosen]
    np.testing.assert_array_equal(whole.signals(head(), volumes), expected)
    np.testing.assert_array_equal(apart.signals(head(), volumes), expected)


def test_no_volume_is_read_that_is_not_needed_and_none_twice() -> None:
    _, apart, shelf = pair()
    shelf.taken.clear()
    apart.mean_b0()
    apart.mean_b0()
    assert shelf.taken == np.flatnonzero(apart.b0_mask).tolist()
    shelf.taken.clear()
    next(apart.images())
    assert shelf.taken == [0]


@pytest.mark.parametrize("chosen", [[3, 2], [2, 2], [-1], [26]])
def test_indices_that_do_not_ascend_or_are_none_are_refused(chosen: list[int]) -> None:
    with pytest.raises(InvalidData, match="ascending indices below 26"):
        pair()[1].images(chosen)


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 0), (4, 5, 6, 7, 1)])
def test_a_streamed_volume_is_a_series(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidData, match="4 dimensions"):
        StreamedVolume(shape, AFFINE, Shelf(noisy()).read)


def test_a_streamed_series_of_zeros_or_without_a_b0_is_refused_as_one_in_memory_is() -> None:
    gradients = GradientTable(table().bvals, table().world, "world")
    dark = np.zeros_like(noisy())
    with pytest.raises(InvalidData, match="a signal somewhere"):
        Dwi(StreamedVolume(dark.shape, AFFINE, Shelf(dark).read), gradients)
    with pytest.raises(InvalidData, match="25 entries"):
        Dwi(StreamedVolume((8, 7, 6, 25), AFFINE, Shelf(noisy()).read), gradients)


def test_only_the_size_of_the_image_decides_what_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_large((128, 128, 60, 193))
    assert is_large((168, 174, 171, 300))
    shape = (8, 7, 6, 26)
    monkeypatch.setattr(streamed, "LARGE", 4 * math.prod(shape))
    assert not is_large(shape)
    monkeypatch.setattr(streamed, "LARGE", 4 * math.prod(shape) - 1)
    assert is_large(shape)
