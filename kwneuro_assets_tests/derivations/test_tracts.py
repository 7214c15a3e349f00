"""TractSeg's networks: its own class with random weights.

The tests shrink TractSeg's cube (144 voxels) and its network (64 filters) through its own configuration, as
a full pass takes minutes; everything else of it is as it stands, here and in the oracle, TractSeg's `run_tractseg`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.orientation import reoriented
from kwneuro_assets.derivations.tracts import (
    ENDING_WEIGHTS,
    MASK_WEIGHTS,
    ORIENTATION_WEIGHTS,
    orientation_maps,
    segment_endings,
    segment_tracts,
)
from kwneuro_assets.imaging import InvalidData, Volume

CUBE = 32
FILTERS = 4


@pytest.fixture(scope="module")
def small() -> Any:
    """TractSeg with a small cube and a small network."""
    pytest.importorskip("tractseg")
    from tractseg.data import dataset_specific_utils
    from tractseg.experiments import base

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_specific_utils, "get_correct_input_dim", lambda config: (CUBE, CUBE))
        patch.setattr(base.Config, "UNET_NR_FILT", FILTERS)
        yield


@pytest.fixture(scope="module")
def weights(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of all networks, in TractSeg's file format."""
    import torch
    from tractseg.models.unet_pytorch_deepsup import UNet_Pytorch_DeepSup

    folder = tmp_path_factory.mktemp("weights")
    classes = {MASK_WEIGHTS: 72, ENDING_WEIGHTS: 144} | dict.fromkeys(ORIENTATION_WEIGHTS, 54)
    torch.manual_seed(0)
    for name, count in classes.items():
        network = UNet_Pytorch_DeepSup(9, count, n_filt=FILTERS, dropout=True)
        # Larger than PyTorch's own start, whose answers are all near one half.
        state = {key: value * (3 if key.endswith("weight") else 1) for key, value in network.state_dict().items()}
        torch.save({"unet": state}, folder / name)
    return folder


@pytest.fixture(scope="module")
def peaks() -> Volume:
    """An ellipsoid of random peaks, five in a voxel, L-A-S, 2.5 mm."""
    random = np.random.default_rng(1)
    shape = (20, 26, 18)
    inside = sum(
        ((index - size / 2 + 0.3) / (size / 2 - 2)) ** 2 for index, size in zip(np.indices(shape), shape, strict=True)
    )
    inside = inside < 1
    array = random.normal(size=(*shape, 15)).astype(np.float32) * inside[..., None]
    affine = np.diag([-2.5, 2.5, 2.5, 1])
    affine[:3, 3] = (24, -30, -20)
    return Volume(array, affine)


@pytest.fixture(scope="module")
def masks(peaks: Volume, weights: Path) -> Volume:
    return segment_tracts(peaks, weights=weights)


def tractseg_itself(monkeypatch: pytest.MonkeyPatch, weights: Path, peaks: Volume, kind: str, **more: Any) -> Any:
    import tractseg.libs.system_config as system

    monkeypatch.setattr(system.SystemConfig, "WEIGHTS_DIR", str(weights))
    monkeypatch.setattr(system.SystemConfig, "TRACT_SEG_HOME", str(weights))
    from tractseg.python_api import run_tractseg

    return run_tractseg(peaks.array[..., :9].copy(), output_type=kind, nr_cpus=1, **more)


