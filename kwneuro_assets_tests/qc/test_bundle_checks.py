"""Bundles to check: empty, one-sided, outside the brain, with one ending."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.imaging import Volume
from kwneuro_assets.qc import bundle_checks

PAIR = ("CST_left", "CST_right")


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (100, 100, "none"),
        (100, 50, "none"),
        (101, 50, "CST (left 2 times right)"),
        (7, 70, "CST (right 10 times left)"),
        (7, 0, "CST (left only)"),
        (0, 7, "CST (right only)"),
        (0, 0, "none"),
    ],
)
def test_a_pair_is_one_sided_above_twice_the_volume(left, right, expected):
    assert bundle_checks.listed(bundle_checks.one_sided(PAIR, np.array([left, right]))) == expected


def test_bundles_without_a_pair_are_not_one_sided():
    assert bundle_checks.one_sided(("CA", "AF_left", "MCP"), np.array([1, 900, 50])) == []


def test_the_ratio_of_a_pair_is_that_of_its_sides():
    (pair,) = bundle_checks.pairs(PAIR, np.array([30, 40]))
    assert (pair.bundle, pair.ratio) == ("CST", pytest.approx(4 / 3))
    assert bundle_checks.pairs(PAIR, np.array([0, 0]))[0].ratio == 1
    assert bundle_checks.pairs(PAIR, np.array([0, 5]))[0].ratio == float("inf")


def test_an_ending_is_missing_only_if_the_other_one_of_its_bundle_was_found():
    names = ("CA_b", "CA_e", "MCP_b", "MCP_e", "CC_b", "CC_e")
    assert bundle_checks.with_one_ending(names, np.array([5, 0, 0, 0, 3, 3])) == ["CA_e"]
    assert bundle_checks.with_one_ending(names, np.array([0, 0, 4, 1, 0, 3])) == ["CC_b"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_voxels_are_counted_in_any_order_of_the_array(order):
    stack = np.array(np.random.default_rng(0).random((4, 5, 6, 7)) < 0.3, np.uint8, order=order)
    assert bundle_checks.voxel_counts(stack).tolist() == [int(stack[..., layer].sum()) for layer in range(7)]


@pytest.mark.parametrize("order", ["C", "F"])
def test_bundles_outside_the_brain_are_those_with_more_than_a_tenth_of_their_voxels_there(order):
    masks = np.zeros((10, 10, 10, 3), np.uint8, order=order)
    masks[:5, 0, 0, 0] = masks[:9, 1, 1, 1] = masks[:8, 2, 2, 2] = 1
    masks[9, 1, 1, 1] = 1  # a tenth
    masks[8:, 2, 2, 2] = 1  # a fifth
    brain = np.indices((10, 10, 10))[0] < 8
    brain[8, 1, 1] = True
    stack = Volume(masks, np.eye(4))
    found = bundle_checks.outside(stack, ("A", "B", "C"), bundle_checks.voxel_counts(masks), brain)
    assert found == ["C (20%)"]
