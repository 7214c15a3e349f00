"""TractSeg's networks with random weights, against TractSeg's `run_tractseg`.

A full forward pass takes minutes, so the tests reduce TractSeg's cube (144 voxels) and network (64 filters) in its
configuration. Everything else is unchanged, here and in the reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwneuro_assets.derivations.devices import NetworkDevice
from kwneuro_assets.derivations.network_files import load_weights
from kwneuro_assets.derivations.orientation import orientation, reoriented
from kwneuro_assets.derivations.tracts import (
    ENDING_WEIGHTS,
    MASK_WEIGHTS,
    orientation_maps,
    segment_endings,
    segment_tracts,
)
from kwneuro_assets.derivations.tractseg_network import TractNetwork
from kwneuro_assets.imaging import InvalidData, Segmentation, Volume
from kwneuro_assets_tests.derivations.test_orientation import ALL_AXES
from kwneuro_assets_tests.testkit.small_networks import (
    TRACTSEG_CUBE,
    TRACTSEG_FILTERS,
    run_tractseg_by_hand,
    write_tractseg,
)


@pytest.fixture(scope="module")
def small() -> Any:
    """TractSeg with a small cube and a small network."""
    pytest.importorskip("tractseg")
    from tractseg.data import dataset_specific_utils
    from tractseg.experiments import base

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_specific_utils, "get_correct_input_dim", lambda config: (TRACTSEG_CUBE, TRACTSEG_CUBE))
        patch.setattr(base.Config, "UNET_NR_FILT", TRACTSEG_FILTERS)
        yield


@pytest.fixture(scope="module")
def weights(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of all networks, in TractSeg's file format."""
    return write_tractseg(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def peaks() -> Volume:
    """An ellipsoid of random peaks, five per voxel, LAS, 2.5 mm."""
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


def segmentation(peaks: Volume, weights: Path, device: NetworkDevice | None = None) -> Segmentation:
    """The masks with their probabilities."""
    found = segment_tracts(peaks, weights=weights, with_probabilities=True, device=device)
    assert isinstance(found, Segmentation)
    return found


def test_masks_are_those_of_run_tractseg(
    peaks: Volume, masks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit-identical: the same network and the same arithmetic."""
    expected = run_tractseg_by_hand(monkeypatch, weights, peaks, "tract_segmentation")
    assert masks.array.dtype == np.uint8
    assert 0.05 < masks.array.mean() < 0.95  # otherwise the comparison is not meaningful
    assert np.array_equal(masks.array, expected)
    assert masks.names[:5] == ("AF_left", "AF_right", "ATR_left", "ATR_right", "CA")
    assert masks.same_grid(peaks)


def test_endings_are_those_of_run_tractseg(peaks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endings = segment_endings(peaks, weights=weights)
    expected = run_tractseg_by_hand(monkeypatch, weights, peaks, "endings_segmentation")
    assert 0.05 < endings.array.mean() < 0.95
    assert np.array_equal(endings.array, expected)
    assert endings.shape[3] == len(endings.names) == 144
    assert endings.names[:4] == ("AF_left_b", "AF_left_e", "AF_right_b", "AF_right_e")


def test_orientation_maps_are_those_of_run_tractseg(
    peaks: Volume, masks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import nibabel as nib

    maps = orientation_maps(peaks, masks, weights=weights)
    for index, name in enumerate(masks.names):
        nib.save(nib.Nifti1Image(masks.array[..., index], masks.affine), tmp_path / f"{name}.nii.gz")
    expected = run_tractseg_by_hand(
        monkeypatch, weights, peaks, "TOM", single_orientation=True, tract_segmentations_path=str(tmp_path)
    )
    assert maps.array.dtype == np.float32
    assert maps.names[:3] == ("AF_left_x", "AF_left_y", "AF_left_z")
    assert np.array_equal(maps.array, expected.astype(np.float32))


def test_orientation_maps_are_unit_vectors_in_the_dilated_masks_and_zero_outside(
    peaks: Volume, masks: Volume, weights: Path
) -> None:
    only = np.zeros_like(masks.array)
    only[10, 13, 9, 3] = 1
    lengths = {}
    for dilation in (0, 1, 2):
        maps = orientation_maps(peaks, Volume(only, masks.affine), weights=weights, dilation=dilation)
        vectors = maps.array.reshape(*maps.grid, 72, 3)
        lengths[dilation] = np.linalg.norm(vectors, axis=-1)
    # 6 neighbors: a diamond of 1, 7 and 25 voxels.
    assert [np.count_nonzero(length) for length in lengths.values()] == [1, 7, 25]
    assert np.allclose(lengths[2][lengths[2] > 0], 1, atol=1e-6)
    assert not lengths[2][..., [bundle for bundle in range(72) if bundle != 3]].any()


def test_masks_are_the_same_in_world_space_for_all_48_voxel_orientations(
    peaks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flips and permutations do not change values, so equality is exact."""
    from tractseg.data import dataset_specific_utils

    monkeypatch.setattr(dataset_specific_utils, "get_correct_input_dim", lambda config: (16, 16))  # 48 runs
    expected = segment_tracts(peaks, weights=weights)
    assert 0.05 < expected.array.mean() < 0.95
    assert len({orientation(reoriented(peaks, axes)) for axes in ALL_AXES}) == 48
    for axes in ALL_AXES:
        flipped = reoriented(peaks, axes)
        found = segment_tracts(flipped, weights=weights)
        assert found.same_grid(flipped)
        assert np.array_equal(reoriented(found, "LAS").array, expected.array), axes


def test_orientation_maps_do_not_depend_on_the_voxel_orientation(peaks: Volume, masks: Volume, weights: Path) -> None:
    """Vectors are in the world frame and keep their components."""
    maps = orientation_maps(peaks, masks, weights=weights)
    flipped = orientation_maps(reoriented(peaks, "PSR"), reoriented(masks, "PSR"), weights=weights)
    assert np.array_equal(reoriented(flipped, "LAS").array, maps.array)


def test_results_on_a_tilted_grid_are_in_place(peaks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a threshold on the first component in place of the network, the output is the pattern of the input.

    Nearest-neighbor resampling to the world axes and back, and TractSeg's scaling to its cube and back, move borders by
    up to a voxel: the Dice coefficient of a blob of 11 voxels must be at least 0.85. Without the tilt of 20 degrees in
    one of the directions, it would be 0.69.
    """

    def first_component(self: TractNetwork, module: Any, slices: Any) -> Any:
        # TractSeg standardizes its input: ones are above the mean, zeros below.
        return (slices[:, :1] > 0).float().repeat(1, self.classes, 1, 1)

    monkeypatch.setattr(TractNetwork, "outputs", first_component)
    cosine, sine = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = peaks.affine.copy()
    affine[:3, :3] = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ affine[:3, :3]
    blob = sum((index - center) ** 2 for index, center in zip(np.indices(peaks.grid), (10, 19, 9), strict=True)) < 30
    array = np.zeros((*peaks.grid, 9), np.float32)
    array[..., 0] = blob
    array[..., 8] = 0.01  # so that the bounding box is that of the grid
    tilted = Volume(array, affine)
    found = segment_endings(tilted, weights=weights)
    assert found.same_grid(tilted)
    output = found.array[..., 7] > 0
    assert 2 * (blob & output).sum() / (blob.sum() + output.sum()) > 0.85


def test_probabilities_are_those_of_run_tractseg_and_the_masks_do_not_change(
    peaks: Volume, masks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_tractseg_by_hand(monkeypatch, weights, peaks, "tract_segmentation", get_probs=True)
    found = segmentation(peaks, weights)
    probabilities = found.probabilities
    assert probabilities.array.dtype == np.float32
    assert np.array_equal(probabilities.array, expected)
    assert np.array_equal(found.array, masks.array)
    assert probabilities.names == masks.names
    assert probabilities.same_grid(peaks)


def test_a_bundle_may_have_its_own_threshold(peaks: Volume, masks: Volume, weights: Path) -> None:
    low = segment_tracts(peaks, weights=weights, threshold=0.4)
    found = segment_tracts(peaks, weights=weights, bundle_thresholds={"CA": 0.4, "UF_left": 0.4})
    for index, name in enumerate(masks.names):
        expected = low if name in ("CA", "UF_left") else masks
        assert np.array_equal(found.array[..., index], expected.array[..., index]), name
    assert found.array[..., masks.names.index("UF_left")].sum() > masks.array[..., masks.names.index("UF_left")].sum()
    with pytest.raises(InvalidData, match=r"bundle thresholds: expected .*AF_left.*, found CST"):
        segment_tracts(peaks, weights=weights, bundle_thresholds={"CST": 0.4})


def test_equal_slices_are_computed_once(peaks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The brain has 16 x 22 x 14 voxels, scaled to 32 slices in each direction."""
    computed: list[Any] = []
    outputs = TractNetwork.outputs

    def counted(self: TractNetwork, module: Any, slices: Any) -> Any:
        computed.append(slices.clone())
        return outputs(self, module, slices)

    monkeypatch.setattr(TractNetwork, "outputs", counted)
    segment_tracts(peaks, weights=weights)
    places = np.argwhere(peaks.array.any(axis=3))
    voxels = [np.unique(places[:, axis]).size for axis in range(3)]
    # Besides slices of the brain, one empty slice in each direction in which the brain is padded.
    assert len(computed) == sum(voxels) + 2 < 3 * TRACTSEG_CUBE


def test_a_network_is_loaded_once_for_consecutive_subjects(
    peaks: Volume, masks: Volume, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []

    def counted(path: Path, expected: str) -> Any:
        loads.append(path)
        return load_weights(path, expected)

    monkeypatch.setattr("kwneuro_assets.derivations.tractseg_network.load_weights", counted)
    file = tmp_path / MASK_WEIGHTS
    file.write_bytes((weights / MASK_WEIGHTS).read_bytes())
    for _ in range(2):
        assert np.array_equal(segment_tracts(peaks, weights=tmp_path).array, masks.array)
    assert loads == [file]
    file.write_bytes((write_tractseg(tmp_path, seed=1) / MASK_WEIGHTS).read_bytes())
    assert not np.array_equal(segment_tracts(peaks, weights=tmp_path).array, masks.array)
    assert loads == [file, file], "other weights must be loaded"


def test_weights_decide_the_width_of_a_network_and_may_have_half_precision(
    peaks: Volume, weights: Path, tmp_path: Path
) -> None:
    import torch

    half, full = tmp_path / "half", tmp_path / "full"
    for folder in (half, full):
        folder.mkdir()
    state = torch.load(write_tractseg(half, filters=TRACTSEG_FILTERS + 2) / MASK_WEIGHTS, weights_only=True)["unet"]
    state = {name: values.half() for name, values in state.items()}
    torch.save({"unet": state}, half / MASK_WEIGHTS)
    torch.save({"unet": {name: values.float() for name, values in state.items()}}, full / MASK_WEIGHTS)
    masks = segment_tracts(peaks, weights=half)
    assert 0.05 < masks.array.mean() < 0.95
    assert np.array_equal(masks.array, segment_tracts(peaks, weights=full).array)


def test_only_the_three_strongest_peaks_are_used(peaks: Volume, masks: Volume, weights: Path) -> None:
    assert np.array_equal(
        segment_tracts(Volume(peaks.array[..., :9], peaks.affine), weights=weights).array, masks.array
    )


def test_a_lower_threshold_gives_larger_masks(peaks: Volume, masks: Volume, weights: Path) -> None:
    low = segment_tracts(peaks, weights=weights, threshold=0.4).array
    high = segment_tracts(peaks, weights=weights, threshold=0.6).array
    assert low.sum() > masks.array.sum() > high.sum()
    assert (low >= masks.array).all()
    assert (masks.array >= high).all()


def test_results_do_not_depend_on_the_number_of_threads(
    peaks: Volume, masks: Volume, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = []
    for threads in ("1", "2"):
        monkeypatch.setenv("KWNEURO_THREADS", threads)
        assert np.array_equal(segment_tracts(peaks, weights=weights).array, masks.array)
        maps.append(orientation_maps(peaks, masks, weights=weights).array)
    assert np.array_equal(maps[0], maps[1])


def test_slices_in_groups_as_on_a_gpu_give_the_same_results_up_to_rounding(
    peaks: Volume, masks: Volume, weights: Path
) -> None:
    """PyTorch has a second name for the CPU, so the code for a GPU runs without one."""
    grouped = NetworkDevice("cpu:0")
    assert grouped.on_gpu
    found = segmentation(peaks, weights, grouped)
    expected = segmentation(peaks, weights)
    assert np.allclose(found.probabilities.array, expected.probabilities.array, atol=1e-5)
    # The bundles whose gaps are closed may change in more voxels than the few at their threshold.
    assert (found.array != masks.array).mean() < 1e-3
    maps = orientation_maps(peaks, masks, weights=weights, device=grouped)
    assert np.allclose(maps.array, orientation_maps(peaks, masks, weights=weights).array, atol=1e-3)


def test_a_gpu_gives_the_masks_of_the_cpu_and_the_same_bits_each_time(
    peaks: Volume, masks: Volume, weights: Path
) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")
    expected = segmentation(peaks, weights)
    found, again = (segmentation(peaks, weights, NetworkDevice("cuda:0", fallback=False)) for _ in range(2))
    assert np.allclose(found.probabilities.array, expected.probabilities.array, atol=1e-4)
    assert (found.array != masks.array).mean() < 1e-3
    assert np.array_equal(found.array, again.array)
    assert np.array_equal(found.probabilities.array, again.probabilities.array)
    assert segment_endings(peaks, weights=weights, device=NetworkDevice("cuda:0", fallback=False)).array.any()


def test_progress_increases_to_one_and_nothing_else_is_printed(
    peaks: Volume, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TractSeg prints nothing, but the progress callback may print."""
    fractions: list[float] = []

    def show(fraction: float) -> None:
        fractions.append(fraction)
        print(fraction)

    segment_tracts(peaks, weights=weights, progress=show)
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert len(fractions) > TRACTSEG_CUBE
    assert capsys.readouterr() == ("".join(f"{fraction}\n" for fraction in fractions), "")


def test_an_image_without_peaks_has_empty_masks(peaks: Volume, weights: Path) -> None:
    nothing = Volume(np.zeros_like(peaks.array), peaks.affine)
    masks = segment_tracts(nothing, weights=weights)
    assert masks.shape == (*peaks.grid, 72)
    assert masks.array.dtype == np.uint8
    assert not masks.array.any()
    assert not segment_endings(nothing, weights=weights).array.any()
    assert not orientation_maps(nothing, masks, weights=weights).array.any()


def test_invalid_input_raises_an_error(peaks: Volume, masks: Volume, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="peaks"):
        segment_tracts(Volume(peaks.array[..., :6], peaks.affine), weights=weights)
    with pytest.raises(InvalidData, match="tract masks"):
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


def test_weights_with_code_raise_an_error_and_do_not_run_it(peaks: Volume, weights: Path, tmp_path: Path) -> None:
    import torch

    marker, path = tmp_path / "marker", tmp_path / MASK_WEIGHTS

    class Call:
        def __reduce__(self) -> Any:
            return open, (str(marker), "w")

    torch.save({**torch.load(weights / MASK_WEIGHTS, weights_only=True), "epoch": Call()}, path)
    with pytest.raises(InvalidData, match=r"network weights: expected TractSeg's, .* found a file that calls \w+.open"):
        segment_tracts(peaks, weights=tmp_path)
    assert not marker.exists()