def test_masks_are_those_of_tractseg_itself(
    peaks: Volume, masks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Voxel by voxel: the same network, the same arithmetic."""
    expected = tractseg_itself(monkeypatch, weights, peaks, "tract_segmentation")
    assert masks.array.dtype == np.uint8
    assert 0.05 < masks.array.mean() < 0.95  # the comparison would mean little for an empty or a full answer
    assert np.array_equal(masks.array, expected)
    assert masks.names[:5] == ("AF_left", "AF_right", "ATR_left", "ATR_right", "CA")
    assert masks.same_grid(peaks)


def test_endings_are_those_of_tractseg_itself(peaks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endings = segment_endings(peaks, weights=weights)
    expected = tractseg_itself(monkeypatch, weights, peaks, "endings_segmentation")
    assert 0.05 < endings.array.mean() < 0.95
    assert np.array_equal(endings.array, expected)
    assert endings.shape[3] == len(endings.names) == 144
    assert endings.names[:4] == ("AF_left_b", "AF_left_e", "AF_right_b", "AF_right_e")


def test_orientation_maps_are_those_of_tractseg_itself(
    peaks: Volume, masks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import nibabel as nib

    maps = orientation_maps(peaks, masks, weights=weights)
    for index, name in enumerate(masks.names):
        nib.save(nib.Nifti1Image(masks.array[..., index], masks.affine), tmp_path / f"{name}.nii.gz")
    expected = tractseg_itself(
        monkeypatch, weights, peaks, "TOM", single_orientation=True, tract_segmentations_path=str(tmp_path)
    )
    assert maps.array.dtype == np.float32
    assert maps.names[:3] == ("AF_left_x", "AF_left_y", "AF_left_z")
    # TractSeg normalises in float64: float32 rounding remains.
    assert np.allclose(maps.array, expected, atol=1e-6)


def test_orientation_maps_are_unit_vectors_inside_the_widened_masks_and_zero_outside(
    peaks: Volume, masks: Volume, weights: Path
) -> None:
    only = np.zeros_like(masks.array)
    only[10, 13, 9, 3] = 1
    lengths = {}
    for dilation in (0, 1, 2):
        maps = orientation_maps(peaks, Volume(only, masks.affine), weights=weights, dilation=dilation)
        vectors = maps.array.reshape(*maps.grid, 72, 3)
        lengths[dilation] = np.linalg.norm(vectors, axis=-1)
    # 6 neighbours: a diamond of 1, 7 and 25 voxels.
    assert [np.count_nonzero(length) for length in lengths.values()] == [1, 7, 25]
    assert np.allclose(lengths[2][lengths[2] > 0], 1, atol=1e-6)
    assert not lengths[2][..., [bundle for bundle in range(72) if bundle != 3]].any()


@pytest.mark.parametrize("axes", ["RAS", "PSR"])
def test_the_same_head_stored_along_other_voxel_axes_gives_the_same_result_in_the_world(
    peaks: Volume, masks: Volume, weights: Path, axes: str
) -> None:
    """Flips and permutations move voxels and change no number, so equality is exact."""
    turned = reoriented(peaks, axes)
    found = segment_tracts(turned, weights=weights)
    assert found.same_grid(turned)
    assert np.array_equal(reoriented(found, "LAS").array, masks.array)
    maps = orientation_maps(turned, found, weights=weights)
    assert np.array_equal(reoriented(maps, "LAS").array, orientation_maps(peaks, masks, weights=weights).array)


def test_a_network_that_answers_with_its_input_finds_it_in_place_on_a_tilted_grid(
    peaks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the network replaced by a threshold on the first component, the input's own pattern comes back.

    Twice nearest neighbour, to the world's axes and back, and TractSeg's own scaling to its cube and back move a
    border by a voxel here and there: of a blob of 11 voxels across, a Dice of 0.85 must remain. Were the tilt of
    20 degrees ignored on one of the two ways, it would be 0.69.
    """
    from tractseg.models.base_model import BaseModel

    def first_component(self: Any, batch: Any) -> NDArray[np.float32]:
        # Standardised by TractSeg: above the mean is what was one, below it what was zero.
        positive = (batch.numpy()[:, 0] > 0).astype(np.float32)
        return np.repeat(positive[..., None], self.Config.NR_OF_CLASSES, axis=-1)

    monkeypatch.setattr(BaseModel, "predict", first_component)
    cosine, sine = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = peaks.affine.copy()
    affine[:3, :3] = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ affine[:3, :3]
    blob = sum((index - centre) ** 2 for index, centre in zip(np.indices(peaks.grid), (10, 19, 9), strict=True)) < 30
    array = np.zeros((*peaks.grid, 9), np.float32)
    array[..., 0] = blob
    array[..., 8] = 0.01  # so that the bounding box is that of the grid
    tilted = Volume(array, affine)
    found = segment_endings(tilted, weights=weights)
    assert found.same_grid(tilted)
    answer = found.array[..., 7] > 0
    assert 2 * (blob & answer).sum() / (blob.sum() + answer.sum()) > 0.85


def test_only_the_three_strongest_peaks_count(peaks: Volume, masks: Volume, weights: Path) -> None:
    assert np.array_equal(
        segment_tracts(Volume(peaks.array[..., :9], peaks.affine), weights=weights).array, masks.array
    )


def test_a_lower_threshold_finds_more_and_never_less(peaks: Volume, masks: Volume, weights: Path) -> None:
    low = segment_tracts(peaks, weights=weights, threshold=0.4).array
    high = segment_tracts(peaks, weights=weights, threshold=0.6).array
    assert low.sum() > masks.array.sum() > high.sum()
    assert (low >= masks.array).all()
    assert (masks.array >= high).all()


def test_the_number_of_threads_changes_no_voxel(
    peaks: Volume, masks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = []
    for threads in ("1", "2"):
        monkeypatch.setenv("KWNEURO_THREADS", threads)
        assert np.array_equal(segment_tracts(peaks, weights=weights).array, masks.array)
        maps.append(orientation_maps(peaks, masks, weights=weights).array)
    assert np.array_equal(maps[0], maps[1])


def test_progress_rises_to_one_and_is_all_that_is_heard(
    peaks: Volume, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tools are kept quiet, not whoever shows the progress."""
    shares: list[float] = []

    def show(fraction: float) -> None:
        shares.append(fraction)
        print(fraction)

    segment_tracts(peaks, weights=weights, progress=show)
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert len(shares) > CUBE
    assert capsys.readouterr() == ("".join(f"{share}\n" for share in shares), "")


def test_an_image_without_any_peak_has_no_bundle(peaks: Volume, weights: Path) -> None:
    nothing = Volume(np.zeros_like(peaks.array), peaks.affine)
    masks = segment_tracts(nothing, weights=weights)
    assert masks.shape == (*peaks.grid, 72)
    assert masks.array.dtype == np.uint8
    assert not masks.array.any()
    assert not segment_endings(nothing, weights=weights).array.any()
    assert not orientation_maps(nothing, masks, weights=weights).array.any()


def test_wrong_input_is_refused(peaks: Volume, masks: Volume, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="peaks"):
        segment_tracts(Volume(peaks.array[..., :6], peaks.affine), weights=weights)
    with pytest.raises(InvalidData, match="bundle masks"):
        orientation_maps(peaks, Volume(masks.array[..., :71], masks.affine), weights=weights)
    with pytest.raises(InvalidData, match="grid"):
        orientation_maps(peaks, Volume(masks.array[1:], masks.affine), weights=weights)
    with pytest.raises(FileNotFoundError, match=MASK_WEIGHTS):
        segment_tracts(peaks, weights=tmp_path)
    (tmp_path / MASK_WEIGHTS).write_bytes((weights / ENDING_WEIGHTS).read_bytes())
    with pytest.raises(InvalidData, match="72 classes"):
        segment_tracts(peaks, weights=tmp_path)
    (tmp_path / MASK_WEIGHTS).write_bytes(b"no checkpoint")
    with pytest.raises(InvalidData, match="network weights"):
        segment_tracts(peaks, weights=tmp_path)
