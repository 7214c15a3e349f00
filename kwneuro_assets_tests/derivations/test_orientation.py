"""Reorientation changes voxel indices, but not world coordinates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwneuro_assets.derivations.orientation import nearest, orientation, reoriented, tilt, world_aligned_grid
from kwneuro_assets.imaging import Volume

ALL_AXES = [
    "".join(pair[sign] for pair, sign in zip(order, signs, strict=True))
    for order in itertools.permutations(("LR", "PA", "IS"))
    for signs in itertools.product((0, 1), repeat=3)
]


def rotation(degrees: float, axis: int) -> NDArray[np.float64]:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = [index for index in range(3) if index != axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def volume(axes: NDArray[np.float64], seed: int = 0) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag([2.0, 2.5, 3.0])
    affine[:3, 3] = (-7, 11, 5)
    return Volume(np.random.default_rng(seed).random((3, 4, 5, 2), np.float32), affine, ("one", "two"))


def values_by_position(image: Volume) -> dict[tuple[float, ...], tuple[float, ...]]:
    indices = np.indices(image.grid).reshape(3, -1).T
    positions = indices @ image.affine[:3, :3].T + image.affine[:3, 3]
    return {tuple(np.round(p, 3) + 0.0): tuple(image.array[tuple(i)]) for p, i in zip(positions, indices, strict=True)}


@pytest.mark.parametrize("axes", ALL_AXES)
def test_voxels_keep_position_and_value_in_all_48_orientations(axes: str) -> None:
    image = volume(rotation(12, 0) @ rotation(-9, 2))
    result = reoriented(image, axes)
    assert orientation(result) == axes
    assert values_by_position(result) == values_by_position(image)
    assert result.names == image.names


@pytest.mark.parametrize("axes", ALL_AXES)
def test_reorientation_is_invertible(axes: str) -> None:
    image = volume(rotation(12, 1))
    back = reoriented(reoriented(image, axes), orientation(image))
    assert np.array_equal(back.array, image.array)
    # Affines are rounded to float32, and the origin is a sum: 1 micrometer.
    assert np.allclose(back.affine, image.affine, atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 40), st.integers(0, 2), st.sampled_from(ALL_AXES))
def test_the_tilt_is_the_angle_of_rotation_in_any_orientation(degrees: float, axis: int, axes: str) -> None:
    image = reoriented(volume(rotation(degrees, axis)), axes)
    # Near 0, the precision of a float32 affine is 0.03 degrees, because the cosine is flat there.
    assert tilt(image) == pytest.approx(degrees, abs=0.05)


def test_the_world_aligned_grid_contains_every_voxel_center() -> None:
    image = volume(rotation(20, 0) @ rotation(10, 2))
    shape, affine = world_aligned_grid(image, 2.0)
    positions = np.array(list(values_by_position(image)))
    index = (positions - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    assert (index > -0.01).all()
    assert (index < np.array(shape) - 1 + 0.01).all()
    assert np.array_equal(np.sign(np.diag(affine)[:3]), (-1, 1, 1))


def test_the_world_aligned_grid_of_an_aligned_image_is_unchanged() -> None:
    image = Volume(np.ones((6, 5, 4), np.float32), np.diag([-2.0, 2, 2, 1]))
    shape, affine = world_aligned_grid(image, 2.0)
    assert shape == image.grid
    assert np.allclose(affine, image.affine)


def test_nearest_has_the_value_of_the_nearest_voxel_and_zero_outside() -> None:
    image = volume(rotation(20, 0) @ rotation(10, 2))
    shape, affine = world_aligned_grid(image, 2.0)
    moved = nearest(image, shape, affine)
    centers = np.indices(image.grid).reshape(3, -1).T
    for index in np.ndindex(*shape):
        where = np.linalg.inv(image.affine)[:3] @ [*(affine[:3, :3] @ index + affine[:3, 3]), 1]
        closest = centers[np.abs(centers - where).max(axis=1).argmin()]
        inside = np.abs(closest - where).max() <= 0.5
        assert np.array_equal(moved.array[index], image.array[tuple(closest)] if inside else (0, 0))


def test_resampling_to_the_same_grid_changes_nothing() -> None:
    image = volume(rotation(20, 0))
    moved = nearest(image, image.grid, image.affine)
    assert np.array_equal(moved.array, image.array)
    assert moved.names == image.names
