"""QC metrics of the tract masks."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.imaging import NotApplicable, Segmentation, Volume
from kwneuro_assets.qc.bundles import BUNDLE_METRICS, BUNDLE_VOLUME, bundle_metrics

AFFINE = np.diag([-2.0, 2, 2.5, 1])  # 0.01 ml per voxel
SHAPE = (8, 10, 6)
NAMES = ("AF_left", "AF_right", "CA", "CST_left", "CST_right", "MCP", "UF_left", "UF_right")
COUNTS = (30, 10, 5, 40, 60, 0, 7, 0)


def masks_of(counts=COUNTS, names=NAMES):
    stack = np.zeros((*SHAPE, len(counts)), np.uint8, order="F")
    for layer, count in enumerate(counts):
        stack[..., layer].reshape(-1, order="F")[:count] = 1
    return Volume(stack, AFFINE, names)


def test_bundles_are_counted_and_compared_between_the_sides():
    row = bundle_metrics(masks_of(), None)
    assert (row["bundles_found"], row["bundles_empty"], row["bundles_empty_names"]) == (6, 2, "MCP, UF_right")
    assert (row["bundle_side_ratio_max"], row["bundle_side_ratio_max_name"]) == (3, "AF (left 3 times right)")
    assert row["bundles_one_sided"] == 2
    assert row["bundles_one_sided_names"] == "AF (left 3 times right), UF (left only)"
    assert row["bundles_outside_brain"] is row["bundles_outside_brain_names"] is None, "there is no brain mask"


def test_each_bundle_has_its_volume():
    row = bundle_metrics(masks_of(), None)
    expected = {f"bundle_volume_ml_{name}": count / 100 for name, count in zip(NAMES, COUNTS, strict=True)}
    assert {column: row[column] for column in expected} == pytest.approx(expected)


def test_bundles_outside_the_brain_are_named():
    inside = np.zeros(SHAPE, np.uint8, order="F")
    inside.reshape(-1, order="F")[:45] = 1
    row = bundle_metrics(masks_of(), Volume(inside, AFFINE))
    assert (row["bundles_outside_brain"], row["bundles_outside_brain_names"]) == (1, "CST_right (25%)")
    row = bundle_metrics(masks_of(), Volume(np.ones(SHAPE, np.uint8), AFFINE))
    assert (row["bundles_outside_brain"], row["bundles_outside_brain_names"]) == (0, "none")


def test_nothing_found_is_none_in_words_and_not_missing():
    row = bundle_metrics(masks_of([4] * 8), None)
    assert (row["bundles_empty"], row["bundles_empty_names"]) == (0, "none")
    assert (row["bundles_one_sided"], row["bundles_one_sided_names"]) == (0, "none")


def test_without_any_bundle_there_is_no_ratio():
    row = bundle_metrics(masks_of([0] * 8), None)
    assert (row["bundles_found"], row["bundles_empty"], row["bundles_one_sided"]) == (0, 8, 0)
    assert row["bundle_side_ratio_max"] is row["bundle_side_ratio_max_name"] is None


def test_probabilities_do_not_matter():
    masks = masks_of()
    both = Segmentation.of(masks, Volume(0.5 * masks.array, masks.affine, masks.names))
    assert bundle_metrics(both, None) == bundle_metrics(masks, None)


@pytest.mark.parametrize("missing", [None, NotApplicable("no peaks")])
def test_without_tract_masks_all_is_unknown_and_no_bundle_has_a_column(missing):
    fixed = [metric.name for metric in BUNDLE_METRICS if metric.name != BUNDLE_VOLUME]
    assert bundle_metrics(missing, None) == dict.fromkeys(fixed)
