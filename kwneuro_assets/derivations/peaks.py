"""Local maxima of functions on the sphere, refined off the grid.

An even function of order L is a homogeneous polynomial of degree L in x, y, z; its value, gradient and Hessian all
follow from the second derivatives by Euler's theorem, without the poles of spherical coordinates. So maxima
found on a grid are followed by Newton steps in the tangent plane, all voxels at once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.directions import fibonacci_directions
from kwneuro_assets.derivations.harmonics import harmonics

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

GRID = 1000  # directions on the half-sphere, 4.5 degrees apart: 5000 find 0.3 % more maxima, on the slope of others
NEIGHBOURS = 6  # of a grid direction that a maximum must exceed
LONGEST_STEP = 0.05  # radians, about half the grid's spacing, so that a step stays on its hill
CONVERGED = 1e-6  # radians
MOST_STEPS = 50
DUPLICATE = 1.0  # degrees: two starts that reached one maximum
FLAT = 1e-6  # curvature over amplitude below which a maximum is rounding


def find_peaks(
    fod: Floats, order: int, *, peaks: int, relative_threshold: float, minimum_angle: float
) -> NDArray[np.float64]:
    """(voxels, peaks, 3) the maxima of FODs (voxels, coefficients) of `order`, the strongest first.

    The length of a vector is the amplitude there, zero where there are fewer; z is not negative (then y, x).
    Left out are maxima that are not positive, below `relative_threshold` of their voxel's largest, or within
    `minimum_angle` degrees of a stronger one.
    """
    voxel, start = _grid_maxima(fod, order, relative_threshold)
    direction, amplitude, is_maximum = _climb(fod, order, voxel, start)
    voxel, direction, amplitude = voxel[is_maximum], direction[is_maximum], amplitude[is_maximum]
    return _select(len(fod), voxel, direction, amplitude, peaks, relative_threshold, minimum_angle)


def _grid_maxima(fod: Floats, order: int, relative_threshold: float) -> tuple[Integers, Floats]:
    """The voxel (n,) and direction (n, 3) of every positive grid maximum, by voxel."""
    directions, to_grid, neighbours = _grid(order)
    amplitude = to_grid @ fod.T
    # No peak is three degrees off the grid, so half of its height is surely met there.
    highest = amplitude > np.maximum(0.5 * relative_threshold * amplitude.max(axis=0), 0)
    own = np.arange(len(directions))[:, None]
    for neighbour in neighbours.T:
        # Of equal neighbours the first is the maximum: a ridge of two grid points is not lost.
        other = amplitude[neighbour]
        highest &= (amplitude > other) | ((amplitude == other) & (own < neighbour[:, None]))
    voxel, index = np.nonzero(highest.T)
    return voxel, directions[index]


@lru_cache(maxsize=4)
def _grid(order: int) -> tuple[Floats, Floats, Integers]:
    directions = fibonacci_directions(GRID)
    closeness = np.abs(directions @ directions.T)
    np.fill_diagonal(closeness, -1)
    neighbours = np.argsort(-closeness, axis=1, kind="stable")[:, :NEIGHBOURS]
    return directions, harmonics(order, directions), neighbours


def _climb(fod: Floats, order: int, voxel: Integers, start: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Newton's method from each start: direction (n, 3), amplitude (n,) there, and whether it is a maximum."""
    to_hessian, exponents = _second_derivatives(order)
    coefficients = (fod @ to_hessian).reshape(len(fod), 6, -1)
    direction = start.copy()
    amplitude = np.zeros(len(start))
    is_maximum = np.zeros(len(start), np.bool_)
    moving = np.arange(len(start))
    for _ in range(MOST_STEPS):
        if not moving.size:
            break
        here = direction[moving]
        value, step, curvature = _newton_step(coefficients[voxel[moving]], exponents, order, here)
        amplitude[moving] = value
        is_maximum[moving] = (value > 0) & (curvature < -FLAT * value)
        here = here + step
        direction[moving] = here / np.linalg.norm(here, axis=1, keepdims=True)
        moving = moving[np.abs(step).max(axis=1) > CONVERGED]
    return direction, amplitude, is_maximum


