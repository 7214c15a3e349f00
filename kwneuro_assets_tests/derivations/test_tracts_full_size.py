"""TractSeg's network at full width, with weights trained on one subject, and brains of real size.

A separate module, because test_tracts reduces the size of TractSeg's cube and networks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.orientation import reoriented
from kwneuro_assets.derivations.tracts import orientation_maps, segment_endings, segment_tracts
from kwneuro_assets.imaging import Volume
from kwneuro_assets_tests.testkit.small_networks import run_tractseg_by_hand, write_tractseg

CUBE = 96  # TractSeg's own for images of 2 mm; with its cube of 144, `run_tractseg` takes minutes and 10 GB
FILTERS = 4


@pytest.fixture(scope="module")
def subject(reference: Path) -> Volume:
    """The peaks of TractSeg's example subject, LAS, 2.5 mm; zero outside its brain."""
    affine = np.diag([-2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = (90, -126, -72)
    folder = reference / "tractseg"
    inside = load(folder / "nodif_brain_mask.nii.gz")[..., None] > 0
    return Volume((load(folder / "peaks.nii.gz") * inside).astype(np.float32), affine)


def load(file: Path) -> NDArray[Any]:
    import nibabel as nib

    image: Any = nib.load(file)
    return np.asarray(np.nan_to_num(np.asarray(image.dataobj)))


@pytest.fixture
def smaller_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    from tractseg.data import dataset_specific_utils

    monkeypatch.setattr(dataset_specific_utils, "get_correct_input_dim", lambda config: (CUBE, CUBE))


@pytest.mark.slow
def test_the_masks_of_a_real_brain_are_those_of_run_tractseg(
    reference: Path, subject: Volume, smaller_cube: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = reference / "tractseg-standin"
    masks = segment_tracts(subject, weights=weights)
    by_hand = run_tractseg_by_hand(monkeypatch, weights, subject, "tract_segmentation", filters=64)
    assert np.array_equal(masks.array, by_hand)
    assert masks.array.any(axis=(0, 1, 2)).sum() > 50  # otherwise the comparison is not meaningful


@pytest.mark.slow
def test_the_endings_and_orientation_maps_of_a_real_brain_are_those_of_run_tractseg(
    reference: Path, subject: Volume, smaller_cube: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random weights: there are no others. For orientation maps, TractSeg's command uses one direction."""
    weights = write_tractseg(tmp_path, filters=FILTERS)
    endings = segment_endings(subject, weights=weights)
    by_hand = run_tractseg_by_hand(monkeypatch, weights, subject, "endings_segmentation", filters=FILTERS)
    assert np.array_equal(endings.array, by_hand)
    assert 0.01 < endings.array.mean() < 0.99
    folder = reference / "tractseg" / "bundle_segmentations"
    bundles = [name[:-2] for name in endings.names if name.endswith("_b")]
    names = segment_tracts(Volume(np.zeros_like(subject.array), subject.affine), weights=weights).names
    assert set(names) == set(bundles)
    masks = np.stack([load(folder / f"{name}.nii.gz") > 0 for name in names], axis=-1)
    maps = orientation_maps(subject, Volume(masks, subject.affine), weights=weights)
    more = {"single_orientation": True, "tract_segmentations_path": str(folder)}
    expected = run_tractseg_by_hand(monkeypatch, weights, subject, "TOM", filters=FILTERS, **more)
    assert np.array_equal(maps.array, expected.astype(np.float32))
    assert maps.array.any()


@pytest.mark.slow
def test_the_endings_of_a_fine_image_need_less_than_four_gigabytes(tmp_path: Path) -> None:
    """The step with the most classes, in TractSeg's cube of 144, for the grid of its training images (1.25 mm).

    By the peak that Linux reports: `getrusage` starts with that of the process which started this one.
    """
    pytest.importorskip("tractseg")
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc")
    code = f"""
import re
import numpy as np
from pathlib import Path
from kwneuro_assets.derivations.tracts import segment_endings
from kwneuro_assets.imaging import Volume
shape = (145, 174, 145)
radius = sum(((i - n / 2) / (0.42 * n)) ** 2 for i, n in zip(np.ogrid[:145, :174, :145], shape))
peaks = np.random.default_rng(0).normal(size=(*shape, 9)).astype(np.float32) * (radius < 1)[..., None]
endings = segment_endings(Volume(peaks, np.diag([-1.25, 1.25, 1.25, 1])), weights=Path({str(tmp_path)!r}))
assert endings.array.any()
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e6)
"""
    write_tractseg(tmp_path, filters=FILTERS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 4.0


@pytest.mark.slow
def test_the_network_finds_the_bundles_of_its_subject_on_the_correct_side(reference: Path, subject: Volume) -> None:
    """A mean Dice coefficient of 0.485 with the 72 reference bundles was measured; 0.45 allows for other libraries."""
    rotated = reoriented(subject, "RSP")
    found = segment_tracts(rotated, weights=reference / "tractseg-standin")
    back = reoriented(found, "LAS").array
    dice = []
    for index, name in enumerate(found.names):
        truth = load(reference / "tractseg" / "bundle_segmentations" / f"{name}.nii.gz") > 0
        output = back[..., index] > 0
        dice.append(2 * (truth & output).sum() / (truth.sum() + output.sum()))
    assert np.mean(dice) > 0.45
    for index, name in enumerate(found.names):
        if name.endswith(("_left", "_right")) and found.array[..., index].any():
            x = (np.argwhere(found.array[..., index]) @ rotated.affine[0, :3] + rotated.affine[0, 3]).mean()
            assert (x < 0) == name.endswith("_left"), name
