"""The bundles of the synthetic head."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.demo.bundles import MIN_FRACTION, bundles, fibers

GENERATOR = np.random.default_rng(5)
POINTS = (GENERATOR.uniform(-1, 1, (60000, 3)) * [60, 80, 60]).astype(np.float32)
NAMES = [bundle.name for bundle in bundles(POINTS[:1])]


@pytest.mark.parametrize("index", range(len(NAMES) - 1), ids=NAMES[:-1])
def test_the_weight_of_a_bundle_is_constant_along_its_direction(index: int) -> None:
    """A step along the direction does not change the weight; a step across does."""
    here = bundles(POINTS)[index]
    edge = np.flatnonzero((here.weight > 0.2) & (here.weight < 0.8) & (np.abs(POINTS[:, 1] + 8) < 20))
    assert edge.size > 20
    points, direction, step = POINTS[edge], here.direction[edge], 0.05
    across = np.cross(direction, GENERATOR.normal(size=direction.shape))
    across /= np.linalg.norm(across, axis=1, keepdims=True)

    def change(along: NDArray[np.floating]) -> float:
        ahead = bundles((points + step * along).astype(np.float32))[index].weight
        behind = bundles((points - step * along).astype(np.float32))[index].weight
        return float(np.median(np.abs(ahead - behind)))

    # The weight of some bundles decreases slowly towards their ends, hence a tenth and not zero.
    assert change(direction) < 0.1 * change(across)


def test_the_left_hemisphere_is_the_mirror_image_of_the_right() -> None:
    mirrored = bundles(POINTS * np.array([-1, 1, 1], np.float32))
    for bundle, mirror in zip(bundles(POINTS), mirrored, strict=True):
        np.testing.assert_array_equal(bundle.weight, mirror.weight)
        cosines = (bundle.direction * mirror.direction * np.array([-1, 1, 1], np.float32)).sum(axis=1)
        np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-5)


def test_fractions_are_sorted_and_sum_to_one_and_directions_have_unit_length() -> None:
    found = fibers(POINTS)
    np.testing.assert_allclose(found.fractions.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=-1), 1, atol=1e-5)
    assert (np.diff(found.fractions, axis=1) <= 0).all()
    assert not ((found.fractions > 0) & (found.fractions < MIN_FRACTION)).any()
    assert ((found.neurite_density > 0.5) & (found.neurite_density < 0.75)).all()


def test_callosum_corona_and_superior_longitudinal_cross_in_one_voxel() -> None:
    """In the centrum semiovale of both hemispheres, at more than 35 degrees."""
    for x in (-31, 31):
        found = {bundle.name: bundle for bundle in bundles(np.array([[x, -8, 36]], np.float32))}
        three = [found[name] for name in ("corpus callosum", "corona radiata", "superior longitudinal")]
        assert all(bundle.weight[0] > 0.5 for bundle in three)
        directions = np.stack([bundle.direction[0] for bundle in three])
        angles = np.degrees(np.arccos(np.abs(directions @ directions.T)[np.triu_indices(3, 1)]))
        assert angles.min() > 35
