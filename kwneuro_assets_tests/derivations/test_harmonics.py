"""Spherical harmonics: against DIPY and numerical integration."""

from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.derivations.directions import fibonacci_directions
from kwneuro_assets.derivations.harmonics import (
    coefficient_count,
    convolution_factors,
    harmonics,
    orders_of_coefficients,
    zonal_harmonics,
)

DIRECTIONS = np.concatenate([fibonacci_directions(200), -fibonacci_directions(200), [[0, 0, 1], [0, 0, -1], [1, 0, 0]]])


@pytest.mark.parametrize("order", [2, 4, 8, 12])
def test_harmonics_are_those_of_dipy_in_mrtrix3s_convention(order: int) -> None:
    # DIPY's "tournier07" with legacy=False is MRtrix3's basis. 1e-12: rounding of two recurrences.
    from dipy.core.geometry import cart2sphere
    from dipy.reconst.shm import real_sh_tournier

    _, theta, phi = cart2sphere(*DIRECTIONS.T)
    oracle, _, degrees = real_sh_tournier(order, theta, phi, legacy=False)

    assert np.abs(harmonics(order, DIRECTIONS) - oracle).max() < 1e-12
    assert harmonics(order, DIRECTIONS).shape[1] == coefficient_count(order)
    assert (orders_of_coefficients(order) == degrees).all()


def test_zonal_harmonics_are_the_columns_with_m_0() -> None:
    columns = [degree * (degree + 1) // 2 for degree in range(0, 9, 2)]
    assert np.array_equal(zonal_harmonics(8, DIRECTIONS[:, 2]), harmonics(8, DIRECTIONS)[:, columns])


def test_a_convolution_is_the_integral_over_the_sphere() -> None:
    # Gauss-Legendre nodes in z and equal steps of azimuth integrate products of order 8 exactly.
    nodes, weights = np.polynomial.legendre.leggauss(20)
    z, azimuth = (axis.ravel() for axis in np.meshgrid(nodes, np.arange(40) * np.pi / 20, indexing="ij"))
    radius = np.sqrt(1 - z**2)
    grid = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)
    area = np.repeat(weights, 40) * np.pi / 20

    rng = np.random.default_rng(0)
    fod, kernel = rng.normal(size=coefficient_count(8)), rng.normal(size=5)
    for direction in fibonacci_directions(5):
        integral = float(area @ ((harmonics(8, grid) @ fod) * (zonal_harmonics(8, grid @ direction) @ kernel)))
        ours = float(harmonics(8, direction[None])[0] @ (convolution_factors(kernel, 8) * fod))
        assert ours == pytest.approx(integral, abs=1e-10)


def test_a_kernel_of_another_order_is_cut_or_padded() -> None:
    assert (convolution_factors([1.0, -0.5], 4)[6:] == 0).all()
    assert np.array_equal(convolution_factors([1.0, -0.5, 0.2, -0.1], 4), convolution_factors([1.0, -0.5, 0.2], 4))
