"""The assets of tracts: probabilities beside the masks, and heads that are aligned with MNI space."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwneuro_assets.assets.tract_endings import tract_endings
from kwneuro_assets.assets.tract_masks import tract_masks
from kwneuro_assets.assets.tract_orientations import tract_orientations
from kwneuro_assets.derivations.devices import NetworkDevice
from kwneuro_assets.imaging import MapSet, RigidTransform, Segmentation, Volume
from kwneuro_assets.progress import silent
from kwneuro_assets.settings import TractEndingSettings, TractMaskSettings, TractOrientationSettings
from kwneuro_assets_tests.testkit.small_networks import TRACTSEG_CUBE, write_tractseg

# A rotation by 90 degrees about z and a shift: exact in floating point.
TURN = RigidTransform(np.array([[0.0, -1, 0, 16], [1, 0, 0, -8], [0, 0, 1, 4], [0, 0, 0, 1]]))


@dataclass
class Networks:
    """Small random networks in place of the weights of the settings."""

    weights: Path
    device: NetworkDevice = field(default_factory=NetworkDevice)

    def folder(self, name: str) -> Path:
        return self.weights


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("tractseg")
    from tractseg.data import dataset_specific_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_specific_utils, "get_correct_input_dim", lambda config: (TRACTSEG_CUBE, TRACTSEG_CUBE))
        yield Networks(write_tractseg(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def straight() -> MapSet:
    """A ball of random peaks, LAS, 2.5 mm."""
    index = np.indices((14, 16, 12))
    inside = sum(((one - size / 2) / (size / 2 - 2)) ** 2 for one, size in zip(index, (14, 16, 12), strict=True)) < 1
    peaks = np.random.default_rng(1).normal(size=(14, 16, 12, 9)).astype(np.float32) * inside[..., None]
    affine = np.diag([-2.5, 2.5, 2.5, 1])
    affine[:3, 3] = (16, -20, -14)
    return MapSet({"peaks": Volume(peaks, affine)})


@pytest.fixture(scope="module")
def tilted(straight: MapSet) -> MapSet:
    """The same head, lying elsewhere: its voxels moved, its vectors rotated."""
    peaks = straight["peaks"]
    vectors = peaks.array.reshape(*peaks.grid, 3, 3) @ TURN.matrix[:3, :3].T
    return MapSet({"peaks": Volume(vectors.reshape(peaks.shape), TURN.matrix @ peaks.affine)})


def masks_of(peaks: MapSet, networks: Any, alignment: RigidTransform | None = None, **settings: Any) -> Volume:
    found = tract_masks.compute(peaks, TractMaskSettings(**settings), networks, silent, alignment)
    assert isinstance(found, Volume)
    return found


def test_masks_and_endings_of_an_aligned_head_are_those_of_the_straight_head_on_its_own_grid(
    straight: MapSet, tilted: MapSet, networks: Any
) -> None:
    expected = masks_of(straight, networks)
    found = masks_of(tilted, networks, TURN)
    assert 0.05 < expected.array.mean() < 0.95  # otherwise the comparison is not meaningful
    assert np.array_equal(found.array, expected.array)
    assert np.array_equal(found.affine, tilted["peaks"].affine)
    assert found.names == expected.names
    assert not np.array_equal(masks_of(tilted, networks).array, expected.array)
    endings = [
        tract_endings.compute(peaks, TractEndingSettings(), networks, silent, alignment)
        for peaks, alignment in ((straight, None), (tilted, TURN))
    ]
    one, other = (value for value in endings if isinstance(value, Volume))
    assert np.array_equal(one.array, other.array)
    assert other.same_grid(tilted["peaks"])


def test_directions_of_an_aligned_head_are_in_the_frame_of_the_scanner(
    straight: MapSet, tilted: MapSet, networks: Any
) -> None:
    def directions(peaks: MapSet, alignment: RigidTransform | None) -> Volume:
        masks = masks_of(peaks, networks, alignment)
        found = tract_orientations.compute(peaks, masks, TractOrientationSettings(), networks, silent, alignment)
        assert isinstance(found, Volume)
        return found

    expected, found = directions(straight, None), directions(tilted, TURN)
    vectors = expected.array.reshape(*expected.grid, 72, 3) @ TURN.matrix[:3, :3].T.astype(np.float32)
    assert expected.array.any()
    assert np.array_equal(found.array, vectors.reshape(expected.shape))
    assert found.same_grid(tilted["peaks"])
    assert found.names == expected.names


def test_probabilities_come_with_the_same_masks(straight: MapSet, tilted: MapSet, networks: Any) -> None:
    plain = masks_of(straight, networks)
    assert type(plain) is Volume
    both = masks_of(straight, networks, probabilities=True)
    assert isinstance(both, Segmentation)
    assert np.array_equal(both.array, plain.array)
    assert both.names == plain.names
    # TractSeg closes the gaps of the other bundles.
    simple = [index for index, name in enumerate(both.names) if name not in ("CA", "FX_left", "FX_right")]
    assert np.array_equal(both.probabilities.array[..., simple] > 0.5, plain.array[..., simple] > 0)
    aligned = masks_of(tilted, networks, TURN, probabilities=True)
    assert isinstance(aligned, Segmentation)
    assert np.array_equal(aligned.probabilities.array, both.probabilities.array)
    assert aligned.probabilities.same_grid(tilted["peaks"])