def _newton_step(coefficients: Floats, exponents: Integers, order: int, u: Floats) -> tuple[Floats, Floats, Floats]:
    """Amplitude (n,), step (n, 3) in the tangent plane towards the maximum, and the largest curvature (n,) at u."""
    powers = u[:, :, None] ** np.arange(order - 1)
    monomials = powers[:, 0, exponents[0]] * powers[:, 1, exponents[1]] * powers[:, 2, exponents[2]]
    second = np.einsum("nhk,nk->nh", coefficients, monomials)
    hessian = second[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    slope = np.einsum("nij,nj->ni", hessian, u) / (order - 1)
    value = np.einsum("ni,ni->n", slope, u) / order
    tangent = _tangent_basis(u)
    slope_t = np.einsum("nai,ni->na", tangent, slope)
    hessian_t = np.einsum("nai,nij,nbj->nab", tangent, hessian, tangent, optimize=True)
    # On the sphere the radial slope, order * value, bends every great circle down.
    a, b, c = hessian_t[:, 0, 0] - order * value, hessian_t[:, 0, 1], hessian_t[:, 1, 1] - order * value
    spread = np.hypot((a - c) / 2, b)
    curvature = (a + c) / 2 + spread
    # Where it does not bend down in every direction, shift it until it does: the step then still climbs.
    shift = np.maximum(curvature + 0.1 * spread, 0)
    a, c = a - shift, c - shift
    determinant = a * c - b * b
    safe = np.where(determinant > 0, determinant, np.inf)
    step = np.stack([b * slope_t[:, 1] - c * slope_t[:, 0], b * slope_t[:, 0] - a * slope_t[:, 1]], axis=1)
    step /= safe[:, None]
    step *= LONGEST_STEP / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), LONGEST_STEP)
    return value, np.einsum("na,nai->ni", step, tangent), curvature


def _tangent_basis(u: Floats) -> Floats:
    """(n, 2, 3) two orthonormal vectors at right angles to each unit vector."""
    helper = np.zeros_like(u)
    helper[np.arange(len(u)), np.abs(u).argmin(axis=1)] = 1
    first = np.cross(u, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, np.cross(u, first)], axis=1)


@lru_cache(maxsize=4)
def _second_derivatives(order: int) -> tuple[Floats, Integers]:
    """Matrix (coefficients, 6 * monomials) from harmonics to the polynomials xx, xy, xz, yy, yz, zz of the Hessian.

    Also the exponents (3, monomials) of x, y, z in them, of degree order - 2.
    """
    exponents, lower = _exponents(order), _exponents(order - 2)
    place = {tuple(powers): column for column, powers in enumerate(lower.T.tolist())}
    directions = fibonacci_directions(4 * exponents.shape[1])
    monomials = np.prod(directions[:, :, None] ** exponents[None], axis=1)
    to_polynomial = np.linalg.lstsq(monomials, harmonics(order, directions), rcond=None)[0]
    derivative = np.zeros((exponents.shape[1], 6, lower.shape[1]))
    for row, powers in enumerate(exponents.T):
        for entry, (first, second) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]):
            reduced = powers.copy()
            factor = reduced[first]
            reduced[first] -= 1
            factor = factor * reduced[second]
            reduced[second] -= 1
            if factor > 0:
                derivative[row, entry, place[tuple(reduced.tolist())]] = factor
    return to_polynomial.T @ derivative.reshape(len(derivative), -1), lower


def _exponents(degree: int) -> Integers:
    """(3, monomials) the exponents of x, y, z of every monomial of that degree."""
    return np.array([(a, b, degree - a - b) for a in range(degree + 1) for b in range(degree + 1 - a)]).T


def _select(
    voxels: int,
    voxel: Integers,
    direction: Floats,
    amplitude: Floats,
    peaks: int,
    relative_threshold: float,
    minimum_angle: float,
) -> Floats:
    """The strongest maxima of each voxel that are strong and far enough, as vectors (voxels, peaks, 3)."""
    chosen = np.zeros((voxels, peaks, 3))
    if not voxel.size:
        return chosen
    order = np.lexsort((-amplitude, voxel))
    voxel, direction, amplitude = voxel[order], direction[order], amplitude[order]
    rank = np.arange(voxel.size) - np.searchsorted(voxel, voxel)
    largest = np.zeros(voxels)
    largest[voxel[rank == 0]] = amplitude[rank == 0]
    nearest = np.cos(np.radians(max(minimum_angle, DUPLICATE)))
    axes = np.zeros_like(chosen)
    count = np.zeros(voxels, np.int64)
    for turn in range(int(rank.max()) + 1):
        here = rank == turn
        where, axis, strength = voxel[here], _half_sphere(direction[here]), amplitude[here]
        closest = np.abs(np.einsum("npi,ni->np", axes[where], axis)).max(axis=1)
        keep = (count[where] < peaks) & (strength >= relative_threshold * largest[where]) & (closest < nearest)
        where, axis, strength = where[keep], axis[keep], strength[keep]
        axes[where, count[where]] = axis
        chosen[where, count[where]] = axis * strength[:, None]
        count[where] += 1
    return chosen


def _half_sphere(direction: Floats) -> Floats:
    """The same axes with z > 0; at z = 0 y > 0, then x > 0."""
    x, y, z = direction.T
    down = (z < 0) | ((z == 0) & ((y < 0) | ((y == 0) & (x < 0))))
    return np.where(down[:, None], -direction, direction) + 0.0
