from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.demo.bundles import LEAST_SHARE, bundles, fibres

GENERATOR = np.random.default_rng(5)
POINTS = (GENERATOR.uniform(-1, 1, (60000, 3)) * [60, 80, 60]).astype(np.float32)
NAMES = [bundle.name for bundle in bundles(POINTS[:1])]


@pytest.mark.parametrize("index", range(len(NAMES) - 1), ids=NAMES[:-1])
def test_a_bundle_runs_along_its_own_directions(index: int) -> None:
    """A step along the direction keeps the point as deep in the bundle as it was; a step across does not."""
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

    # Some bundles also fade slowly towards their ends, hence a tenth and not zero.
    assert change(direction) < 0.1 * change(across)


def test_bundles_are_the_same_in_both_hemispheres_in_a_mirror() -> None:
    mirrored = bundles(POINTS * np.array([-1, 1, 1], np.float32))
    for bundle, mirror in zip(bundles(POINTS), mirrored, strict=True):
        np.testing.assert_array_equal(bundle.weight, mirror.weight)
        cosines = (bundle.direction * mirror.direction * np.array([-1, 1, 1], np.float32)).sum(axis=1)
        np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-5)


def test_shares_are_sorted_and_sum_to_one_and_directions_are_of_unit_length() -> None:
    found = fibres(POINTS)
    np.testing.assert_allclose(found.shares.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=-1), 1, atol=1e-5)
    assert (np.diff(found.shares, axis=1) <= 0).all()
    assert not ((found.shares > 0) & (found.shares < LEAST_SHARE)).any()
    assert ((found.neurite_density > 0.5) & (found.neurite_density < 0.75)).all()


def test_callosum_corona_and_superior_longitudinal_cross_at_the_same_place() -> None:
    """In the centrum semiovale of either side, at right angles within some tens of degrees."""
    for x in (-31, 31):
        found = {bundle.name: bundle for bundle in bundles(np.array([[x, -8, 36]], np.float32))}
        three = [found[name] for name in ("corpus callosum", "corona radiata", "superior longitudinal")]
        assert all(bundle.weight[0] > 0.5 for bundle in three)
        directions = np.stack([bundle.direction[0] for bundle in three])
        angles = np.degrees(np.arccos(np.abs(directions @ directions.T)[np.triu_indices(3, 1)]))
        assert angles.min() > 35
