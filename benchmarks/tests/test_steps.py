"""The benchmark of the steps, on a small synthetic head."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from benchmarks.comparison import accuracy, compared
from benchmarks.cutting import SYNTHETIC, cut
from benchmarks.dataset import Dataset
from benchmarks.differences import angles
from benchmarks.directions import score
from benchmarks.growth import part_of_volumes
from benchmarks.peers import DIPY_DENOISING, KWNEURO, NOT_INSTALLED, PEERS, Setting
from benchmarks.process import measure
from benchmarks.steps import load_brain, load_dwi, warm_up
from kwneuro_assets.demo.phantom import centered_affine, write_phantom
from kwneuro_assets.imaging.gradients import format_bvals, format_bvecs
from kwneuro_assets_tests.testkit.small_dataset import load

SHAPE = (16, 20, 18)
SLICES, VOXELS = 5, 60
SUBJECT = SYNTHETIC


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head with 10 mm voxels and its brain mask; the third voxel axis points left, the second up."""
    folder = tmp_path_factory.mktemp("benchmarks") / "head"
    to_the_left = np.array([[0.0, 0, -1], [1, 0, 0], [0, 1, 0]])
    write_phantom(folder, SUBJECT, affine=centered_affine(SHAPE, to_the_left, 10.0), shape=SHAPE)
    mask = folder / SUBJECT / "dwi" / f"{SUBJECT}_desc-brain_mask.nii.gz"
    mask.write_bytes((folder / "truth" / SUBJECT / "mask.nii.gz").read_bytes())
    return folder


