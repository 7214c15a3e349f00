"""Local maxima of functions on the sphere, found on a grid and refined.

An even function of order L is a homogeneous polynomial of degree L in x, y, z. Its value, gradient and Hessian follow
from the second derivatives by Euler's theorem, without the poles of spherical coordinates. Maxima on a grid are refined
by Newton steps in the tangent plane (`peak_climber`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.directions import fibonacci_directions
from kwneuro_assets.derivations.harmonics import harmonics

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

GRID = 1000  # directions on the half-sphere, 4.5 degrees apart; 5000 find 0.3 % more maxima, all near stronger ones
NEIGHBORS = 6  # of a grid direction; a maximum must exceed them
DUPLICATE = 1.0  # degrees: closer maxima are the same one, reached from two grid directions


def find_peaks(
    fod: Floats, order: int, *, max_peaks: int, relative_threshold: float, min_separation_angle: float
) -> NDArray[np.float64]:
    """(voxels, max_peaks, 3) the peaks of FODs (voxels, coefficients) of `order`, strongest first.

    The length of a vector is the amplitude of the peak; missing peaks are zero. Vectors are in the frame of the FOD and
    have z >= 0 (for z = 0, y >= 0; for y = 0, x > 0). Excludes maxima that are not positive, below
    `relative_threshold` of the strongest in their voxel, or within `min_separation_angle` degrees of a stronger one.
    """
    from kwneuro_assets.derivations.compiled import compile_now
    from kwneuro_assets.derivations.peak_climber import climb_and_select

    directions, to_grid, neighbors = _grid(order)
    vectors = np.zeros((len(fod), max_peaks, 3))
    max_cosine = float(np.cos(np.radians(max(min_separation_angle, DUPLICATE))))
    arguments = (
        fod.astype(np.float32) @ to_grid,
        directions,
        neighbors,
        (fod @ _second_derivatives(order)).reshape(len(fod), -1, 6),
        order - 2,
        float(relative_threshold),
        max_cosine,
        vectors,
    )
    compile_now(climb_and_select, *arguments)
    climb_and_select(*arguments)
    return vectors


@lru_cache(maxsize=4)
def _grid(order: int) -> tuple[Floats, Singles, Integers]:
    """Directions (grid, 3), the matrix (coefficients, grid) from FODs to their amplitudes, and neighbors (grid, n)."""
    directions = fibonacci_directions(GRID)
    closeness = np.abs(directions @ directions.T)
    np.fill_diagonal(closeness, -1)
    neighbors = np.ascontiguousarray(np.argsort(-closeness, axis=1, kind="stable")[:, :NEIGHBORS])
    return directions, harmonics(order, directions).T.astype(np.float32, order="C"), neighbors


@lru_cache(maxsize=4)
def _second_derivatives(order: int) -> Floats:
    """The matrix (coefficients, monomials * 6) from FODs to the polynomials xx, xy, xz, yy, yz, zz of the Hessian.

    The monomials, of degree order - 2, are in the order of `_exponents`.
    """
    exponents, lower = _exponents(order), _exponents(order - 2)
    place = {tuple(powers): column for column, powers in enumerate(lower.T.tolist())}
    directions = fibonacci_directions(4 * exponents.shape[1])
    monomials = np.prod(directions[:, :, None] ** exponents[None], axis=1)
    to_polynomial = np.linalg.lstsq(monomials, harmonics(order, directions), rcond=None)[0]
    derivative = np.zeros((exponents.shape[1], lower.shape[1], 6))
    for row, powers in enumerate(exponents.T):
        for entry, (first, second) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]):
            reduced = powers.copy()
            factor = reduced[first]
            reduced[first] -= 1
            factor = factor * reduced[second]
            reduced[second] -= 1
            if factor > 0:
                derivative[row, place[tuple(reduced.tolist())], entry] = factor
    return to_polynomial.T @ derivative.reshape(len(derivative), -1)


def _exponents(degree: int) -> Integers:
    """(3, monomials) the exponents of x, y, z in all monomials of `degree`."""
    return np.array([(a, b, degree - a - b) for a in range(degree + 1) for b in range(degree + 1 - a)]).T
