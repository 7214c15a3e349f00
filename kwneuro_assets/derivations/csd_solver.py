"""The compiled solver of constrained spherical deconvolution, voxel by voxel; see `csd` for the formulation.

Only the lower triangle of a symmetric matrix is used. Matrices are padded to a multiple of four rows, with ones on the
diagonal, and updated with four rows at a time (of the constraint or of a Cholesky factor). Each number is therefore
loaded and stored once for four products, and the data of a voxel fit in the cache of a core, unlike the products of all
directions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.compiled import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

TOGETHER = 4  # rows that `_add` adds at a time; sizes are padded to a multiple of it


@compiled
def deconvolve(
    right_sides: Floats,
    first_negative: Booleans,
    fods: Floats,
    unconstrained: Floats,
    constrained: Floats,
    rows: Floats,
    columns: Floats,
    max_rounds: int,
) -> None:
    """Writes the FODs (voxels, coefficients) to `fods`.

    `right_sides` (voxels, size) are the right sides of the normal equations; size is the number of coefficients, padded
    with zeros to a multiple of four. `first_negative` (voxels, directions) is the first set of negative directions.
    `unconstrained` and `constrained` (size, size) are the normal matrices without constraints and with those of all
    directions. `rows` (directions, size) and its transpose `columns` compute the weighted amplitudes of an FOD.

    The solver stops when the set of negative directions does not change, or after `max_rounds`.
    """
    directions, size = rows.shape
    coefficients = fods.shape[1]
    matrix, factor = np.empty((size, size)), np.empty((size, size))
    solution, inverses, amplitude = np.empty(size), np.empty(size), np.empty(directions)
    is_negative = np.empty(directions, np.bool_)
    changed, weights = np.empty(directions + TOGETHER, np.int64), np.empty(directions + TOGETHER)
    for voxel in range(len(fods)):
        negative = 0
        for direction in range(directions):
            amplitude[direction] = -1.0 if first_negative[voxel, direction] else 1.0
            negative += first_negative[voxel, direction]
        # Start from the matrix that needs fewer updates.
        many = 2 * negative > directions
        is_negative[:] = many
        matrix[:] = constrained if many else unconstrained
        for iteration in range(max_rounds + 1):
            count = 0
            for direction in range(directions):
                now = amplitude[direction] < 0
                if now != is_negative[direction]:
                    is_negative[direction] = now
                    changed[count] = direction
                    weights[count] = 1.0 if now else -1.0
                    count += 1
            if iteration == max_rounds or (iteration > 0 and count == 0):
                break
            changed[count : count + TOGETHER] = 0
            weights[count : count + TOGETHER] = 0.0
            for start in range(0, count, TOGETHER):
                _add(matrix, size, rows, changed[start : start + TOGETHER], weights[start : start + TOGETHER])
            factor[:] = matrix
            _factorize(factor, inverses)
            solution[:] = right_sides[voxel]
            _solve(factor, inverses, solution)
            _amplitudes(solution, columns, amplitude)
        fods[voxel] = solution[:coefficients]


@compiled
def _amplitudes(solution: Floats, columns: Floats, amplitude: Floats) -> None:
    amplitude[:] = 0.0
    for column in range(0, solution.size, TOGETHER):
        one, two, three, four = solution[column], solution[column + 1], solution[column + 2], solution[column + 3]
        first, second, third, fourth = columns[column], columns[column + 1], columns[column + 2], columns[column + 3]
        for place in range(amplitude.size):
            amplitude[place] += (one * first[place] + two * second[place]) + (
                three * third[place] + four * fourth[place]
            )


@compiled
def _add(matrix: Floats, size: int, rows: Floats, chosen: Integers, weights: Floats) -> None:
    """Adds the outer products of four chosen rows, times their weights, to the first `size` rows of `matrix`."""
    first, second, third, fourth = rows[chosen[0]], rows[chosen[1]], rows[chosen[2]], rows[chosen[3]]
    for row in range(size):
        target = matrix[row]
        one, two = weights[0] * first[row], weights[1] * second[row]
        three, four = weights[2] * third[row], weights[3] * fourth[row]
        # Up to the end of the 4 x 4 block: the compiler then adds full vectors.
        for column in range(row // TOGETHER * TOGETHER + TOGETHER):
            target[column] += (one * first[column] + two * second[column]) + (
                three * third[column] + four * fourth[column]
            )


@compiled
def _factorize(matrix: Floats, inverses: Floats) -> None:
    """Replaces `matrix` by the lower triangular F with F'F = matrix; writes the inverse of its diagonal to `inverses`.

    This is the Cholesky factor computed from the last row to the first, so that all loops begin at the start of a row.
    """
    chosen, weights = np.empty(TOGETHER, np.int64), np.full(TOGETHER, -1.0)
    for start in range(len(matrix) - TOGETHER, -1, -TOGETHER):
        first, second, third, fourth = matrix[start + 3], matrix[start + 2], matrix[start + 1], matrix[start]
        # The factor of the 4 x 4 block, then the rest of its rows in one loop.
        one = 1 / np.sqrt(first[start + 3])
        a, b, c = first[start + 2] * one, first[start + 1] * one, first[start] * one
        two = 1 / np.sqrt(second[start + 2] - a * a)
        d, e = (second[start + 1] - a * b) * two, (second[start] - a * c) * two
        three = 1 / np.sqrt(third[start + 1] - b * b - d * d)
        f = (third[start] - b * c - d * e) * three
        four = 1 / np.sqrt(fourth[start] - c * c - e * e - f * f)
        for column in range(start + TOGETHER):
            w = first[column] * one
            x = (second[column] - a * w) * two
            y = (third[column] - b * w - d * x) * three
            first[column], second[column], third[column] = w, x, y
            fourth[column] = (fourth[column] - c * w - e * x - f * y) * four
        inverses[start], inverses[start + 1], inverses[start + 2], inverses[start + 3] = four, three, two, one
        for place in range(TOGETHER):
            chosen[place] = start + place
        _add(matrix, start, matrix, chosen, weights)


@compiled
def _solve(factor: Floats, inverses: Floats, solution: Floats) -> None:
    """Replaces the right side in `solution` by the solution of factor' factor solution = right side."""
    size = solution.size
    for row in range(size - 1, -1, -1):
        solution[row] *= inverses[row]
        value, entries = solution[row], factor[row]
        for column in range(row):
            solution[column] -= value * entries[column]
    for row in range(size):
        entries = factor[row]
        # Four independent sums, because the compiler must not reorder a single one.
        one, two, three, four = 0.0, 0.0, 0.0, 0.0
        unrolled = row - row % TOGETHER
        for column in range(0, unrolled, TOGETHER):
            one += entries[column] * solution[column]
            two += entries[column + 1] * solution[column + 1]
            three += entries[column + 2] * solution[column + 2]
            four += entries[column + 3] * solution[column + 3]
        for column in range(unrolled, row):
            one += entries[column] * solution[column]
        solution[row] = (solution[row] - ((one + two) + (three + four))) * inverses[row]
