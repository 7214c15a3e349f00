"""Bundles to check: empty, one-sided, outside the brain, with one ending."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.figures import bundle_checks, summaries
from kwneuro_assets.imaging import MapSet, Segmentation, Volume

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
    assert bundle_checks.one_sided(PAIR, np.array([left, right])) == expected


def test_bundles_without_a_pair_are_not_one_sided():
    assert bundle_checks.one_sided(("CA", "AF_left", "MCP"), np.array([1, 900, 50])) == "none"


def test_an_ending_is_missing_only_if_the_other_one_of_its_bundle_was_found():
    names = ("CA_b", "CA_e", "MCP_b", "MCP_e", "CC_b", "CC_e")
    assert bundle_checks.with_one_ending(names, np.array([5, 0, 0, 0, 3, 3])) == "CA_e"
    assert bundle_checks.with_one_ending(names, np.array([0, 0, 4, 1, 0, 3])) == "CC_b"


def half_brain():
    """Peaks in the lower half of a grid, and three bundles: inside, a twentieth outside, and a quarter outside."""
    shape = (10, 10, 10)
    amplitudes = np.zeros((*shape, 3), np.float32)
    amplitudes[:, :, :5, 0] = 0.4
    affine = np.diag([2.0, 2, 2, 1])
    peaks = MapSet(
        {"peaks": Volume(np.zeros((*shape, 9), np.float32), affine), "peakvalues": Volume(amplitudes, affine)}
    )
    masks = np.zeros((*shape, 3), np.uint8)
    masks[0:4, :, 0:1, 0] = 1
    masks[0, :, 3:5, 1] = 1
    masks[0, 0, 5, 1] = 1
    masks[0:3, 0, 4, 2] = 1
    masks[0, 0, 5, 2] = 1
    return peaks, Volume(masks, affine, ("AF_left", "CA", "MCP"))


def test_bundles_mostly_inside_the_brain_are_not_reported():
    peaks, masks = half_brain()
    found = summaries.tracts_summary(masks, {"csd_peaks": peaks})
    assert found["bundles_outside_brain"] == "MCP (25%)"
    assert found["bundle_volumes_ml"] == {"AF_left": 0.32, "CA": 0.168, "MCP": 0.032}
    assert summaries.tracts_summary(masks, {})["bundles_outside_brain"] == "none"


def test_probabilities_do_not_change_the_summary_of_the_masks():
    peaks, masks = half_brain()
    both = Segmentation.of(masks, Volume(0.5 * masks.array, masks.affine, masks.names))
    assert summaries.tracts_summary(both, {"csd_peaks": peaks}) == summaries.tracts_summary(masks, {"csd_peaks": peaks})


def test_empty_bundles_have_no_volume_in_the_table():
    peaks, masks = half_brain()
    nothing = Volume(np.zeros_like(masks.array), masks.affine, masks.names)
    found = summaries.tracts_summary(nothing, {"csd_peaks": peaks})
    assert found["bundle_volumes_ml"] == {}
    assert found["bundles_empty"] == "AF_left, CA, MCP"
    assert found["bundles_one_sided"] == found["bundles_outside_brain"] == "none"
