"""Signals and response functions of three ideal tissues, from formulas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.imaging import Dwi, GradientTable, TissueResponses, Volume

Floats = NDArray[np.float64]

BVALUES = (0.0, 1000.0, 3000.0)
ALONG, ACROSS, GRAY, WATER = 1.7e-3, 0.3e-3, 0.8e-3, 3.0e-3  # mm^2/s
S0_WHITE, S0_GRAY, S0_WATER = 700.0, 1000.0, 2000.0
AFFINE = np.diag([2.0, 2, 2, 1])


def three_shells(directions: int = 48) -> GradientTable:
    """Three b=0 volumes and the same directions at b=1000 and 3000, in the world frame."""
    axes = electrostatic_directions(directions)
    bvals = np.repeat(BVALUES, [3, directions, directions])
    return GradientTable(bvals, np.concatenate([np.zeros((3, 3)), axes, axes]), "world")


def white_signal(table: GradientTable, fiber: Floats) -> Floats:
    """The signals (..., n) of fibers along unit vectors (..., 3) in the world frame."""
    return S0_WHITE * np.exp(-table.bvals * (ACROSS + (ALONG - ACROSS) * (fiber @ table.bvecs.T) ** 2))


def gray_signal(table: GradientTable) -> Floats:
    return S0_GRAY * np.exp(-table.bvals * GRAY)


def water_signal(table: GradientTable) -> Floats:
    return S0_WATER * np.exp(-table.bvals * WATER)


def noisy(signals: Floats, sigma: float, seed: int = 0) -> Floats:
    """The signals with Rician noise."""
    noise = np.random.default_rng(seed).normal(0, sigma, (2, *signals.shape))
    return np.asarray(np.hypot(signals + noise[0], noise[1]))


def true_responses(order: int = 10) -> TissueResponses:
    """By quadrature: 2 pi times the integral of the signal times the zonal harmonic over the cosine."""
    cosine, weight = np.polynomial.legendre.leggauss(60)
    bvalues = np.array(BVALUES)
    white = np.zeros((bvalues.size, order // 2 + 1))
    for row, bvalue in enumerate(bvalues):
        signal = S0_WHITE * np.exp(-bvalue * (ACROSS + (ALONG - ACROSS) * cosine**2))
        for degree in range(0, order + 1, 2):
            zonal = np.sqrt((2 * degree + 1) / (4 * np.pi)) * np.polynomial.Legendre.basis(degree)(cosine)
            white[row, degree // 2] = 2 * np.pi * (weight * signal) @ zonal
    white[0, 1:] = 0
    constant = np.sqrt(4 * np.pi)
    gray, water = S0_GRAY * np.exp(-bvalues * GRAY), S0_WATER * np.exp(-bvalues * WATER)
    return TissueResponses(bvalues, white, constant * gray, constant * water)


def random_axes(count: int, seed: int = 0) -> Floats:
    drawn = np.random.default_rng(seed).normal(size=(count, 3))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def as_row(signals: Floats, table: GradientTable, affine: Floats = AFFINE) -> tuple[Dwi, Volume]:
    """A row of voxels with signals (n, volumes), all in the mask."""
    array = signals[:, None, None].astype(np.float32)
    return Dwi(Volume(array, affine), table), Volume(np.ones(array.shape[:3], np.uint8), affine)
