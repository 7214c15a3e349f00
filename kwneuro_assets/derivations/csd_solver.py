"""Constrained spherical deconvolution, a voxel at a time; see `csd` for the formulation.

Of symmetric matrices the lower triangle counts. They are padded to a multiple of four by ones on the diagonal, and four
rows at a time are added to them, those of the constraint or of a Cholesky factor. So a number is loaded and stored once
for four products, and all of this lies in a core's own memory, unlike the products of every direction.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.compiled import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

TOGETHER = 4  # rows, and the multiple that sizes are padded to: as `_add` has it


@compiled
def deconvolve(
    right_sides: Floats,
    first_negative: Booleans,
    fods: Floats,
    unconstrained: Floats,
    constrained: Floats,
    rows: Floats,
    columns: Floats,
    most_rounds: int,
) -> None:
    """Write the FODs (voxels, coefficients) to `fods`.

    `right_sides` (voxels, size) are those of the normal equations, where size is the number of coefficients padded
    with zeros to a multiple of four; `first_negative` (voxels, directions) is where the solution is thought to be
    negative. The normal matrices (size, size) without any constraint and with that of every direction are
    `unconstrained` and `constrained`; `rows` (directions, size) and its transpose `columns` give the weighted
    amplitudes of a FOD.

    A voxel is done when the set of its negative directions stays as it was, or after `most_rounds`.
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
        # From whichever end is nearer.
        many = 2 * negative > directions
        is_negative[:] = many
        matrix[:] = constrained if many else unconstrained
        for turn in range(most_rounds + 1):
            count = 0
            for direction in range(directions):
                now = amplitude[direction] < 0
                if now != is_negative[direction]:
                    is_negative[direction] = now
                    changed[count] = direction
                    weights[count] = 1.0 if now else -1.0
                    count += 1
            if turn == most_rounds or (turn > 0 and count == 0):
                break
            changed[count : count + TOGETHER] = 0
            weights[count : count + TOGETHER] = 0.0
            for start in range(0, count, TOGETHER):
                _add(matrix, size, rows, changed[start : start + TOGETHER], weights[start : start + TOGETHER])
            factor[:] = matrix
            _factorise(factor, inverses)
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
    """Add the outer products of four chosen rows, times their weights, to the first `size` rows of `matrix`."""
    first, second, third, fourth = rows[chosen[0]], rows[chosen[1]], rows[chosen[2]], rows[chosen[3]]
    for row in range(size):
        target = matrix[row]
        one, two = weights[0] * first[row], weights[1] * second[row]
        three, four = weights[2] * third[row], weights[3] * fourth[row]
        # To the end of the block of four by four, so that whole vectors are added.
        for column in range(row // TOGETHER * TOGETHER + TOGETHER):
            target[column] += (one * first[column] + two * second[column]) + (
                three * third[column] + four * fourth[column]
            )


@compiled
def _factorise(matrix: Floats, inverses: Floats) -> None:
    """Make of `matrix` the lower triangular F with F'F = matrix; `inverses` are those of its diagonal.

    That is Cholesky's factor from the last row to the first, by which all loops begin at the start of a row.
    """
    chosen, weights = np.empty(TOGETHER, np.int64), np.full(TOGETHER, -1.0)
    for start in range(len(matrix) - TOGETHER, -1, -TOGETHER):
        first, second, third, fourth = matrix[start + 3], matrix[start + 2], matrix[start + 1], matrix[start]
        # The factor of the block of four by four, then the rest of its rows in one go.
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
    """Make of the right side in `solution` the solution of factor' factor solution = right side."""
    size = solution.size
    for row in range(size - 1, -1, -1):
        solution[row] *= inverses[row]
        value, entries = solution[row], factor[row]
        for column in range(row):
            solution[column] -= value * entries[column]
    for row in range(size):
        entries = factor[row]
        # Sums beside each other, as the compiler must not reorder one.
        one, two, three, four = 0.0, 0.0, 0.0, 0.0
        whole = row - row % TOGETHER
        for column in range(0, whole, TOGETHER):
            one += entries[column] * solution[column]
            two += entries[column + 1] * solution[column + 1]
            three += entries[column + 2] * solution[column + 2]
            four += entries[column + 3] * solution[column + 3]
        for column in range(whole, row):
            one += entries[column] * solution[column]
        solution[row] = (solution[row] - ((one + two) + (three + four))) * inverses[row]
