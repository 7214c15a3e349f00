"""The single-fiber response function, on signals with known coefficients."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.derivations.response import along_and_across, estimate_response
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs

Floats = NDArray[np.float64]
SETTINGS = {"shell": "auto", "lmax": 8, "fa_threshold": 0.7, "min_voxels": 300}
GRID = (20, 20, 12)
OTHER_GRID = Volume(np.ones(GRID, np.uint8), np.eye(4))
RIGHT_HANDED = np.diag([2.0, 2, 2, 1])
ALONG, ACROSS, ISOTROPIC = 1.7e-3, 0.3e-3, 0.9e-3  # mm^2/s


def _dwi(signal: Floats, table: GradientTable) -> Dwi:
    return Dwi(Volume(signal.reshape(*GRID, -1).astype(np.float32), RIGHT_HANDED), table)


def _mask(inside: NDArray[np.bool_]) -> Volume:
    return Volume(inside.reshape(GRID).astype(np.uint8), RIGHT_HANDED)


@pytest.fixture(scope="module")
def table() -> GradientTable:
    """Two b=0 volumes, 30 directions at b=1000 and 60 at b=3000, in the world frame."""
    bvals = np.repeat([0.0, 1000, 3000], [2, 30, 60])
    bvecs = np.concatenate([np.zeros((2, 3)), electrostatic_directions(30), electrostatic_directions(60)])
    return GradientTable(bvals, bvecs, "world")


def _signal(table: GradientTable, fibers: Floats, s0: float = 1000) -> Floats:
    """The signals (voxels, n) of axially symmetric tensors along unit vectors (voxels, 3) in the world frame."""
    diffusivity = ACROSS + (ALONG - ACROSS) * (fibers @ table.bvecs.T) ** 2
    return s0 * np.exp(-table.bvals * diffusivity)


def _fibers(count: int, seed: int = 0) -> Floats:
    fibers = np.random.default_rng(seed).normal(size=(count, 3))
    return fibers / np.linalg.norm(fibers, axis=1, keepdims=True)


def _noisy(signal: Floats, sigma: float = 20) -> Floats:
    noise = np.random.default_rng(5).normal(0, sigma, (2, *signal.shape))
    return np.hypot(signal + noise[0], noise[1])


def _phantom(table: GradientTable) -> tuple[Floats, NDArray[np.bool_]]:
    """The signals of a block of 8 x 8 x 6 single-fiber voxels in isotropic tissue, and the mask of the block."""
    single = np.zeros(GRID, np.bool_)
    single[6:14, 6:14, 3:9] = True
    single = single.ravel()
    signal = np.broadcast_to(1000 * np.exp(-table.bvals * ISOTROPIC), (single.size, len(table))).copy()
    signal[single] = _signal(table, _fibers(int(single.sum())))
    return signal, single


def _estimated(dwi: Dwi, mask: Volume, **changed: object) -> ResponseFunction:
    response = estimate_response(dwi, mask, **{**SETTINGS, **changed})  # type: ignore[arg-type]
    assert isinstance(response, ResponseFunction)
    return response


def _true_coefficients(bvalue: float, s0: float = 1000) -> Floats:
    """By quadrature: 2 pi times the integral of signal and zonal harmonic over the cosine."""
    cosine, weight = np.polynomial.legendre.leggauss(40)
    signal = s0 * np.exp(-bvalue * (ACROSS + (ALONG - ACROSS) * cosine**2))
    return np.array(
        [
            2 * np.pi * np.sqrt((2 * n + 1) / (4 * np.pi)) * (weight * signal) @ np.polynomial.Legendre.basis(n)(cosine)
            for n in range(0, 9, 2)
        ]
    )


def test_the_response_of_known_fibers_has_their_zonal_coefficients(table: GradientTable) -> None:
    signal, single = _phantom(table)
    response = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)))
    assert response.bvalue == 3000
    assert response.voxels == single.sum()
    # 0.1 % of l = 0: the eigenvectors are float32, and harmonics beyond order 8 are cut.
    assert np.abs(response.coefficients - _true_coefficients(3000)).max() < 1e-3 * response.coefficients[0]


def test_noise_changes_the_response_little(table: GradientTable) -> None:
    signal, single = _phantom(table)
    response = _estimated(_dwi(_noisy(signal), table), _mask(np.ones(single.size, np.bool_)))
    # SNR 50: Rician bias of the low signal at b=3000 along the fiber, and an error of 1 degree in the eigenvector.
    assert np.abs(response.coefficients - _true_coefficients(3000)).max() < 0.03 * response.coefficients[0]


def test_the_l0_coefficient_is_the_mean_over_the_sphere_times_the_root_of_4_pi(table: GradientTable) -> None:
    signal, single = _phantom(table)
    response = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)))
    mean = signal[single][:, table.bvals == 3000].mean()
    assert response.coefficients[0] == pytest.approx(mean * np.sqrt(4 * np.pi), rel=1e-3)


def test_a_threshold_above_all_fa_values_selects_the_highest_fa(table: GradientTable) -> None:
    signal, single = _phantom(table)
    mask = _mask(np.ones(single.size, np.bool_))
    response = _estimated(_dwi(signal, table), mask, fa_threshold=0.99)
    assert response.voxels == 300
    assert np.abs(response.coefficients - _true_coefficients(3000)).max() < 1e-3 * response.coefficients[0]


def test_bright_noise_and_crossings_are_excluded(table: GradientTable) -> None:
    signal, single = _phantom(table)
    clean = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)))
    corrupted = signal.reshape(*GRID, -1).copy()
    # Very bright single volumes, at the edge and inside, give a wrong, high FA.
    corrupted[0, :, :, 7] = corrupted[:, 0, :, 12] = 5000
    corrupted[7, 7, 4:8, 5] = 20000
    # Two fibers at right angles: planar, with an FA above 0.5.
    corrupted[6:9, 6:9, 3:9] = (_signal(table, np.array([[1.0, 0, 0]])) + _signal(table, np.array([[0.0, 1, 0]])))[
        0
    ] / 2
    response = _estimated(
        _dwi(corrupted, table), _mask(np.ones(single.size, np.bool_)), fa_threshold=0.5, min_voxels=200
    )
    assert response.voxels < clean.voxels
    assert np.abs(response.coefficients - clean.coefficients).max() < 1e-3 * clean.coefficients[0]


def test_the_requested_shell_is_used(table: GradientTable) -> None:
    signal, single = _phantom(table)
    response = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)), shell=1000.0, lmax=6)
    assert (response.bvalue, response.order) == (1000, 6)
    assert np.abs(response.coefficients - _true_coefficients(1000)[:4]).max() < 1e-3 * response.coefficients[0]


def test_few_voxels_are_used_with_a_warning(table: GradientTable, caplog: pytest.LogCaptureFixture) -> None:
    signal, single = _phantom(table)
    small = np.zeros(GRID, np.bool_)
    small[6:14, 6:10, 3:6] = True  # 96 voxels
    with caplog.at_level(logging.WARNING):
        response = _estimated(_dwi(signal, table), _mask(small))
    assert response.voxels == 19
    assert "only 19 voxels" in caplog.text
    caplog.clear()
    _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)))
    assert not caplog.text


def test_a_response_with_little_contrast_is_a_warning(table: GradientTable, caplog: pytest.LogCaptureFixture) -> None:
    fibers = _fibers(int(np.prod(GRID)))
    signal = 1000 * np.exp(-table.bvals * (0.9e-3 + 0.03e-3 * (fibers @ table.bvecs.T) ** 2))
    with caplog.at_level(logging.WARNING):
        response = _estimated(_dwi(signal, table), _mask(np.ones(len(signal), np.bool_)))
    along, across = along_and_across(response.coefficients)
    assert 0.8 * across < along < 0.99 * across
    assert f"signal {along:.4g} along the fiber, {across:.4g} across" in caplog.text


@pytest.mark.parametrize("sigma", [0, 20])
def test_isotropic_tissue_has_no_response(table: GradientTable, sigma: float) -> None:
    signal = np.broadcast_to(1000 * np.exp(-table.bvals * ISOTROPIC), (int(np.prod(GRID)), len(table)))
    dwi = _dwi(_noisy(signal, sigma), table)
    response = estimate_response(dwi, _mask(np.ones(len(signal), np.bool_)), **SETTINGS)  # type: ignore[arg-type]
    assert isinstance(response, NotApplicable)
    assert "show no fiber" in response.reason


def test_an_empty_or_tiny_mask_or_one_on_another_grid_raises_an_error(table: GradientTable) -> None:
    signal, single = _phantom(table)
    dwi = _dwi(signal, table)
    with pytest.raises(InvalidData, match="at least one voxel inside"):
        _estimated(dwi, _mask(np.zeros(single.size, np.bool_)))
    tiny = np.zeros(single.size, np.bool_)
    tiny[np.flatnonzero(single)[:20]] = True
    expected = (
        r"at least 50 voxels .* found 20 voxels, 20 of them with signal, 20 with such a tensor\. Use a larger mask"
    )
    with pytest.raises(InvalidData, match=expected):
        _estimated(dwi, _mask(tiny))
    with pytest.raises(InvalidData, match="grid of mask"):
        _estimated(dwi, OTHER_GRID)


def test_voxels_without_signal_are_excluded(table: GradientTable) -> None:
    signal, single = _phantom(table)
    signal[::3] = 0
    response = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)), min_voxels=100)
    assert response.voxels == np.count_nonzero(signal[single].any(axis=1))
    assert np.abs(response.coefficients - _true_coefficients(3000)).max() < 1e-3 * response.coefficients[0]


def test_a_mask_much_larger_than_the_signal_gives_the_same_response(table: GradientTable) -> None:
    signal, _ = _phantom(table)
    brain = np.zeros(GRID, np.bool_)
    brain[6:14, 5:14, 2:10] = True  # 576 of 4800 voxels
    signal[~brain.ravel()] = 0
    right, wide = (_estimated(_dwi(signal, table), _mask(mask)) for mask in (brain, np.ones(GRID, np.bool_)))
    assert wide.voxels == right.voxels
    np.testing.assert_array_equal(wide.coefficients, right.coefficients)
    assert np.abs(wide.coefficients - _true_coefficients(3000)).max() < 1e-3 * wide.coefficients[0]


def test_isolated_voxels_without_signal_are_not_edges_of_the_mask(table: GradientTable) -> None:
    """Voxels are dark in all volumes, or at b=0 only."""
    signal, single = _phantom(table)
    generator = np.random.default_rng(1)
    dark = np.zeros(GRID, np.bool_)
    dark[2:-2, 2:-2, 2:-2] = generator.random((16, 16, 8)) < 0.1
    dark = dark.ravel()
    signal[dark] = np.where(generator.random(len(table)) < 0.5, 0, -1)
    signal[np.flatnonzero(dark)[::2]] = np.where(table.bvals == 0, 0, 700)
    response = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)), min_voxels=100)
    assert response.voxels == np.count_nonzero(single & ~dark)
    assert np.abs(response.coefficients - _true_coefficients(3000)).max() < 1e-3 * response.coefficients[0]


def test_the_error_for_a_mask_of_background_asks_for_a_brain_mask(table: GradientTable) -> None:
    signal, single = _phantom(table)
    signal[np.flatnonzero(single)[30:]] = 0
    signal[~single] = 0
    expected = r"found 4800 voxels, 30 of them with signal, 30 with such a tensor\. Use a mask of the brain alone"
    with pytest.raises(InvalidData, match=expected):
        _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)))
    signal[:] = 0
    signal[0, 0] = 5  # Dwi raises an error if no voxel has signal
    with pytest.raises(InvalidData, match="found 4800 voxels, 1 of them with signal"):
        _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)))


@pytest.mark.parametrize("b0", [5.0, 50, 65])
def test_the_tensor_fit_uses_the_real_b_values(table: GradientTable, b0: float) -> None:
    """With b=0 instead of 50, every FA (0.7990) would be too high, here above the threshold."""
    bvals = np.where(table.bvals == 0, b0, table.bvals)
    bvecs = np.concatenate([[[1.0, 0, 0], [0, 0.6, 0.8]], table.bvecs[2:]])
    low = GradientTable(bvals, bvecs, "world", 70)
    responses = []
    for directions in (table, low):
        signal, single = _phantom(table)
        signal = np.broadcast_to(1000 * np.exp(-directions.bvals * ISOTROPIC), (single.size, len(table))).copy()
        signal[single] = _signal(directions, _fibers(int(single.sum())))
        mask = _mask(np.ones(single.size, np.bool_))
        responses.append(_estimated(_dwi(signal, directions), mask, fa_threshold=0.7993, min_voxels=100))
    assert [response.voxels for response in responses] == [100, 100]
    np.testing.assert_allclose(responses[1].coefficients, responses[0].coefficients, rtol=1e-4, atol=0.05)


def test_a_missing_shell_raises_an_error_and_too_few_directions_do_not(table: GradientTable) -> None:
    signal, single = _phantom(table)
    everywhere = _mask(np.ones(single.size, np.bool_))
    with pytest.raises(InvalidData, match="b=1000, 3000"):
        _estimated(_dwi(signal, table), everywhere, shell=2000.0)
    few = np.arange(12)
    dwi = _dwi(signal[:, few], table.selected(few))
    assert isinstance(estimate_response(dwi, everywhere, **SETTINGS), NotApplicable)  # type: ignore[arg-type]


def test_the_response_is_reproducible(table: GradientTable) -> None:
    signal, single = _phantom(table)
    dwi, everywhere = _dwi(_noisy(signal), table), _mask(np.ones(single.size, np.bool_))
    first, second = _estimated(dwi, everywhere), _estimated(dwi, everywhere)
    assert first.coefficients.tobytes() == second.coefficients.tobytes()


def test_the_highest_fa_is_used_in_a_real_patch_with_a_warning(
    reference: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patch = reference / "real-patch"
    image = nibabel.load(patch / "sub-real_dwi.nii.gz")
    bvals = parse_bvals((patch / "sub-real_dwi.bval").read_text())
    gradients = GradientTable(bvals, parse_bvecs((patch / "sub-real_dwi.bvec").read_text(), len(bvals)))
    dwi = Dwi(Volume(image.get_fdata(dtype=np.float32), image.affine), gradients)
    mask = Volume(nibabel.load(patch / "mask.nii.gz").get_fdata().astype(np.uint8), image.affine)
    with caplog.at_level(logging.WARNING):
        response = _estimated(dwi, mask)
    # No voxel has an FA of 0.7 (the maximum is 0.51), and a fifth of the 151 voxels is 30.
    assert response.voxels == 30
    assert "only 30 voxels" in caplog.text
    assert response.order == 8
