"""A segmentation is a mask with its probabilities, and a mask for whatever takes one."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.imaging import InvalidData, Segmentation, Volume
from kwneuro_assets.imaging.content_hash import data_version

NAMES = ("CST_left", "CST_right")
AFFINE = np.diag([2.0, 2, 3, 1])
PROBABILITIES = np.random.default_rng(0).random((3, 4, 5, 2), np.float32)
MASK = Volume((PROBABILITIES > 0.5).astype(np.uint8), AFFINE, NAMES)


def test_a_segmentation_is_a_mask_with_another_data_version_than_the_mask_alone() -> None:
    both = Segmentation.of(MASK, Volume(PROBABILITIES, AFFINE, NAMES))
    assert isinstance(both, Volume)
    assert both.same_grid(MASK)
    assert both.names == NAMES
    assert both.array is not PROBABILITIES
    assert np.array_equal(both.array, MASK.array)
    assert both.voxel_volume_ml == MASK.voxel_volume_ml
    assert data_version(both) != data_version(MASK)


def test_other_probabilities_give_another_data_version() -> None:
    one, other = (Segmentation.of(MASK, Volume(factor * PROBABILITIES, AFFINE, NAMES)) for factor in (1, 0.5))
    assert data_version(one) != data_version(other)


@pytest.mark.parametrize(
    ("mask", "probabilities", "message"),
    [
        (MASK, Volume(PROBABILITIES, np.diag([2.0, 2, 2, 1]), NAMES), "grid of the probabilities"),
        (MASK, Volume(PROBABILITIES[..., :1], AFFINE, NAMES[:1]), r"probabilities: expected shape \(3, 4, 5, 2\)"),
        (MASK, Volume(PROBABILITIES, AFFINE, NAMES[::-1]), "with the names of the mask"),
        (MASK, Volume(MASK.array, AFFINE, NAMES), "float32"),
        (MASK, Volume(2 * PROBABILITIES, AFFINE, NAMES), "expected values from 0 to 1"),
        (Volume(PROBABILITIES, AFFINE, NAMES), Volume(PROBABILITIES, AFFINE, NAMES), "mask of a segmentation"),
        (Volume(MASK.array[..., 0], AFFINE), Volume(PROBABILITIES[..., 0], AFFINE), "mask of a segmentation"),
    ],
)  # fmt: skip
def test_a_mask_and_probabilities_that_do_not_belong_together_are_refused(
    mask: Volume, probabilities: Volume, message: str
) -> None:
    with pytest.raises(InvalidData, match=message):
        Segmentation.of(mask, probabilities)
