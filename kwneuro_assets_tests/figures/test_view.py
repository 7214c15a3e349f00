"""Selection and orientation of slices."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.figures.view import AXIAL, CORONAL, PLANES, SAGITTAL, View, foreground
from kwneuro_assets.imaging import Volume
from kwneuro_assets_tests.figures.heads import AXES, affine_of, head, world

GRID = (9, 8, 7)


@pytest.mark.parametrize("orientation", AXES)
@pytest.mark.parametrize("plane", PLANES)
def test_columns_and_rows_have_the_world_direction_of_the_plane_for_every_affine(orientation, plane):
    affine = affine_of(orientation, GRID)
    coordinates = world(affine, GRID)
    view = View.of(Volume(np.ones(GRID, np.float32), affine))

    for cut in view.stack(plane, 3):
        shown = view.cut(coordinates, cut)

        # Neighboring pixels differ along the plane's own two world axes more than along any other.
        across = np.diff(shown, axis=1).reshape(-1, 3)
        up = np.diff(shown, axis=0).reshape(-1, 3)
        assert (across.argmax(axis=1) == plane.across).all()
        assert (up.argmax(axis=1) == plane.up).all()


@pytest.mark.parametrize("orientation", AXES)
def test_world_vectors_are_mapped_to_components_along_the_displayed_axes(orientation):
    affine = affine_of(orientation, GRID)
    view = View.of(Volume(np.ones(GRID, np.float32), affine))
    shown = view.cropped(world(affine, GRID))

    # The oracle: the world step from a voxel to its neighbor along each shown axis has one component, its length.
    for axis in range(3):
        step = np.diff(shown, axis=axis)[0, 0, 0]
        expected = np.eye(3)[axis] * view.voxel_size[axis]
        np.testing.assert_allclose(view.world_to_axes @ step, expected, atol=1e-5)  # float32 affine


@pytest.mark.parametrize("orientation", AXES)
def test_the_center_is_that_of_the_region_of_interest(orientation):
    volume = head(orientation)
    bright = volume.array > 500
    view = View.of(volume, bright)

    shown = view.cropped(world(volume.affine, volume.grid))[view.center]

    # Half a voxel of rounding along each axis.
    assert np.linalg.norm(shown - np.array([-8, 8, 8])) < 0.5 * np.linalg.norm([2, 2, 2.5]) + 1e-3


def test_the_crop_contains_the_region_of_interest_and_a_margin():
    inside = np.zeros((30, 30, 30), bool)
    inside[10:14, 5:20, 29] = True

    view = View.of(Volume(inside, np.eye(4)), inside)

    assert view.cropped(inside).sum() == inside.sum()
    assert view.shape == (4 + 4, 15 + 4, 1 + 2)


def test_an_empty_region_of_interest_shows_the_entire_grid():
    view = View.of(Volume(np.zeros(GRID, np.float32), np.eye(4)), np.zeros(GRID, bool))
    assert view.shape == GRID
    assert view.center == (4, 4, 3)


@pytest.mark.parametrize(
    ("grid", "planes"),
    [((60, 60, 1), [AXIAL]), ((60, 1, 60), [CORONAL]), ((1, 60, 60), [SAGITTAL]), ((1, 1, 1), list(PLANES))],
)
def test_a_single_slice_is_shown_in_its_own_plane(grid, planes):
    assert list(View.of(Volume(np.ones(grid, np.float32), np.eye(4))).planes()) == planes


def test_a_thin_slab_shows_several_slices():
    cuts = View.of(Volume(np.ones((60, 60, 6), np.float32), np.eye(4))).cuts()
    assert [cut.plane for cut in cuts] == [AXIAL] * 3
    assert [cut.position for cut in cuts] == [1, 2, 4]


def test_cropping_a_4d_image_does_not_copy_it():
    image = np.zeros((20, 20, 20, 50), np.float32)
    view = View.of(Volume(image[..., 0], affine_of("sagittal", (20, 20, 20))))
    assert np.shares_memory(view.cropped(image), image)


def test_the_foreground_is_the_head_and_not_the_air():
    random = np.random.default_rng(0)
    volume = head()
    noisy = volume.array + np.abs(random.normal(0, 3, volume.grid)).astype(np.float32)
    # 15 % of 1100 is above the gray ball's 100: only the bright ball counts if it is that much brighter.
    assert np.array_equal(foreground(noisy), volume.array > 500)
    assert np.array_equal(foreground(np.minimum(noisy, 200)), volume.array > 0)
    assert foreground(np.zeros((2, 2, 2))).all()


@pytest.mark.parametrize("orientation", AXES)
@pytest.mark.parametrize("plane", PLANES)
def test_the_label_of_a_slice_is_its_index_in_the_file(orientation, plane):
    volume = head(orientation)
    view = View.of(volume, volume.array > 500)
    indices = np.stack(np.meshgrid(*map(np.arange, volume.grid), indexing="ij"), axis=-1)
    for cut in view.stack(plane, 3):
        axis, _, index = view.label(cut).partition(" = ")
        assert (view.cut(indices, cut)[..., "ijk".index(axis)] == int(index)).all()
