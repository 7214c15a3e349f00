from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.harmonics import harmonics
from kwneuro_assets.qc.masked import MaskedSeries, read_masked
from kwneuro_assets.qc.noise import noise_level
from kwneuro_assets.qc.shell_fit import ShellFit, fit_b0, fit_shell, fit_shells
from kwneuro_assets_tests.qc import plywood

# Sums over a slice of 650 voxels of float32 residuals of a signal of 800: rounding of about 1e-6 each.
ROUNDING = 1e-3


@pytest.fixture(scope="module")
def series() -> MaskedSeries:
    dwi = plywood.block()
    return read_masked(dwi, plywood.mask_of(dwi).array > 0)


def shell_of(series: MaskedSeries, bvalue: int) -> ShellFit:
    return fit_shells(series)[bvalue]


def predicted_from_others(
    series: MaskedSeries, fit: ShellFit, volume: int, used: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(voxels,) the prediction of one volume of a shell from a fit to the others that are used."""
    others = used.copy()
    others[volume] = False
    basis = harmonics(fit.order, series.gradients.bvecs[fit.indices])
    signals = series.signals[fit.indices].astype(np.float64)
    return np.asarray(basis[volume] @ np.linalg.lstsq(basis[others], signals[others], rcond=None)[0])


@pytest.mark.parametrize("left_out", [[], [3, 11]])
def test_a_volume_is_predicted_from_all_others(series: MaskedSeries, left_out: list[int]) -> None:
    full = shell_of(series, 1000)
    excluded = np.zeros(full.indices.size, np.bool_)
    excluded[left_out] = True
    fit = fit_shell(series, full.indices.tolist(), excluded=excluded)
    assert fit is not None
    assert fit.order == full.order == 4
    for volume in (0, 3, 20):
        expected = predicted_from_others(series, fit, volume, ~excluded)
        error = series.signals[fit.indices[volume]] - expected
        for number, (_, part) in enumerate(series.slices):
            assert fit.expected[volume, number] == pytest.approx(expected[part].sum(), abs=ROUNDING * 100)
            assert fit.errors[volume, number] == pytest.approx(error[part].sum(), abs=ROUNDING * 100)


def test_the_noise_of_every_volume_is_found_whether_the_fit_uses_it_or_not(series: MaskedSeries) -> None:
    full = shell_of(series, 1000)
    excluded = np.arange(full.indices.size) < 4
    fit = fit_shell(series, full.indices.tolist(), excluded=excluded)
    assert fit is not None
    level = np.sqrt(fit.squares.sum(axis=1) / fit.counts.sum())
    # The standard error of a level from 5,800 voxels is 1 %.
    assert level == pytest.approx(np.full(level.size, plywood.SIGMA), rel=0.04)


def test_the_noise_level_is_that_of_the_phantom(series: MaskedSeries) -> None:
    # The median of 5,800 variances with 2 (b=0) and 17 degrees of freedom has a standard error of 2 % and 0.5 %.
    assert noise_level(fit_b0(series)) == pytest.approx(plywood.SIGMA, rel=0.06)
    assert noise_level(shell_of(series, 2000)) == pytest.approx(plywood.SIGMA, rel=0.02)


def test_the_lag_correlation_is_the_mean_over_all_pairs_of_adjacent_voxels(series: MaskedSeries) -> None:
    fit = shell_of(series, 1000)
    basis = harmonics(fit.order, series.gradients.bvecs[fit.indices])
    signals = series.signals[fit.indices].astype(np.float64)
    residual = signals - basis @ np.linalg.lstsq(basis, signals, rcond=None)[0]
    place = {
        tuple(one): number
        for number, one in enumerate(np.array(np.unravel_index(series.positions, series.grid, order="F")).T)
    }
    correlations = [
        residual[:, number] @ residual[:, place[x + i, y + j, z]]
        / np.linalg.norm(residual[:, number]) / np.linalg.norm(residual[:, place[x + i, y + j, z]])
        for (x, y, z), number in place.items()
        for i, j in ((1, 0), (0, 1))
        if (x + i, y + j, z) in place
    ]  # fmt: skip
    assert fit.lag == pytest.approx(np.mean(correlations), abs=1e-5)


def test_residuals_of_neighbors_correlate_if_volumes_have_the_b_vectors_of_others(series: MaskedSeries) -> None:
    assert abs(shell_of(series, 1000).lag) < 0.01
    shuffled = series.gradients.bvecs.copy()
    shuffled[3:35] = np.random.default_rng(0).permutation(shuffled[3:35])
    wrong = replace(series, gradients=replace(series.gradients, bvecs=shuffled))
    assert shell_of(wrong, 1000).lag > 0.2
    assert shell_of(wrong, 2000).lag == shell_of(series, 2000).lag


def test_spikes_are_counted_in_their_volume_and_slice(series: MaskedSeries) -> None:
    fit = shell_of(series, 1000)
    assert fit.spikes.sum() == 0
    signals = series.signals.copy()
    (_, fifth), volume = series.slices[5], int(fit.indices[7])
    signals[volume, fifth.start : fifth.start + 30 : 10] += 12 * plywood.SIGMA
    spikes = shell_of(replace(series, signals=signals), 1000).spikes
    assert spikes[7, 5] == spikes.sum() == 3


def test_a_shell_of_six_directions_is_fitted_by_its_mean_and_one_b0_volume_not_at_all() -> None:
    dwi = plywood.block(plywood.table([(700, 6), (1000, 5)], b0=1))
    series = read_masked(dwi, plywood.mask_of(dwi).array > 0)
    assert fit_b0(series) is None
    fits = fit_shells(series)
    assert {label: fit.order for label, fit in fits.items()} == {700: 0}
