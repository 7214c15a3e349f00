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
SETTINGS = {"shell": "auto", "max_order": 8, "fa_threshold": 0.7, "minimum_voxels": 300}
GRID = (20, 20, 12)
WHOLE = Volume(np.ones(GRID, np.uint8), np.eye(4))
RIGHT_HANDED = np.diag([2.0, 2, 2, 1])
ALONG, ACROSS, ISOTROPIC = 1.7e-3, 0.3e-3, 0.9e-3  # mm^2/s


def _dwi(signal: Floats, table: GradientTable) -> Dwi:
    return Dwi(Volume(signal.reshape(*GRID, -1).astype(np.float32), RIGHT_HANDED), table)


def _mask(inside: NDArray[np.bool_]) -> Volume:
    return Volume(inside.reshape(GRID).astype(np.uint8), RIGHT_HANDED)


@pytest.fixture(scope="module")
def table() -> GradientTable:
    """Two b=0, 30 directions at b=1000 and 60 at b=3000, given in the world frame."""
    bvals = np.repeat([0.0, 1000, 3000], [2, 30, 60])
    bvecs = np.concatenate([np.zeros((2, 3)), electrostatic_directions(30), electrostatic_directions(60)])
    return GradientTable(bvals, bvecs, "world")


def _signal(table: GradientTable, fibres: Floats, s0: float = 1000) -> Floats:
    """(voxels, n) of one axially symmetric tensor in each voxel, along unit vectors of the world frame."""
    diffusivity = ACROSS + (ALONG - ACROSS) * (fibres @ table.bvecs.T) ** 2
    return s0 * np.exp(-table.bvals * diffusivity)


def _fibres(count: int, seed: int = 0) -> Floats:
    fibres = np.random.default_rng(seed).normal(size=(count, 3))
    return fibres / np.linalg.norm(fibres, axis=1, keepdims=True)


def _noisy(signal: Floats, sigma: float = 20) -> Floats:
    noise = np.random.default_rng(5).normal(0, sigma, (2, *signal.shape))
    return np.hypot(signal + noise[0], noise[1])


def _phantom(table: GradientTable) -> tuple[Floats, NDArray[np.bool_]]:
    """A block of 8 x 8 x 6 single fibres in isotropic tissue, and where it is."""
    single = np.zeros(GRID, np.bool_)
    single[6:14, 6:14, 3:9] = True
    single = single.ravel()
    signal = np.broadcast_to(1000 * np.exp(-table.bvals * ISOTROPIC), (single.size, len(table))).copy()
    signal[single] = _signal(table, _fibres(int(single.sum())))
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


def test_the_response_of_known_fibres_is_their_zonal_transform(table: GradientTable) -> None:
    signal, single = _phantom(table)
    response = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)))
    assert response.bvalue == 3000
    assert response.voxels == single.sum()
    # The tensor's float32 eigenvectors and the harmonics beyond order 8, cut off, leave 0.1 % of l = 0.
    assert np.abs(response.coefficients - _true_coefficients(3000)).max() < 1e-3 * response.coefficients[0]


def test_noise_changes_the_response_little(table: GradientTable) -> None:
    signal, single = _phantom(table)
    response = _estimated(_dwi(_noisy(signal), table), _mask(np.ones(single.size, np.bool_)))
    # SNR 50: Rician bias of the weak signal at b=3000 along the fibre, and 1 degree of error in the eigenvector.
    assert np.abs(response.coefficients - _true_coefficients(3000)).max() < 0.03 * response.coefficients[0]


def test_the_l0_coefficient_is_the_mean_over_the_sphere_times_the_root_of_4_pi(table: GradientTable) -> None:
    signal, single = _phantom(table)
    response = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)))
    mean = signal[single][:, table.bvals == 3000].mean()
    assert response.coefficients[0] == pytest.approx(mean * np.sqrt(4 * np.pi), rel=1e-3)


def test_a_threshold_that_nothing_reaches_falls_back_to_the_highest_fa(table: GradientTable) -> None:
    signal, single = _phantom(table)
    mask = _mask(np.ones(single.size, np.bool_))
    response = _estimated(_dwi(signal, table), mask, fa_threshold=0.99)
    assert response.voxels == 300
    assert np.abs(response.coefficients - _true_coefficients(3000)).max() < 1e-3 * response.coefficients[0]


def test_bright_noise_at_the_edge_and_crossings_are_not_taken(table: GradientTable) -> None:
    signal, single = _phantom(table)
    clean = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)))
    spoilt = signal.reshape(*GRID, -1).copy()
    # Single volumes that shine: a high FA that means nothing, at the edge and inside.
    spoilt[0, :, :, 7] = spoilt[:, 0, :, 12] = 5000
    spoilt[7, 7, 4:8, 5] = 20000
    # Two fibres at right angles: planar, with an FA above 0.5.
    spoilt[6:9, 6:9, 3:9] = (_signal(table, np.array([[1.0, 0, 0]])) + _signal(table, np.array([[0.0, 1, 0]])))[0] / 2
    response = _estimated(
        _dwi(spoilt, table), _mask(np.ones(single.size, np.bool_)), fa_threshold=0.5, minimum_voxels=200
    )
    assert response.voxels < clean.voxels
    assert np.abs(response.coefficients - clean.coefficients).max() < 1e-3 * clean.coefficients[0]


