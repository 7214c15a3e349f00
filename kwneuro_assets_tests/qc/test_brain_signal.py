"""QC metrics of the signal at b=0 in and around the brain mask."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.imaging import NotApplicable, Volume
from kwneuro_assets.qc.brain_signal import BRAIN_SIGNAL_METRICS, brain_signal_metrics
from kwneuro_assets.qc.symmetry import reflected
from kwneuro_assets_tests.qc.shapes import GRIDS, head, image, rotation, world

BRAIN, SCALP, NOISE = 900.0, 500.0, 30.0


@pytest.fixture(scope="module", params=GRIDS.values(), ids=GRIDS)
def mask(request):
    return head(request.param, pose=rotation(yaw=8))


def b0_of(mask):
    """A bright brain with structure, in a layer of scalp of 10 mm, in noise."""
    generator = np.random.default_rng(1)
    points = world(mask.shape, mask.affine) @ rotation(yaw=8)
    radius = np.linalg.norm(points / (60.0, 78, 54), axis=-1)
    signal = np.where(radius < 1, BRAIN * (1 + 0.3 * np.sin(points[..., 1] / 7)), 0)
    signal = np.where((radius > 1.1) & (radius < 1.25), SCALP, signal)
    return np.abs(signal + generator.normal(0, NOISE, signal.shape)).astype(np.float32), points


def metrics_of(values, mask):
    return brain_signal_metrics(image(mask, values), mask, reflected(mask))


def test_a_clean_head_is_bright_everywhere_and_symmetric(mask):
    signal, _ = b0_of(mask)
    row = metrics_of(signal, mask)
    assert row["mask_b0_not_positive_ppm"] == row["mask_b0_dark_fraction"] == row["b0_one_sided_fraction"] == 0
    assert abs(row["b0_asymmetry"]) < 0.01
    # The scalp by its formula: between 1.1 and 1.25 times the brain's semi-axes; 4 mm voxels give it within 2 %.
    scalp = 1.25**3 - 1.1**3
    assert row["head_outside_mask_fraction"] == pytest.approx(scalp / (1 + scalp), rel=0.02)


@pytest.mark.parametrize("value", ["zero", "noise"])
def test_half_of_a_hemisphere_without_signal_is_dark_on_one_side(mask, value):
    signal, points = b0_of(mask)
    dead = (points[..., 0] < 0) & (points[..., 1] > 0)  # left, anterior
    signal[dead] = 0 if value == "zero" else np.abs(np.random.default_rng(3).normal(0, NOISE, int(dead.sum())))
    row = metrics_of(signal, mask)
    # A quarter of the brain; less a layer of half of the 10 mm of the average around it.
    assert 0.2 < row["b0_one_sided_fraction"] < 0.26
    assert row["mask_b0_dark_fraction"] == pytest.approx(0.25, abs=0.01)
    assert row["mask_b0_not_positive_ppm"] == (pytest.approx(250_000, rel=0.02) if value == "zero" else 0)
    # (1 - 1/2) / (1 + 1/2), brighter on the right; noise adds 0.01 to what is left, a plane 1 degree off as much.
    assert row["b0_asymmetry"] == pytest.approx(1 / 3, abs=0.04)


def test_a_darker_right_side_has_a_negative_asymmetry(mask):
    signal, points = b0_of(mask)
    row = metrics_of(np.where(points[..., 0] > 0, 0.8 * signal, signal), mask)
    assert row["b0_asymmetry"] == pytest.approx((0.8 - 1) / (0.8 + 1), abs=0.01)
    assert row["b0_one_sided_fraction"] == 0, "a factor of 0.8 is not half"


def test_a_mask_cut_at_half_leaves_more_of_the_head_outside(mask):
    signal, points = b0_of(mask)
    cut = Volume(mask.array * (points[..., 2] < 0), mask.affine)
    assert metrics_of(signal, cut)["head_outside_mask_fraction"] > 0.65
    assert metrics_of(signal, mask)["head_outside_mask_fraction"] < 0.4


def test_a_mask_in_air_is_dark(mask):
    signal, points = b0_of(mask)
    larger = Volume(np.linalg.norm(points / (60.0, 78, 54), axis=-1) < 1.05, mask.affine)
    row = metrics_of(signal, larger)
    assert row["mask_b0_dark_fraction"] == pytest.approx(1 - 1 / 1.05**3, abs=0.02)


def test_a_b0_on_another_grid_or_missing_leaves_all_unknown(mask):
    signal, _ = b0_of(mask)
    unknown = dict.fromkeys(metric.name for metric in BRAIN_SIGNAL_METRICS)
    mirror = reflected(mask)
    shifted = mask.affine.copy()
    shifted[:3, 3] += 4
    assert brain_signal_metrics(Volume(signal, shifted), mask, mirror) == unknown
    assert brain_signal_metrics(NotApplicable("none"), mask, mirror) == unknown
    assert brain_signal_metrics(image(mask, signal), None, None) == unknown
    empty = Volume(np.zeros_like(mask.array), mask.affine)
    assert brain_signal_metrics(image(mask, signal), empty, reflected(empty)) == unknown


def test_an_image_without_any_signal_has_no_asymmetry():
    mask = head(GRIDS["LAS"], voxel=12)
    row = metrics_of(np.zeros(mask.shape, np.float32), mask)
    assert row["b0_asymmetry"] is None
    assert row["head_outside_mask_fraction"] is None
    assert row["mask_b0_not_positive_ppm"] == 1e6
    assert list(row) == [metric.name for metric in BRAIN_SIGNAL_METRICS]


def test_a_single_slice_has_all_metrics():
    mask = head(GRIDS["LAS"])
    slice_of = Volume(mask.array[:, :, 22:23], mask.affine)
    row = metrics_of(np.full(slice_of.shape, 100, np.float32), slice_of)
    assert row["b0_asymmetry"] == row["b0_one_sided_fraction"] == 0
    assert row["head_outside_mask_fraction"] > 0.3
