"""The cube is TractSeg's, voxel by voxel, and so is the way back."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.derivations.tractseg_cube import Cube

pytest.importorskip("tractseg")

# The last one is of those in which TractSeg's rounding loses a plane of the cube on the way back.
SHAPES = [(20, 26, 18), (31, 31, 31), (40, 70, 33), (4, 24, 31)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cube_and_the_way_back_are_those_of_tractseg(shape: tuple[int, int, int]) -> None:
    from tractseg.libs import data_utils

    random = np.random.default_rng(0)
    image = np.zeros((shape[0] + 3, shape[1] + 2, shape[2] + 4, 2), np.float32)
    image[1 : shape[0] + 1, 2 : shape[1] + 2, 3 : shape[2] + 3] = random.random((*shape, 2), np.float32) + 0.1
    cropped, _, box, complete = data_utils.crop_to_nonzero(image)
    expected, fit = data_utils.pad_and_scale_img_to_square_img(cropped, target_size=32, nr_cpus=1)
    cube = Cube(image, 32)
    found = cube.array()
    assert np.array_equal(found, expected)
    assert found.strides == expected.strides, "the mean of a slice depends on the order in memory"
    output = random.random((32, 32, 32, 1), np.float32)
    back = data_utils.cut_and_scale_img_back_to_original_img(output, fit, nr_cpus=1)
    back = data_utils.add_original_zero_padding_again(back, box, complete, 1)[..., 0]
    assert np.array_equal(cube.all_to_image(output[..., 0]), back)
    assert np.array_equal(cube.to_image(output[..., 0][np.ix_(*cube.used)]), back)


def test_rounding_loses_a_plane_in_one_of_the_shapes() -> None:
    """Otherwise the case would not be tested."""
    cube = Cube(np.ones((*SHAPES[-1], 1), np.float32), 32)
    image = cube.all_to_image(np.ones((32, 32, 32), np.float32))
    assert not image[..., -1].any()
    assert image[..., :-1].all()
