"""The compiled search for maxima of functions on the sphere, voxel by voxel; see `peaks` for the formulation.

All compiled functions are in this file: see `compiled`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.compiled import compiled

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

LONGEST_STEP = 0.05  # radians, about half the spacing of the grid, so that a step does not reach another maximum
CONVERGED = 1e-6  # radians
MAX_STEPS = 50
FLAT = 1e-6  # curvature divided by amplitude; a flatter maximum is rounding


@compiled
def climb_and_select(
    on_grid: Singles,
    directions: Floats,
    neighbors: Integers,
    hessians: Floats,
    degree: int,
    relative_threshold: float,
    max_cosine: float,
    vectors: Floats,
) -> None:
    """Writes the peaks of each voxel, strongest first, to `vectors` (voxels, peaks, 3), which must be zero.

    `on_grid` (voxels, grid) are the amplitudes at the unit vectors `directions` (grid, 3), each with its `neighbors`
    (grid, n). `hessians` (voxels, monomials, 6) are the second derivatives xx, xy, xz, yy, yz, zz as polynomials of
    `degree`. Excludes maxima below `relative_threshold` of the strongest, and those for which the cosine of the angle
    to a stronger one exceeds `max_cosine`.
    """
    grid = on_grid.shape[1]
    found, heights = np.empty((grid, 3)), np.empty(grid)
    for voxel in range(len(on_grid)):
        values = on_grid[voxel]
        largest = values[0]
        for place in range(grid):
            largest = max(largest, values[place])
        # No peak is three degrees off the grid, so the amplitude there exceeds half of its height.
        minimum = max(0.5 * relative_threshold * largest, 0.0)
        count = 0
        for place in range(grid):
            if values[place] > minimum and _is_highest(values, place, neighbors[place]):
                direction = found[count]
                direction[:] = directions[place]
                height, is_maximum = _climb(hessians[voxel], degree, direction)
                if is_maximum:
                    heights[count] = height
                    count += 1
        _select(found[:count], heights[:count], relative_threshold, max_cosine, vectors[voxel])


@compiled
def _is_highest(values: Singles, place: int, neighbors: Integers) -> bool:
    for other in neighbors:
        # Of equal neighbors the first is the maximum, so that a ridge of two grid points is found.
        if values[other] > values[place] or (values[other] == values[place] and other < place):
            return False
    return True


@compiled
def _climb(hessian: Floats, degree: int, u: Floats) -> tuple[float, bool]:
    """Moves the unit vector `u` by Newton's method; returns the amplitude there, and whether it is a maximum."""
    order = degree + 2
    powers = np.ones((3, degree + 1))
    value, is_maximum = 0.0, False
    for _ in range(MAX_STEPS):
        x, y, z = u[0], u[1], u[2]
        xx, xy, xz, yy, yz, zz = _second_derivatives(hessian, degree, u, powers)
        slope_x = (xx * x + xy * y + xz * z) / (order - 1)
        slope_y = (xy * x + yy * y + yz * z) / (order - 1)
        slope_z = (xz * x + yz * y + zz * z) / (order - 1)
        value = (slope_x * x + slope_y * y + slope_z * z) / order
        # p and q, an orthonormal basis of the tangent plane at u; p is computed from the axis farthest from u.
        if abs(x) <= abs(y) and abs(x) <= abs(z):
            length = np.sqrt(y * y + z * z)
            px, py, pz = 0.0, z / length, -y / length
        elif abs(y) <= abs(z):
            length = np.sqrt(x * x + z * z)
            px, py, pz = -z / length, 0.0, x / length
        else:
            length = np.sqrt(x * x + y * y)
            px, py, pz = y / length, -x / length, 0.0
        qx, qy, qz = y * pz - z * py, z * px - x * pz, x * py - y * px
        hx, hy, hz = xx * px + xy * py + xz * pz, xy * px + yy * py + yz * pz, xz * px + yz * py + zz * pz
        gx, gy, gz = xx * qx + xy * qy + xz * qz, xy * qx + yy * qy + yz * qz, xz * qx + yz * qy + zz * qz
        # On the sphere, the radial derivative, order * value, is subtracted from the curvature of great circles.
        a = px * hx + py * hy + pz * hz - order * value
        b = px * gx + py * gy + pz * gz
        c = qx * gx + qy * gy + qz * gz - order * value
        spread = np.sqrt((a - c) * (a - c) / 4 + b * b)
        curvature = (a + c) / 2 + spread
        is_maximum = value > 0 and curvature < -FLAT * value
        # If the Hessian is not negative definite, shift it until it is, so that the step goes upward.
        shift = max(curvature + 0.1 * spread, 0.0)
        a, c = a - shift, c - shift
        determinant = a * c - b * b
        if not determinant > 0:
            break
        along_p, along_q = slope_x * px + slope_y * py + slope_z * pz, slope_x * qx + slope_y * qy + slope_z * qz
        step_p, step_q = (b * along_q - c * along_p) / determinant, (b * along_p - a * along_q) / determinant
        length = np.sqrt(step_p * step_p + step_q * step_q)
        if length > LONGEST_STEP:
            step_p, step_q = step_p * LONGEST_STEP / length, step_q * LONGEST_STEP / length
        x, y, z = x + step_p * px + step_q * qx, y + step_p * py + step_q * qy, z + step_p * pz + step_q * qz
        norm = np.sqrt(x * x + y * y + z * z)
        u[0], u[1], u[2] = x / norm, y / norm, z / norm
        if length <= CONVERGED:
            break
    return value, is_maximum


