"""QC metrics of the brain mask: each defect moves the metric that should, and the clean head none."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.imaging import NotApplicable, Volume
from kwneuro_assets.qc.brain import MASK_METRICS, mask_metrics
from kwneuro_assets.qc.symmetry import reflected
from kwneuro_assets_tests.qc.shapes import GRIDS, SEMI_AXES, head, rotation


def metrics_of(mask):
    return mask_metrics(mask, reflected(mask))


@pytest.fixture(scope="module", params=GRIDS.values(), ids=GRIDS)
def axes(request):
    return request.param


def test_a_clean_head_is_one_round_symmetric_piece_inside_the_field_of_view(axes):
    row = metrics_of(head(axes, pose=rotation(yaw=7, roll=4)))
    # 4 mm voxels: the volume of the formula within 1 %.
    assert row["mask_volume_ml"] == pytest.approx(4 / 3 * np.pi * SEMI_AXES.prod() / 1000, rel=0.01)
    assert row["mask_pieces"] == 1
    assert row["mask_largest_piece_fraction"] == 1
    assert row["mask_hole_voxels"] == 0
    assert (row["mask_edge_faces"], row["mask_edge_face_names"], row["mask_edge_area_fraction"]) == (0, "none", 0)
    assert row["mask_flat_face_fraction"] < 0.2
    assert row["mask_symmetry"] > 0.95


def test_a_head_cut_at_half_has_a_flat_face(axes):
    superior = int(np.argmax(np.abs(axes[2])))
    mask = head(axes)
    index = np.indices(mask.shape)[superior] - mask.shape[superior] // 2
    row = metrics_of(Volume(mask.array * (index * axes[2, superior] < 0), mask.affine))
    assert row["mask_flat_face_fraction"] > 0.95
    assert row["mask_flat_face_name"] == "superior"


def test_a_second_piece_and_a_hole_are_counted(axes):
    mask = head(axes)
    array = mask.array.copy()
    array[:2, :2, :3] = 1
    array[22, 22, 22:24] = 0
    row = metrics_of(Volume(array, mask.affine))
    voxels = int(array.sum())
    assert row["mask_pieces"] == 2
    assert row["mask_largest_piece_fraction"] == pytest.approx(1 - 12 / voxels, rel=1e-5)  # five significant digits
    assert row["mask_hole_voxels"] == 2
    assert row["mask_edge_faces"] == 3


def test_half_of_a_missing_hemisphere_lowers_the_symmetry(axes):
    row = metrics_of(head(axes, without=lambda points: (points[..., 0] < 0) & (points[..., 1] > 0)))
    assert row["mask_symmetry"] < 0.92


def test_sides_at_the_edge_are_named_in_the_same_order_on_every_grid(axes):
    shape, affine = head(axes).shape, head(axes).affine
    row = metrics_of(Volume(np.ones(shape, np.uint8), affine))
    assert row["mask_edge_face_names"] == "anterior, inferior, left, posterior, right, superior"
    assert (row["mask_edge_faces"], row["mask_edge_area_fraction"]) == (6, 1)
    assert (row["mask_flat_face_fraction"], row["mask_flat_face_name"]) == (0, "none")


def test_an_empty_mask_has_no_volume_and_no_fractions():
    row = metrics_of(Volume(np.zeros((5, 5, 5), np.uint8), np.eye(4)))
    assert (row["mask_volume_ml"], row["mask_pieces"], row["mask_hole_voxels"], row["mask_edge_faces"]) == (0, 0, 0, 0)
    assert row["mask_symmetry"] is row["mask_largest_piece_fraction"] is row["mask_flat_face_fraction"] is None


@pytest.mark.parametrize("missing", [None, NotApplicable("no brain")])
def test_all_metrics_are_unknown_without_a_mask(missing):
    assert mask_metrics(missing, None) == dict.fromkeys(metric.name for metric in MASK_METRICS)


def test_the_columns_are_those_of_the_metrics(axes):
    assert list(metrics_of(head(axes))) == [metric.name for metric in MASK_METRICS]