def test_the_shell_that_is_asked_for_is_the_one_that_is_averaged(table: GradientTable) -> None:
    signal, single = _phantom(table)
    response = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)), shell=1000.0, max_order=6)
    assert (response.bvalue, response.order) == (1000, 6)
    assert np.abs(response.coefficients - _true_coefficients(1000)[:4]).max() < 1e-3 * response.coefficients[0]


def test_few_voxels_are_taken_with_a_warning_that_counts_them(
    table: GradientTable, caplog: pytest.LogCaptureFixture
) -> None:
    signal, single = _phantom(table)
    small = np.zeros(GRID, np.bool_)
    small[6:14, 6:10, 3:6] = True  # 96 voxels
    with caplog.at_level(logging.WARNING):
        response = _estimated(_dwi(signal, table), _mask(small))
    assert response.voxels == 19
    assert "19 voxels only" in caplog.text
    caplog.clear()
    _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)))
    assert not caplog.text


def test_a_response_with_little_contrast_is_a_warning_with_numbers(
    table: GradientTable, caplog: pytest.LogCaptureFixture
) -> None:
    fibres = _fibres(int(np.prod(GRID)))
    signal = 1000 * np.exp(-table.bvals * (0.9e-3 + 0.03e-3 * (fibres @ table.bvecs.T) ** 2))
    with caplog.at_level(logging.WARNING):
        response = _estimated(_dwi(signal, table), _mask(np.ones(len(signal), np.bool_)))
    along, across = along_and_across(response.coefficients)
    assert 0.8 * across < along < 0.99 * across
    assert f"signal {along:.4g} along the fibre, {across:.4g} across" in caplog.text


@pytest.mark.parametrize("sigma", [0, 20])
def test_isotropic_tissue_has_no_response(table: GradientTable, sigma: float) -> None:
    signal = np.broadcast_to(1000 * np.exp(-table.bvals * ISOTROPIC), (int(np.prod(GRID)), len(table)))
    dwi = _dwi(_noisy(signal, sigma), table)
    response = estimate_response(dwi, _mask(np.ones(len(signal), np.bool_)), **SETTINGS)  # type: ignore[arg-type]
    assert isinstance(response, NotApplicable)
    assert "show no fibre" in response.reason


def test_a_mask_that_is_empty_tiny_or_elsewhere_is_an_error(table: GradientTable) -> None:
    signal, single = _phantom(table)
    dwi = _dwi(signal, table)
    with pytest.raises(InvalidData, match="at least one voxel inside"):
        _estimated(dwi, _mask(np.zeros(single.size, np.bool_)))
    tiny = np.zeros(single.size, np.bool_)
    tiny[np.flatnonzero(single)[:20]] = True
    with pytest.raises(InvalidData, match=r"expected at least 50 voxels .* found 20 voxels, 20 of them plausible"):
        _estimated(dwi, _mask(tiny))
    with pytest.raises(InvalidData, match="grid of mask"):
        _estimated(dwi, WHOLE)


def test_voxels_without_signal_are_not_taken(table: GradientTable) -> None:
    signal, single = _phantom(table)
    signal[::3] = 0
    response = _estimated(_dwi(signal, table), _mask(np.ones(single.size, np.bool_)), minimum_voxels=100)
    assert response.voxels == np.count_nonzero(signal[single].any(axis=1))
    assert np.abs(response.coefficients - _true_coefficients(3000)).max() < 1e-3 * response.coefficients[0]


def test_a_shell_that_does_not_exist_and_too_few_directions_are_told_apart(table: GradientTable) -> None:
    signal, single = _phantom(table)
    everywhere = _mask(np.ones(single.size, np.bool_))
    with pytest.raises(InvalidData, match="b=1000, 3000"):
        _estimated(_dwi(signal, table), everywhere, shell=2000.0)
    few = np.arange(12)
    dwi = _dwi(signal[:, few], table.selected(few))
    assert isinstance(estimate_response(dwi, everywhere, **SETTINGS), NotApplicable)  # type: ignore[arg-type]


def test_the_response_is_the_same_to_the_bit_twice(table: GradientTable) -> None:
    signal, single = _phantom(table)
    dwi, everywhere = _dwi(_noisy(signal), table), _mask(np.ones(single.size, np.bool_))
    first, second = _estimated(dwi, everywhere), _estimated(dwi, everywhere)
    assert first.coefficients.tobytes() == second.coefficients.tobytes()


def test_a_real_patch_at_b_3000_falls_back_and_says_so(reference: Path, caplog: pytest.LogCaptureFixture) -> None:
    patch = reference / "real-patch"
    image = nibabel.load(patch / "sub-real_dwi.nii.gz")
    bvals = parse_bvals((patch / "sub-real_dwi.bval").read_text())
    gradients = GradientTable(bvals, parse_bvecs((patch / "sub-real_dwi.bvec").read_text(), len(bvals)))
    dwi = Dwi(Volume(image.get_fdata(dtype=np.float32), image.affine), gradients)
    mask = Volume(nibabel.load(patch / "mask.nii.gz").get_fdata().astype(np.uint8), image.affine)
    with caplog.at_level(logging.WARNING):
        response = _estimated(dwi, mask)
    # No voxel of it reaches an FA of 0.7 (the highest is 0.51), and a fifth of its 151 voxels are 30.
    assert response.voxels == 30
    assert "30 voxels only" in caplog.text
    assert response.order == 8
