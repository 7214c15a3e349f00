"""AMICO's three NODDI fits (Daducci et al., NeuroImage 105, 2015), for voxels with the same fiber direction.

These voxels have the same dictionary and Gram matrices. Each fit is non-negative least squares, solved with the active
set of Lawson and Hanson (Solving Least Squares Problems, 1974, chapter 23) in Gram form: a step costs a product with
the few columns of the support, whose Cholesky factor grows and shrinks with it (Bro and de Jong, J. Chemometrics 11,
1997). A non-negative elastic net is the same problem: its linear penalty is subtracted from the right side, and its
quadratic penalty is added to the diagonal.

All compiled functions are in this file: see `compiled`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.compiled import compiled

INDEPENDENT = (
    1e-13  # minimum fraction of an atom's square norm that the support leaves unexplained: rounding of float64
)
SOLVED = 1e-12  # gradient that counts as zero, relative to the maximum of the right side
MAX_STEPS = 3  # times the number of atoms: Lawson and Hanson's bound, far above the steps needed
NEVER_ZERO = 1e-16  # AMICO's: added to a divisor


@compiled
def fit_voxels(
    signals: NDArray[np.float64],
    estimates: NDArray[np.float64],
    dictionary: NDArray[np.float64],
    unweighted: int,
    gram: NDArray[np.float64],
    penalized_gram: NDArray[np.float64],
    water: NDArray[np.float64],
    scale: NDArray[np.float64],
    penalty: float,
    densities: NDArray[np.float64],
    concentrations: NDArray[np.float64],
) -> None:
    """Fits signals (voxels, n), of which the first `unweighted` are b=0; writes NDI, ODI, FWF and RMSE to `estimates`.

    `dictionary` (n, atoms + 1) has the atoms as columns, free water last, and `gram` is its Gram matrix. `water`
    (atoms + 1,) holds the products of its weighted rows with free water. `penalized_gram` (atoms, atoms) is the Gram
    matrix of the weighted rows of the atoms, each multiplied by its `scale`, with the quadratic penalty on the
    diagonal; `penalty` is the linear one. `densities` and `concentrations` (atoms,) are the NDI and kappa of the atoms.

    1. Non-negative least squares for the amount of free water, whose signal is subtracted.
    2. An elastic net on the residual, which selects a few atoms.
    3. Non-negative least squares with these atoms and free water, without a penalty.
    """
    size = gram.shape[0]
    atoms = size - 1
    x, right, weighted = np.empty(size), np.empty(size), np.empty(size)
    support, chosen = np.empty(size, np.int64), np.empty(size, np.int64)
    factor, work, small = np.empty((size, size)), np.empty((4, size)), np.empty((size, size))
    fractions = np.empty(size)
    for voxel in range(signals.shape[0]):
        signal = signals[voxel]
        weighted[:] = 0.0
        for volume in range(unweighted, signal.size):
            value = signal[volume]
            for atom in range(size):
                weighted[atom] += value * dictionary[volume, atom]
        right[:] = weighted
        for volume in range(unweighted):
            value = signal[volume]
            for atom in range(size):
                right[atom] += value * dictionary[volume, atom]
        solve_nonnegative(gram, right, x, support, factor, work)

        free = x[atoms]
        for atom in range(atoms):
            weighted[atom] -= free * water[atom]
        for volume in range(unweighted, signal.size):
            left = signal[volume] - free * dictionary[volume, atoms]
            if left < 0.0:  # the residual signal is clipped at zero
                for atom in range(atoms):
                    weighted[atom] -= left * dictionary[volume, atom]
        for atom in range(atoms):
            weighted[atom] = weighted[atom] * scale[atom] - penalty
        count = solve_nonnegative(penalized_gram, weighted[:atoms], x[:atoms], support, factor, work)

        chosen[:count] = np.sort(support[:count])
        chosen[count] = atoms
        count += 1
        for row in range(count):
            weighted[row] = right[chosen[row]]
            for column in range(count):
                small[row, column] = gram[chosen[row], chosen[column]]
        solve_nonnegative(small[:count, :count], weighted[:count], fractions[:count], support, factor, work)

        total = NEVER_ZERO
        for place in range(count):
            total += fractions[place]
        neurites, density, concentration = NEVER_ZERO, 0.0, 0.0
        for place in range(count - 1):
            neurites += fractions[place] / total
        for place in range(count - 1):
            fraction = fractions[place] / total / neurites
            density += densities[chosen[place]] * fraction
            concentration += concentrations[chosen[place]] * fraction
        squares = 0.0
        for volume in range(signal.size):
            error = signal[volume]
            for place in range(count):
                error -= fractions[place] * dictionary[volume, chosen[place]]
            squares += error * error
        estimates[voxel, 0] = density
        estimates[voxel, 1] = 2.0 / math.pi * math.atan2(1.0, concentration)
        estimates[voxel, 2] = fractions[count - 1] / total
        estimates[voxel, 3] = math.sqrt(squares / signal.size)


@compiled
def solve_nonnegative(
    gram: NDArray[np.float64],
    right: NDArray[np.float64],
    x: NDArray[np.float64],
    support: NDArray[np.int64],
    factor: NDArray[np.float64],
    work: NDArray[np.float64],
) -> int:
    """Minimizes x' gram x / 2 - right' x over x >= 0; returns the number of positive coefficients.

    `gram` (m, m) is symmetric and positive semidefinite up to rounding; an atom that depends on those in the support is
    not used. Writes the solution to `x` (m,), and the indices of the positive coefficients to the start of `support`
    (m,), in the order in which they were added. `factor` (m, m) and `work` (4, m) are scratch arrays.
    """
    atoms = right.size
    gradient, forward, trial, barred = work[0], work[1], work[2], work[3]
    largest = 0.0
    for atom in range(atoms):
        x[atom] = 0.0
        barred[atom] = 0.0
        gradient[atom] = right[atom]
        largest = max(largest, abs(right[atom]))
    tolerance = SOLVED * largest
    count = 0
    for _ in range(MAX_STEPS * atoms):
        best, steepest = -1, tolerance
        for atom in range(atoms):
            if gradient[atom] > steepest and x[atom] == 0.0 and barred[atom] == 0.0:
                best, steepest = atom, gradient[atom]
        if best < 0:
            break
        support[count] = best
        if not _extend(gram, right, support, count, factor, forward):
            barred[best] = 1.0
            continue
        _back(factor, forward, count + 1, trial)
        if trial[count] <= 0.0:  # by rounding alone: its gradient was positive
            barred[best] = 1.0
            continue
        count += 1
        while True:
            step, blocking = 1.0, -1
            for place in range(count):
                if trial[place] <= 0.0:
                    before = x[support[place]]
                    fraction = before / (before - trial[place])
                    if fraction < step or blocking < 0:
                        step, blocking = fraction, place
            if blocking < 0:
                break
            for place in range(count):
                atom = support[place]
                x[atom] += step * (trial[place] - x[atom])
            x[support[blocking]] = 0.0
            remaining = 0
            first = count
            for place in range(count):
                atom = support[place]
                if x[atom] > 0.0:
                    support[remaining] = atom
                    remaining += 1
                else:
                    x[atom] = 0.0
                    first = min(first, place)
            count = first
            while count < remaining:
                # Part of an independent support is independent, except for rounding.
                if _extend(gram, right, support, count, factor, forward):
                    count += 1
                else:
                    x[support[count]] = 0.0
                    remaining -= 1
                    for place in range(count, remaining):
                        support[place] = support[place + 1]
            _back(factor, forward, count, trial)
        for place in range(count):
            x[support[place]] = trial[place]
        for atom in range(atoms):
            gradient[atom] = right[atom]
            barred[atom] = 0.0
        for place in range(count):
            atom, value = support[place], x[support[place]]
            for other in range(atoms):
                gradient[other] -= value * gram[atom, other]
    return count


@compiled
def _extend(
    gram: NDArray[np.float64],
    right: NDArray[np.float64],
    support: NDArray[np.int64],
    count: int,
    factor: NDArray[np.float64],
    forward: NDArray[np.float64],
) -> bool:
    """Adds the atom at support[count] to the Cholesky factor and the forward solution; False if it is dependent."""
    atom = support[count]
    left = gram[atom, atom]
    for row in range(count):
        value = gram[atom, support[row]]
        for column in range(row):
            value -= factor[row, column] * factor[count, column]
        value /= factor[row, row]
        factor[count, row] = value
        left -= value * value
    if not left > INDEPENDENT * gram[atom, atom]:
        return False
    factor[count, count] = np.sqrt(left)
    value = right[atom]
    for column in range(count):
        value -= factor[count, column] * forward[column]
    forward[count] = value / factor[count, count]
    return True


@compiled
def _back(factor: NDArray[np.float64], forward: NDArray[np.float64], count: int, solution: NDArray[np.float64]) -> None:
    """Solves factor' solution = forward."""
    for row in range(count - 1, -1, -1):
        value = forward[row]
        for below in range(row + 1, count):
            value -= factor[below, row] * solution[below]
        solution[row] = value / factor[row, row]
