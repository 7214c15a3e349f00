"""The anatomy of one synthetic head."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.demo.anatomy import HEAD_SCALE
from kwneuro_assets.demo.head_shape import HeadShape

POINTS = np.random.default_rng(4).uniform(-80, 80, (2000, 3))


def test_the_standard_head_only_scales_bit_for_bit() -> None:
    shape = HeadShape.standard()
    np.testing.assert_array_equal(shape.adult(POINTS), (POINTS / HEAD_SCALE).astype(np.float32))
    directions = np.random.default_rng(0).normal(size=(len(POINTS), 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(shape.world_directions(POINTS, directions), directions)


@pytest.mark.parametrize("seed", range(3))
def test_the_jacobian_is_the_derivative_of_the_map(seed: int) -> None:
    shape, step = HeadShape.random(np.random.default_rng(seed)), 0.5
    for axis in range(3):
        ahead, behind = (shape.adult(POINTS + sign * step * np.eye(3)[axis]) for sign in (1, -1))
        found = (ahead.astype(np.float64) - behind) / (2 * step)
        np.testing.assert_allclose(found, shape.jacobian(POINTS)[:, :, axis], atol=1e-4)


def test_a_direction_of_the_world_frame_maps_to_its_direction_in_the_adult_frame() -> None:
    shape = HeadShape.random(np.random.default_rng(1))
    directions = np.random.default_rng(2).normal(size=(len(POINTS), 1, 3)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    world = shape.world_directions(POINTS, directions)[:, 0]
    np.testing.assert_allclose(np.linalg.norm(world, axis=1), 1, atol=1e-5)
    moved = shape.adult(POINTS + 0.5 * world).astype(np.float64) - shape.adult(POINTS - 0.5 * world)
    cosines = (moved * directions[:, 0]).sum(axis=1) / np.linalg.norm(moved, axis=1)
    assert cosines.min() > 0.9999


def test_random_heads_do_not_fold_and_differ() -> None:
    volumes = []
    for seed in range(50):
        determinant = np.linalg.det(HeadShape.random(np.random.default_rng(seed)).jacobian(POINTS)) * HEAD_SCALE**3
        assert determinant.min() > 0.3
        volumes.append(determinant.mean())
    assert np.ptp(volumes) > 0.3


def test_no_variation_is_the_standard_head() -> None:
    shape = HeadShape.random(np.random.default_rng(3), variation=0)
    np.testing.assert_allclose(shape.adult(POINTS), HeadShape.standard().adult(POINTS), atol=1e-4)