@pytest.fixture(scope="module")
def small(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return cut(source, SUBJECT, SLICES, VOXELS, tmp_path_factory.mktemp("cut") / "source")


@pytest.fixture
def setting(small: Dataset, tmp_path: Path) -> Setting:
    return Setting(small, 1, tmp_path, None)


def test_slices_are_axial_and_have_their_position_in_the_world_frame(source: Path, small: Dataset) -> None:
    full = load(source / SUBJECT / "dwi" / f"{SUBJECT}_dwi.nii.gz")
    slab = load(small.image)
    assert slab.shape[:3] == (SHAPE[0], SLICES, SHAPE[2])  # its second voxel axis points up
    start = np.linalg.inv(full.affine) @ slab.affine[:, 3]
    first = round(start[1])
    np.testing.assert_allclose(start, [0, first, 0, 1], atol=1e-4)
    expected = np.asarray(full.dataobj)[:, first : first + SLICES]
    np.testing.assert_array_equal(np.asarray(slab.dataobj), expected)
    assert load(small.truth).shape == slab.shape


def test_the_chosen_voxels_are_the_nearest_to_the_middle(small: Dataset) -> None:
    brain = np.asarray(load(small.brain).dataobj) > 0
    chosen = np.asarray(load(small.mask).dataobj) > 0
    assert np.count_nonzero(chosen) == VOXELS
    assert brain[chosen].all()
    distance = np.linalg.norm(np.argwhere(brain) - np.argwhere(brain).mean(axis=0), axis=1)
    assert distance[chosen[brain]].max() <= distance[~chosen[brain]].min()


def test_a_dataset_that_is_not_reduced_links_the_image(source: Path, tmp_path: Path) -> None:
    entire = cut(source, SUBJECT, None, None, tmp_path / "source")
    assert entire.image.resolve() == (source / SUBJECT / "dwi" / f"{SUBJECT}_dwi.nii.gz").resolve()
    assert load_dwi(entire).array.shape[:3] == SHAPE


@pytest.mark.slow
def test_the_tensor_agrees_with_its_peers(setting: Setting) -> None:
    row = compared("tensor", setting, lambda message: None)
    dipy, mrtrix = row["peers"]
    assert row["seconds"] > 0
    assert dipy["ratio"] == pytest.approx(dipy["seconds"] / row["seconds"], rel=0.01, abs=5e-4)
    fa, md = dipy["differences"]
    assert fa["largest"] < 1e-5  # float32
    assert md["largest"] < 1e-8
    if shutil.which("dwi2tensor"):
        # MRtrix3 weights by the signals of a weighted fit.
        assert mrtrix["differences"][0]["mean"] < 0.01
        assert mrtrix["differences"][1]["mean"] < 1e-5
    else:
        assert mrtrix["problem"] == NOT_INSTALLED


def test_a_peer_that_is_not_installed_is_reported(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.shutil.which", lambda name: None)
    monkeypatch.setitem(PEERS, "response", (PEERS["tensor"][1], KWNEURO))
    row = compared("response", setting, lambda message: None)
    assert [peer["problem"] for peer in row["peers"]] == [NOT_INSTALLED, NOT_INSTALLED]


def test_a_step_that_is_not_possible_reports_the_reason(setting: Setting) -> None:
    too_small = cut_to(setting, 20)
    assert "at least 50 voxels" in compared("response", too_small, lambda message: None)["problem"]


def test_multi_tissue_deconvolution_of_one_shell_is_a_problem_for_all_methods(setting: Setting) -> None:
    row = compared("multi-tissue", one_shell(setting), lambda message: None)
    assert "at least two shells besides b=0; found 1" in row["problem"]
    installed = shutil.which("dwi2fod")
    assert [peer["problem"] for peer in row["peers"]] == [row["problem"] if installed else NOT_INSTALLED]


def test_the_warm_up_of_one_shell_has_no_multi_tissue_deconvolution(setting: Setting) -> None:
    first_calls = warm_up(one_shell(setting).dataset)
    assert "csd" in first_calls
    assert "multi-tissue" not in first_calls


def test_the_problem_of_a_failed_process_is_its_last_error_line(small: Dataset) -> None:
    found = measure("benchmarks.steps", ["unknown", small.folder, small.subject, "."], 1)
    assert found.problem == "failed with exit code 1: KeyError: 'unknown'"


@pytest.mark.slow
def test_denoising_equals_the_exact_fit_and_reduces_the_error(source: Path, tmp_path: Path) -> None:
    full = Setting(cut(source, SUBJECT, None, VOXELS, tmp_path / "source"), 1, tmp_path, None)
    dipy = DIPY_DENOISING.measured("denoise", full)
    assert not dipy.problem
    # The b=0 volumes are distributed over the DWI; DIPY's result has them unchanged at their positions.
    signals = np.load(full.out("denoise", DIPY_DENOISING.name) / "signal.npy")
    noisy, brain = load_dwi(full.dataset), load_brain(full.dataset)
    b0 = np.flatnonzero(noisy.b0_mask)
    assert b0.max() > b0.size
    np.testing.assert_array_equal(signals[:, b0], noisy.signals(brain, b0))
    result = accuracy(full)
    if "problem" in result:
        assert "ratio" in result["problem"]
        pytest.skip(result["problem"])
    assert result["oracle"]["largest"] < 1e-5  # the result is float32; both fits are float64
    assert result["rms_error"]["ours"] < result["rms_error"]["noisy"]
    assert set(result["bias"]["ours"]) == {"md", "fa", "ndi"}


def test_angles_between_axes_ignore_signs_and_use_the_nearest_peak() -> None:
    first = np.array([[0, 0, 2.0, 9, 9, 9], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    others = np.array([[1, 0, 0, 0, 0, -1.0], [np.nan, np.nan, np.nan, 1, 1, 0], [1, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(angles(first, others), [0, 45], atol=1e-6)


def test_directions_are_scored_by_angle_and_number_of_peaks() -> None:
    """Four voxels of white matter and one outside; a peak rotated by 10 degrees, a small and a false peak."""
    rotation = np.radians(10)
    x, y, z, none = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    rotated = np.cos(rotation) * x + np.sin(rotation) * y
    fibers = np.array([[x, none, none], [0.6 * x, 0.4 * z, none], [x, 0.3 * z, none], [x, none, none], [x, none, none]])
    peaks = np.array(
        [
            [-2 * x, 0.1 * y, none],  # the second below a tenth
            [0.6 * rotated, 0.9 * z, np.nan * x],
            [x, 0.3 * y, none],  # the true fiber along z is too small to count, the peak along y is false
            [none, np.nan * x, none],
            [y, y, y],
        ]
    )
    white = np.array([True, True, True, True, False])
    grid = (5, 1, 1)
    found = score(peaks.reshape(*grid, -1), fibers.reshape(*grid, 3, 3), white.reshape(grid))
    assert (found["voxels"], found["with_peak"]) == (4, 0.75)
    first, second, third = found["fibers"]
    assert (first["voxels"], second["voxels"], third) == (3, 1, {"voxels": 0})
    np.testing.assert_allclose([first["mean"], first["median"], second["mean"]], [10 / 3, 0, 0], atol=1e-5)
    np.testing.assert_allclose(
        found["strongest"]["mean"], 90 / 3, atol=1e-5
    )  # in the second voxel, the other peak is higher
    low, high = found["peaks"]["0.1"], found["peaks"]["0.5"]
    np.testing.assert_allclose([low["false"], low["mean"], low["true"]], [1 / 5, 5 / 3, 4 / 3])
    np.testing.assert_allclose([high["false"], high["mean"]], [0, 4 / 3])


def test_a_part_of_the_volumes_has_all_b0_volumes_and_every_shell(small: Dataset) -> None:
    dwi = load_dwi(small)
    part = part_of_volumes(dwi, 0.25)
    assert np.count_nonzero(part.b0_mask) == np.count_nonzero(dwi.b0_mask)
    before, after = ([len(shell.indices) for shell in one.gradients.shells()] for one in (dwi, part))
    assert after == [max(round(count / 4), 1) for count in before]


@pytest.mark.slow
def test_the_parts_of_the_chains_time_sum_to_its_time(setting: Setting) -> None:
    row = compared("chain", setting, lambda message: None)
    assert sum(row["parts"].values()) == pytest.approx(row["seconds"], abs=0.1)
    assert min(row["parts"].values()) >= 0
    assert set(row["steps"]) == {"denoised_dwi", "mean_b0", "brain_mask", "dti", "noddi"}
    assert row["peers"] == [{"peer": "kwneuro", "problem": NOT_INSTALLED}]
    json.dumps(row)


def cut_to(setting: Setting, voxels: int) -> Setting:
    """The setting with another number of voxels."""
    image = load(setting.dataset.mask)
    chosen = np.asarray(image.dataobj).copy()
    chosen[tuple(np.argwhere(chosen)[voxels:].T)] = 0
    folder = setting.scratch / "smaller"
    shutil.copytree(setting.dataset.folder, folder, symlinks=True)
    smaller = Dataset(folder, setting.dataset.subject)
    nibabel.save(nibabel.Nifti1Image(chosen, image.affine), smaller.mask)
    return Setting(smaller, setting.threads, setting.scratch, None)


def one_shell(setting: Setting) -> Setting:
    """The setting with the b=0 volumes and the highest shell only."""
    dwi = load_dwi(setting.dataset)
    volumes = sorted([*np.flatnonzero(dwi.b0_mask), *dwi.gradients.shells()[-1].indices])
    folder = setting.scratch / "one shell"
    shutil.copytree(setting.dataset.folder, folder)
    one = Dataset(folder, setting.dataset.subject)
    table = dwi.gradients.selected(volumes)
    one.bval.write_text(format_bvals(table))
    one.bvec.write_text(format_bvecs(table))
    nibabel.save(nibabel.Nifti1Image(dwi.array[..., volumes], dwi.affine), one.image)
    return Setting(one, setting.threads, setting.scratch, None)
