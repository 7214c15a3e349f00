"""Real, even spherical harmonics in MRtrix3's convention.

Orthonormal over the sphere, even orders only, coefficient (l, m) in column l (l + 1) / 2 + m: for m < 0 the sine
part, for m > 0 the cosine part, both times sqrt(2), with the Condon-Shortley phase. Coefficients in the world
frame are therefore equal to those of an MRtrix3 FOD image.

Tournier et al., NeuroImage 202 (2019) 116137, doi:10.1016/j.neuroimage.2019.116137. The recurrences are those of Press
et al., Numerical Recipes, 3rd ed., section 6.7.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def coefficient_count(order: int) -> int:
    """The number of even spherical harmonics up to `order`.

    >>> [coefficient_count(order) for order in (2, 4, 6, 8)]
    [6, 15, 28, 45]
    """
    return (order + 1) * (order + 2) // 2


def orders_of_coefficients(order: int) -> NDArray[np.int64]:
    """(coefficients,) the order l of each column, up to `order`.

    >>> orders_of_coefficients(2).tolist()
    [0, 2, 2, 2, 2, 2]
    """
    degrees = np.arange(0, order + 1, 2)
    return np.repeat(degrees, 2 * degrees + 1)


def harmonics(order: int, directions: ArrayLike) -> NDArray[np.float64]:
    """(n, coefficients) the even spherical harmonics up to `order` at unit vectors (n, 3).

    >>> harmonics(2, [[0, 0, 1]]).shape
    (1, 6)
    """
    x, y, z = np.asarray(directions, np.float64).T
    legendre = _normalized_legendre(order, z, np.hypot(x, y))
    azimuth = np.arctan2(y, x)
    values = np.empty((x.size, coefficient_count(order)))
    for degree in range(0, order + 1, 2):
        center = degree * (degree + 1) // 2
        values[:, center] = legendre[degree, 0]
        for m in range(1, degree + 1):
            values[:, center + m] = np.sqrt(2) * legendre[degree, m] * np.cos(m * azimuth)
            values[:, center - m] = np.sqrt(2) * legendre[degree, m] * np.sin(m * azimuth)
    return values


def zonal_harmonics(order: int, cosines: ArrayLike) -> NDArray[np.float64]:
    """(n, order / 2 + 1) the harmonics with m = 0 up to `order` at the cosines (n,) of the polar angle."""
    z = np.asarray(cosines, np.float64)
    legendre = _normalized_legendre(order, z, None)
    return np.stack([legendre[degree, 0] for degree in range(0, order + 1, 2)], axis=1)


def convolution_factors(zonal: ArrayLike, order: int) -> NDArray[np.float64]:
    """(coefficients,) the factor of each FOD coefficient in the convolution with a zonal kernel.

    `zonal` (k,) are the coefficients of the kernel for l = 0, 2, ...; those beyond `order` are ignored, and missing
    ones are zero (Funk-Hecke theorem; Tournier et al., NeuroImage 23, 2004, doi:10.1016/j.neuroimage.2004.07.037).
    """
    kernel = np.zeros(order // 2 + 1)
    given = np.asarray(zonal, np.float64)[: kernel.size]
    kernel[: given.size] = given
    degrees = np.arange(0, order + 1, 2)
    return np.repeat(kernel * np.sqrt(4 * np.pi / (2 * degrees + 1)), 2 * degrees + 1)


def _normalized_legendre(
    order: int, z: NDArray[np.float64], sine: NDArray[np.float64] | None
) -> dict[tuple[int, int], NDArray[np.float64]]:
    """The associated Legendre functions times the norm of the harmonics, by (l, m); without `sine`, only m = 0."""
    values = {(0, 0): np.full(z.shape, 1 / np.sqrt(4 * np.pi))}
    highest = 0
    if sine is not None:
        highest = order
        for m in range(1, order + 1):
            values[m, m] = -np.sqrt((2 * m + 1) / (2 * m)) * sine * values[m - 1, m - 1]
    for m in range(highest + 1):
        if m < order:
            values[m + 1, m] = np.sqrt(2 * m + 3) * z * values[m, m]
        for degree in range(m + 2, order + 1):
            here = np.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
            before = np.sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1))
            values[degree, m] = here * (z * values[degree - 1, m] - before * values[degree - 2, m])
    return values
