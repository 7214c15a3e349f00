"""Peaks: against known lobes, a slow optimizer, and MRtrix3."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from kwneuro_assets.derivations.directions import fibonacci_directions
from kwneuro_assets.derivations.harmonics import coefficient_count, convolution_factors, harmonics
from kwneuro_assets.derivations.peaks import find_peaks

Floats = NDArray[np.float64]
SETTINGS = {"max_peaks": 5, "relative_threshold": 0.1, "min_separation_angle": 25.0}


def _lobe(order: int) -> Floats:
    """Zonal coefficients of a smooth, positive lobe without side lobes: exp(-l (l + 1) / 60) of a delta."""
    degrees = np.arange(0, order + 1, 2)
    return np.sqrt((2 * degrees + 1) / (4 * np.pi)) * np.exp(-degrees * (degrees + 1) / 60)


def _fod(axes: Floats, weights: Floats, order: int = 8) -> Floats:
    """The FOD (1, coefficients) of lobes along unit vectors (n, 3)."""
    return (weights @ (harmonics(order, axes) * convolution_factors(_lobe(order), order)))[None]


def _axes(*degrees: float) -> Floats:
    angles = np.radians(degrees)
    frame = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    return np.stack([np.cos(angles), np.sin(angles), np.zeros(len(angles))], axis=1) @ frame


def _angles(first: Floats, second: Floats) -> Floats:
    """The angles between axes (..., 3) in degrees, also exact for small angles."""
    first, second = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (first, second))
    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.degrees(np.arctan2(sine, np.abs((first * second).sum(-1))))


@pytest.mark.parametrize("order", [2, 4, 8, 12])
def test_the_peak_of_a_single_lobe_is_at_its_axis(order: int) -> None:
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(200, 3))
    axes = np.concatenate([axes / np.linalg.norm(axes, axis=1, keepdims=True), np.eye(3), -np.eye(3)])
    fod = np.concatenate([_fod(axis[None], np.ones(1), order) for axis in axes])
    found = find_peaks(fod, order, **SETTINGS)
    # Rounding moves a maximum by about its square root: 1e-8 rad.
    assert _angles(found[:, 0], axes).max() < 1e-4
    # The height of a lobe does not depend on its direction.
    assert np.linalg.norm(found[:, 0], axis=1) == pytest.approx(float((harmonics(order, axes[:1]) @ fod[0])[0]))
    assert (found[:, 0, 2] >= 0).all()


def test_peaks_of_a_crossing_are_sorted_and_their_length_is_the_amplitude() -> None:
    fod = _fod(_axes(0, 90), np.array([0.4, 0.6]))
    found = find_peaks(fod, 8, **SETTINGS)[0]
    length = np.linalg.norm(found, axis=1)
    assert _angles(found[:2], _axes(90, 0)).max() < 1e-4
    assert length[0] > length[1] > 0
    assert (length[2:] == 0).all()
    assert length[:2] == pytest.approx(harmonics(8, found[:2] / length[:2, None]) @ fod[0])


def test_peaks_of_random_functions_are_those_of_a_slow_optimizer() -> None:
    rng = np.random.default_rng(2)
    fods = rng.normal(size=(4, 45)) / (1 + np.repeat(np.arange(5), [1, 5, 9, 13, 17]))
    fods[:, 0] += 2
    ours = find_peaks(fods, 8, max_peaks=10, relative_threshold=0, min_separation_angle=0)
    missed = reached = 0
    for fod, found in zip(fods, ours, strict=True):
        found = found[found.any(axis=1)]

        def negative_fod(u: Floats, fod: Floats = fod) -> float:
            return -float((harmonics(8, u[None] / np.linalg.norm(u)) @ fod)[0])

        # BFGS with numerical gradients is accurate to about 0.01 degrees; distinct maxima are tens of degrees apart.
        for start in fibonacci_directions(30):
            end = minimize(negative_fod, start, method="BFGS").x
            reached += 1
            missed += negative_fod(end) < 0 and _angles(found, end).min() > 0.05
        # Its long steps may miss small maxima, so each peak must also exceed all values around it.
        for peak in found:
            side = np.cross(peak, rng.normal(size=(50, 3)))
            side *= np.linalg.norm(peak) / np.linalg.norm(side, axis=1, keepdims=True)
            for radius in np.radians([0.01, 0.1, 1]):
                ring = (np.cos(radius) * peak + np.sin(radius) * side) / np.linalg.norm(peak)
                assert (harmonics(8, ring) @ fod).max() < -negative_fod(peak)
    # A maximum narrower than the grid, near a stronger one, may be missed.
    assert missed <= 0.02 * reached


def test_weak_near_and_excess_peaks_are_excluded() -> None:
    axes, weights = _axes(0, 60, 120), np.array([1.0, 0.7, 0.2])

    def count(**changed: float) -> int:
        return int(np.count_nonzero(find_peaks(_fod(axes, weights), 8, **{**SETTINGS, **changed})[0].any(axis=1)))

    assert count() == 3
    assert count(relative_threshold=0.5) == 2
    assert count(min_separation_angle=70) == 1
    assert count(max_peaks=1) == 1
    # The stronger peak remains.
    assert _angles(find_peaks(_fod(axes, weights), 8, **{**SETTINGS, "min_separation_angle": 70})[0, 0], axes[0]) < 5


def test_peaks_of_a_voxel_do_not_depend_on_other_voxels() -> None:
    fods = np.random.default_rng(5).normal(size=(50, 66))
    together = find_peaks(fods, 10, **SETTINGS)
    alone = np.concatenate([find_peaks(fod[None], 10, **SETTINGS) for fod in fods])
    assert np.abs(together - alone).max() < 1e-6


def test_zero_constant_and_negative_functions_have_no_peak() -> None:
    fod = np.zeros((3, 45))
    fod[1, 0], fod[2, 0] = 1, -1
    fod[2, 1:6] = 0.01
    assert (find_peaks(fod, 8, **SETTINGS) == 0).all()


def test_a_constant_with_rounding_has_no_peak() -> None:
    fod = np.random.default_rng(3).normal(size=(50, coefficient_count(8))) * 1e-16
    fod[:, 0] = 1
    assert (find_peaks(fod, 8, **SETTINGS) == 0).all()


def test_rotated_functions_have_rotated_peaks() -> None:
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    axes, weights = _axes(0, 50, 110), np.array([1.0, 0.8, 0.5])
    unrotated = find_peaks(_fod(axes, weights), 8, **SETTINGS)[0, :3]
    rotated = find_peaks(_fod(axes @ rotation, weights), 8, **SETTINGS)[0, :3]
    assert _angles(rotated, unrotated @ rotation).max() < 1e-4


def test_peaks_of_mrtrix3s_fods_are_mrtrix3s_peaks(reference: Path) -> None:
    patch = reference / "real-patch"
    inside = nibabel.load(patch / "mask.nii.gz").get_fdata() > 0
    fod = nibabel.load(patch / "mrtrix_fod_sh8.nii.gz").get_fdata()[inside]
    theirs = nibabel.load(patch / "mrtrix_peaks_world.nii.gz").get_fdata()[inside].reshape(-1, 3, 3)
    ours = find_peaks(fod, 8, max_peaks=3, relative_threshold=0, min_separation_angle=0)
    # The stored peaks and FODs are float32, which moves the flattest maximum by 0.016 degree.
    assert np.median(_angles(ours, theirs)) < 0.001
    assert _angles(ours, theirs).max() < 0.05
    assert np.abs(np.linalg.norm(ours, axis=2) - np.linalg.norm(theirs, axis=2)).max() < 1e-5
