"""Bundles to check in the summary of tract masks: empty, one-sided, outside the brain."""

from __future__ import annotations

import numpy as np

from kwneuro_assets.figures import summaries
from kwneuro_assets.imaging import MapSet, Segmentation, Volume


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
