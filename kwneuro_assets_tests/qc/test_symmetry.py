"""The midsagittal plane of a mask."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.imaging import Volume
from kwneuro_assets.qc.symmetry import reflected
from kwneuro_assets_tests.qc.shapes import GRIDS, head, rotation, world

# A voxel counts entirely or not at all: on 4 mm voxels, about 3 % of a head's are at the surface on one side only.
ROUNDING = 0.04


def missing_quarter(points):
    """The anterior half of the left hemisphere."""
    return (points[..., 0] < 0) & (points[..., 1] > 0)


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("pose", [rotation(), rotation(yaw=-8, roll=9, pitch=20), rotation(yaw=14)])
def test_a_symmetric_head_is_symmetric_on_every_grid_and_in_every_pose(axes, pose):
    assert reflected(head(axes, pose=pose)).symmetry > 1 - ROUNDING


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("pose", [rotation(), rotation(yaw=14)])
def test_a_head_without_half_of_a_hemisphere_is_not_symmetric(axes, pose):
    # At the true plane, 1/2 of the head has its mirror image, of the 3/4 that are left; the best plane has a bit more.
    symmetry = reflected(head(axes, pose=pose, without=missing_quarter)).symmetry
    assert 2 / 3 - ROUNDING < symmetry < 0.92


def test_symmetry_is_the_dice_coefficient_with_the_mirror_image():
    generator = np.random.default_rng(2)
    half = generator.random((9, 12, 10)) < 0.7
    inside = np.concatenate([half, half[::-1]])
    assert reflected(Volume(inside, np.diag([2.0, 2, 2, 1]))).symmetry == 1, "an exact mirror image"
    inside[0] = False
    # The plane remains the best one for a random texture, so the layer at the other end has no mirror image.
    dice = 2 * (inside & inside[::-1]).sum() / (2 * inside.sum())
    assert reflected(Volume(inside, np.diag([2.0, 2, 2, 1]))).symmetry == pytest.approx(dice)


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
def test_the_right_side_is_that_of_the_world_frame(axes):
    mask = head(axes)
    mirror = reflected(mask)
    right = world(mask.shape, mask.affine)[mask.array > 0][:, 0]
    clear = np.abs(right) > 4  # mm: further than the plane may be off
    assert (mirror.right[clear] == (right[clear] > 0)).all()


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
def test_the_mirrored_voxel_is_at_the_mirrored_place(axes):
    mask = head(axes)
    mirror = reflected(mask)
    points = world(mask.shape, mask.affine)
    here, there = points[mask.array > 0], points.reshape(-1, 3)[mirror.mirrored]
    off = np.linalg.norm(there - here * [-1, 1, 1], axis=1)[mirror.mirrored >= 0]
    # Half the diagonal of a voxel of 4 mm, and what 2 degrees of a flat optimum move at the surface: 2 x 78 mm x 0.035.
    assert off.max() < 3.5 + 5.4


def test_symmetry_is_unknown_without_an_extent_from_left_to_right():
    assert reflected(Volume(np.zeros((4, 4, 4), bool), np.eye(4))) is None
    assert reflected(Volume(np.ones((1, 8, 8), bool), np.eye(4))) is None
    assert reflected(Volume(np.ones((8, 8, 1), bool), np.eye(4))).symmetry == 1
    along_z = np.eye(4)[[2, 1, 0, 3]]
    assert reflected(Volume(np.ones((1, 1, 8), bool), along_z)).symmetry == 1, "its third axis is left-right"


def test_a_single_voxel_is_symmetric():
    inside = np.zeros((5, 5, 5), bool)
    inside[1, 2, 3] = True
    assert reflected(Volume(inside, np.eye(4))).symmetry == 1


def test_the_result_is_the_same_in_every_order_of_the_array():
    mask = head(GRIDS["oblique"], without=missing_quarter)
    fortran = Volume(np.asfortranarray(mask.array), mask.affine)
    assert reflected(mask).symmetry == reflected(fortran).symmetry
