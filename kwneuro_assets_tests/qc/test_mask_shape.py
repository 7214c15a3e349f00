"""Pieces, holes, and straight ends of a mask."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kwneuro_assets.imaging import Volume
from kwneuro_assets.qc.mask_shape import edge_faces, flattest_face, hole_voxels, piece_sizes
from kwneuro_assets_tests.qc.shapes import GRIDS, grid, head, world

ALL_NEIGHBORS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]
FACE_NEIGHBORS = [step for step in ALL_NEIGHBORS if np.abs(step).sum() == 1]


def components(cells, steps):
    """The connected components of a set of cells, by visiting neighbors: the obvious route."""
    left, found = set(cells), []
    while left:
        component, queue = set(), [left.pop()]
        while queue:
            cell = queue.pop()
            component.add(cell)
            for step in steps:
                neighbor = tuple(int(a + b) for a, b in zip(cell, step, strict=True))
                if neighbor in left:
                    left.remove(neighbor)
                    queue.append(neighbor)
        found.append(component)
    return found


def cells_of(inside):
    return {tuple(cell) for cell in np.argwhere(inside).tolist()}


def random_masks():
    generator = np.random.default_rng(5)
    return [generator.random((5, 6, 4)) < density for density in (0.05, 0.2, 0.5, 0.8, 0.95) for _ in range(4)]


def test_pieces_are_those_that_visiting_all_26_neighbors_finds():
    for inside in random_masks():
        expected = sorted((len(one) for one in components(cells_of(inside), ALL_NEIGHBORS)), reverse=True)
        assert piece_sizes(inside).tolist() == expected


def test_holes_are_the_background_from_which_no_path_across_faces_leads_out():
    for inside in random_masks():
        padded = np.pad(inside, 1)
        outside = next(one for one in components(cells_of(~padded), FACE_NEIGHBORS) if (0, 0, 0) in one)
        assert hole_voxels(inside) == (~padded).sum() - len(outside)
    assert any(hole_voxels(inside) for inside in random_masks())


def test_holes_of_a_single_slice_are_those_within_it():
    inside = np.ones((6, 5, 1), bool)
    inside[2:4, 2] = False
    assert hole_voxels(inside) == 2
    assert hole_voxels(np.moveaxis(inside, 2, 0)) == 2
    inside[3:, 2] = False
    assert hole_voxels(inside) == 0, "it opens to the edge"
    assert hole_voxels(np.ones((1, 1, 1), bool)) == 0


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("side", ["left", "right", "posterior", "anterior", "inferior", "superior"])
def test_a_field_of_view_that_ends_in_the_middle_of_the_head_is_named_by_its_side(axes, side):
    axis, sign = {"left": (0, -1), "posterior": (1, -1), "inferior": (2, -1)}.get(side, (0, 0))
    axis, sign = (axis, sign) if sign else ({"right": 0, "anterior": 1, "superior": 2}[side], 1)
    mask = head(axes)
    assert edge_faces(mask) == {}
    voxel_axis = int(np.argmax(np.abs(mask.affine[axis, :3])))
    toward_high = (mask.affine[axis, voxel_axis] > 0) == (sign > 0)
    middle = mask.shape[voxel_axis] // 2
    start, stop = (0, middle) if toward_high else (middle, mask.shape[voxel_axis])
    affine = mask.affine.copy()
    affine[:3, 3] += affine[:3, voxel_axis] * start
    half = Volume(np.take(mask.array, range(start, stop), axis=voxel_axis), affine)
    (found,) = edge_faces(half).items()
    assert found[0] == side
    assert found[1] > 0.95, "the largest cross section is at the edge, up to a voxel"


def test_sides_of_the_field_of_view_count_the_area_that_touches_them():
    inside = np.zeros((5, 5, 5), bool)
    inside[1:4, 1:4, :4] = True
    inside[1:3, 1:3, 0] = False
    assert edge_faces(Volume(inside, np.eye(4))) == {"inferior": pytest.approx(5 / 9)}
    assert edge_faces(Volume(inside, np.diag([1, 1, -1, 1]))) == {"superior": pytest.approx(5 / 9)}


def test_a_grid_of_one_slice_has_no_sides_along_it():
    inside = np.zeros((6, 6, 1), bool)
    inside[2:4, 0:3] = True
    assert edge_faces(Volume(inside, np.eye(4))) == {"posterior": pytest.approx(1.0)}


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
def test_a_round_head_has_no_large_flat_face(axes):
    # The cap of an ellipsoid of semi-axis n voxels has about 2/n of its largest cross section: 2 / 13.5 here.
    assert flattest_face(head(axes)).area < 0.2


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(("axis", "negative", "positive"), [(0, "left", "right"), (2, "inferior", "superior")])
def test_a_cut_through_the_head_is_a_flat_face_on_the_side_that_is_missing(axes, axis, negative, positive):
    for name, sign in ((negative, -1), (positive, 1)):
        mask = head(axes)
        voxel_axis = int(np.argmax(np.abs(mask.affine[axis, :3])))
        beyond = (np.indices(mask.shape)[voxel_axis] - mask.shape[voxel_axis] // 2) * mask.affine[axis, voxel_axis]
        cut = Volume(mask.array * (sign * beyond < 0), mask.affine)
        found = flattest_face(cut)
        assert found.side == name
        assert found.area > 0.95
        assert edge_faces(cut) == {}, "the cut is inside the field of view"


def test_the_flattest_face_is_the_layer_where_most_voxels_end():
    for inside in random_masks():
        if not inside.any():
            continue
        expected = 0.0
        for axis in range(3):
            layers = np.moveaxis(inside, axis, 0)
            largest = max(int(layer.sum()) for layer in layers)
            for one, other in itertools.pairwise(layers):
                expected = max(expected, (one & ~other).sum() / largest, (other & ~one).sum() / largest)
        found = flattest_face(Volume(inside, np.eye(4)))
        assert (found.area if found else 0.0) == pytest.approx(expected)


def test_empty_and_full_masks_have_no_flat_face():
    assert flattest_face(Volume(np.zeros((4, 4, 4), bool), np.eye(4))) is None
    assert flattest_face(Volume(np.ones((4, 4, 4), bool), np.eye(4))) is None
    assert flattest_face(Volume(np.ones((1, 1, 1), bool), np.eye(4))) is None
    assert piece_sizes(np.zeros((4, 4, 4), bool)).size == 0


def test_an_oblique_cut_is_not_flat_along_the_grid():
    shape, affine = grid(GRIDS["RAS"])
    points = world(shape, affine)
    mask = head(GRIDS["RAS"], without=lambda points: points @ [1, 1, 1] > 0)
    assert points.shape == (*shape, 3)
    assert flattest_face(mask).area < 0.3, "docs: a cut that is oblique to the grid is not detected by this metric"
