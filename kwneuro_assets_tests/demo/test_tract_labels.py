"""The bundles of the synthetic head under TractSeg's names."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.demo.anatomy import HEAD_SCALE, WHITE, Cortex, head
from kwneuro_assets.demo.bundles import bundles
from kwneuro_assets.demo.phantom import SHAPE, centered_affine
from kwneuro_assets.demo.tract_labels import (
    LABELED,
    LABELED_ENDINGS,
    MAIN_AXES,
    ending_labels,
    tract_directions,
    tract_labels,
)

VOXELS = np.indices(SHAPE).reshape(3, -1).T
POINTS = ((VOXELS @ centered_affine()[:3, :3].T + centered_affine()[:3, 3]) / HEAD_SCALE).astype(np.float32)
_HEAD = head(POINTS, Cortex.random(np.random.default_rng(0)))
WHITE_FRACTION = _HEAD.fractions[:, WHITE] * _HEAD.brain
LABELS = dict(zip(LABELED, tract_labels(POINTS, WHITE_FRACTION).T, strict=True))
ENDINGS = dict(zip(LABELED_ENDINGS, ending_labels(POINTS, WHITE_FRACTION).T, strict=True))


def test_the_names_are_those_of_tractseg() -> None:
    names = pytest.importorskip("tractseg.data.dataset_specific_utils").get_bundle_names
    assert set(LABELED) < set(names("All"))
    assert set(LABELED_ENDINGS) < set(names("All_endpoints"))
    assert sorted(LABELED, key=names("All").index) == list(LABELED)


def test_every_tract_and_every_ending_has_voxels_in_the_demo() -> None:
    assert min(label.sum() for label in LABELS.values()) > 40
    assert min(label.sum() for label in ENDINGS.values()) > 5


def test_a_tract_on_the_left_is_the_mirror_image_of_the_one_on_the_right() -> None:
    mirrored = tract_labels(POINTS * np.array([-1, 1, 1], np.float32), WHITE_FRACTION)
    here = tract_labels(POINTS, WHITE_FRACTION)
    for index, name in enumerate(LABELED):
        other = name.replace("left", "#").replace("right", "left").replace("#", "right")
        np.testing.assert_array_equal(mirrored[:, index], here[:, LABELED.index(other)])


def test_left_is_left() -> None:
    for name, label in LABELS.items():
        if name.endswith("left"):
            assert POINTS[label][:, 0].max() < 0


def test_the_parts_of_the_callosum_make_it_up_from_front_to_back() -> None:
    parts = [LABELS[f"CC_{part}"] for part in range(1, 8)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), LABELS["CC"])
    fronts = [POINTS[part][:, 1].mean() for part in parts]
    assert fronts == sorted(fronts, reverse=True)


@pytest.mark.parametrize("name", LABELED)
def test_endings_are_the_two_ends_of_a_tract(name: str) -> None:
    tract, begin, end = LABELS[name], ENDINGS[f"{name}_b"], ENDINGS[f"{name}_e"]
    assert not (begin & end).any()
    assert not ((begin | end) & ~tract).any()
    position = POINTS[:, MAIN_AXES[LABELED.index(name)]]
    between = position[tract & ~begin & ~end]
    assert between.size > 0.2 * np.count_nonzero(tract)
    assert position[begin].max() <= between.min()
    assert position[end].min() >= between.max()


def test_directions_are_those_of_the_bundles_and_point_along_the_main_axis() -> None:
    directions = tract_directions(POINTS)
    found = {bundle.name: bundle for bundle in bundles(POINTS)}
    np.testing.assert_array_equal(directions[:, LABELED.index("CC_4")], found["corpus callosum"].direction)
    np.testing.assert_array_equal(directions[:, LABELED.index("CST_left")], found["corona radiata"].direction)
    for index, name in enumerate(LABELED):
        inside = directions[LABELS[name], index]
        np.testing.assert_allclose(np.linalg.norm(inside, axis=1), 1, atol=1e-5)
        assert inside[:, MAIN_AXES[index]].min() > 0
