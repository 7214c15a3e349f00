"""The synthetic heads that the demo's networks are trained on."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from kwneuro_assets.demo.tract_labels import LABELED, LABELED_ENDINGS
from kwneuro_assets.demo.training_heads import CUBE, Anatomy, cube_index, in_cube


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return Anatomy.random(np.random.default_rng(2))


def test_a_head_is_reproduced_by_its_seed(anatomy: Anatomy) -> None:
    assert_equal(anatomy, Anatomy.random(np.random.default_rng(2)))


def test_a_head_has_every_tract_inside_its_white_matter(anatomy: Anatomy) -> None:
    assert anatomy.labels.any(axis=(0, 1, 2)).all()
    assert anatomy.endings.any(axis=(0, 1, 2)).all()
    assert (anatomy.white[anatomy.labels.any(axis=-1)] > 0.5).all()
    assert not (anatomy.white > 0)[~anatomy.mask].any()


def test_the_first_voxel_axis_points_to_the_left(anatomy: Anatomy) -> None:
    for name in LABELED:
        if name.endswith("left"):
            right = name.replace("left", "right")
            assert mean_index(anatomy, name) > anatomy.mask.shape[0] / 2 > mean_index(anatomy, right)


def test_the_mirror_image_has_left_on_the_left_and_twice_mirrored_is_the_same(anatomy: Anatomy) -> None:
    mirrored = anatomy.mirrored(None)
    assert mean_index(mirrored, "CST_left") > mean_index(mirrored, "CST_right")
    begin, end = (mirrored.endings[..., LABELED_ENDINGS.index(f"MCP_{end}")].nonzero()[0].mean() for end in "be")
    assert begin > end
    assert_equal(mirrored.mirrored(None), anatomy)


@pytest.mark.parametrize("axis", range(3))
def test_the_mirror_image_of_a_slice_is_a_slice_of_the_mirror_image(anatomy: Anatomy, axis: int) -> None:
    index = anatomy.mask.shape[axis] // 3
    place = anatomy.mask.shape[0] - 1 - index if axis == 0 else index
    assert_equal(anatomy.slice(axis, index).mirrored(axis), anatomy.mirrored(None).slice(axis, place))


@pytest.mark.parametrize("shape", [(41, 55, 43), (60, 51, 48), (33, 34, 150)])
def test_a_head_in_the_cube_is_what_tractseg_makes_of_it(shape: tuple[int, int, int]) -> None:
    data_utils = pytest.importorskip("tractseg.libs.data_utils")
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected, _ = data_utils.pad_and_scale_img_to_square_img(values, target_size=CUBE, nr_cpus=1)
    places = cube_index(shape)
    for index in (0, 40, 71, 100):
        at = places[1][index]
        found = in_cube(values[:, at], [places[0], places[2]]) if at >= 0 else np.zeros((CUBE, CUBE))
        np.testing.assert_array_equal(found, expected[:, index])


def mean_index(anatomy: Anatomy, name: str) -> float:
    return float(anatomy.labels[..., LABELED.index(name)].nonzero()[0].mean())


def assert_equal(first: Anatomy, second: Anatomy) -> None:
    for field in fields(Anatomy):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)
