"""Constrained spherical deconvolution, a voxel at a time; see `csd` for the formulation.

Symmetric matrices are packed: the columns of the lower triangle, one after the other. So what a direction adds to the
normal matrix is one sum of two vectors, and the columns that a Cholesky step updates lie in a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.compiled import compiled

Floats = NDArray[np.float64]


@compiled
def deconvolve(
    signals: Floats,
    fods: Floats,
    start: Floats,
    forward: Floats,
    normal: Floats,
    amplitudes: Floats,
    products: Floats,
    every_product: Floats,
    most_rounds: int,
) -> None:
    """Write the FODs (voxels, coefficients) of signals (voxels, n) to `fods`.

    `start` and `forward` (n, coefficients) give the first solution and the right side; `normal` (packed) is the
    unconstrained normal matrix; `amplitudes` (coefficients, directions) gives the weighted amplitudes of a FOD,
    `products` (directions, packed) what each direction adds to the normal matrix where its amplitude is negative, and
    `every_product` (packed) their sum.

    A voxel is done when the set of its negative directions stays as it was, mostly after four or five rounds, or
    after `most_rounds`.
    """
    size, directions = amplitudes.shape
    right, solution, amplitude = np.empty(size), np.empty(size), np.empty(directions)
    is_negative = np.empty(directions, np.bool_)
    matrix, factor = np.empty_like(normal), np.empty_like(normal)
    for voxel in range(len(signals)):
        solution[:] = 0.0
        right[:] = 0.0
        for volume in range(signals.shape[1]):
            value = signals[voxel, volume]
            for column in range(size):
                solution[column] += value * start[volume, column]
            for column in range(size):
                right[column] += value * forward[volume, column]
        _amplitudes(solution, amplitudes, amplitude)
        negative = 0
        for direction in range(directions):
            is_negative[direction] = amplitude[direction] < 0
            negative += is_negative[direction]
        # From whichever end is nearer.
        many = 2 * negative > directions
        matrix[:] = normal
        if many:
            matrix += every_product
        for direction in range(directions):
            if many and not is_negative[direction]:
                matrix -= products[direction]
            elif not many and is_negative[direction]:
                matrix += products[direction]
        for _ in range(most_rounds):
            _solve(matrix, factor, right, solution)
            _amplitudes(solution, amplitudes, amplitude)
            changed = False
            for direction in range(directions):
                now = amplitude[direction] < 0
                if now != is_negative[direction]:
                    is_negative[direction] = now
                    changed = True
                    if now:
                        matrix += products[direction]
                    else:
                        matrix -= products[direction]
            if not changed:
                break
        fods[voxel] = solution


@compiled
def _amplitudes(solution: Floats, amplitudes: Floats, amplitude: Floats) -> None:
    amplitude[:] = 0.0
    for column in range(solution.size):
        value = solution[column]
        for direction in range(amplitude.size):
            amplitude[direction] += value * amplitudes[column, direction]


@compiled
def _solve(matrix: Floats, factor: Floats, right: Floats, solution: Floats) -> None:
    """Solve matrix solution = right by Cholesky's factor, which is written to `factor`."""
    size = right.size
    factor[:] = matrix
    solution[:] = right
    first = 0
    for column in range(size):
        here = factor[first : first + size - column]
        inverse = 1 / np.sqrt(here[0])
        for row in range(here.size):
            here[row] *= inverse
        first += here.size
        target = first
        for later in range(1, here.size):
            below = here[later:]
            other = factor[target : target + below.size]
            value = below[0]
            for row in range(below.size):
                other[row] -= value * below[row]
            target += below.size
        rest = solution[column:]
        rest[0] *= inverse
        value = rest[0]
        for row in range(1, rest.size):
            rest[row] -= value * here[row]
    for column in range(size - 1, -1, -1):
        first -= size - column
        here = factor[first : first + size - column]
        rest = solution[column:]
        value = rest[0]
        for row in range(1, rest.size):
            value -= here[row] * rest[row]
        rest[0] = value / here[0]