@compiled
def _second_derivatives(
    hessian: Floats, degree: int, u: Floats, powers: Floats
) -> tuple[float, float, float, float, float, float]:
    """xx, xy, xz, yy, yz and zz at `u`; `powers` (3, degree + 1) is a scratch array whose first column is ones."""
    for axis in range(3):
        for power in range(degree):
            powers[axis, power + 1] = powers[axis, power] * u[axis]
    xx, xy, xz, yy, yz, zz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    term = 0
    for first in range(degree + 1):
        for second in range(degree + 1 - first):
            monomial = powers[0, first] * powers[1, second] * powers[2, degree - first - second]
            of_term = hessian[term]
            xx += of_term[0] * monomial
            xy += of_term[1] * monomial
            xz += of_term[2] * monomial
            yy += of_term[3] * monomial
            yz += of_term[4] * monomial
            zz += of_term[5] * monomial
            term += 1
    return xx, xy, xz, yy, yz, zz


@compiled
def _select(found: Floats, heights: Floats, relative_threshold: float, max_cosine: float, vectors: Floats) -> None:
    """Writes the strongest of the maxima along `found` (n, 3) to `vectors` (peaks, 3), as `climb_and_select`.

    Overwrites `heights` (n,).
    """
    count, minimum = 0, 0.0
    axes = np.empty_like(vectors)
    for candidate in range(heights.size):
        best = 0
        for place in range(heights.size):
            if heights[place] > heights[best]:
                best = place
        height, axis = heights[best], found[best]
        heights[best] = -1.0
        if candidate == 0:
            minimum = relative_threshold * height
        if height < minimum or count == len(vectors):
            break
        is_new = True
        for other in range(count):
            cosine = axis[0] * axes[other, 0] + axis[1] * axes[other, 1] + axis[2] * axes[other, 2]
            is_new = is_new and abs(cosine) < max_cosine
        if is_new:
            is_down = axis[2] < 0 or (axis[2] == 0 and (axis[1] < 0 or (axis[1] == 0 and axis[0] < 0)))
            for column in range(3):
                axes[count, column] = axis[column]
                # Adding zero avoids negative zeros.
                vectors[count, column] = (-height if is_down else height) * axis[column] + 0.0
            count += 1
