"""TractSeg's network as it is, full size, with stand-in weights that were trained on one person.

In a file of its own: the tests beside it shrink TractSeg's network for as long as their module lasts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.orientation import reoriented
from kwneuro_assets.derivations.tracts import segment_tracts
from kwneuro_assets.imaging import Volume


@pytest.mark.slow
def test_the_stand_in_network_finds_its_persons_bundles_on_the_right_sides(reference: Path) -> None:
    """Its README promises a mean Dice of 0.485 with the 72 reference bundles; 0.45 leaves room for other libraries."""
    import nibabel as nib

    def load(name: str) -> NDArray[Any]:
        image: Any = nib.load(reference / "tractseg" / name)
        return np.asarray(np.nan_to_num(np.asarray(image.dataobj)))

    affine = np.diag([-2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = (90, -126, -72)
    inside = load("nodif_brain_mask.nii.gz")[..., None] > 0
    las = Volume((load("peaks.nii.gz") * inside).astype(np.float32), affine)
    turned = reoriented(las, "RSP")
    found = segment_tracts(turned, weights=reference / "tractseg-standin")
    back = reoriented(found, "LAS").array
    dice = []
    for index, name in enumerate(found.names):
        truth, answer = load(f"bundle_segmentations/{name}.nii.gz") > 0, back[..., index] > 0
        dice.append(2 * (truth & answer).sum() / (truth.sum() + answer.sum()))
    assert np.mean(dice) > 0.45
    for index, name in enumerate(found.names):
        if name.endswith(("_left", "_right")) and found.array[..., index].any():
            x = (np.argwhere(found.array[..., index]) @ turned.affine[0, :3] + turned.affine[0, 3]).mean()
            assert (x < 0) == name.endswith("_left"), name
