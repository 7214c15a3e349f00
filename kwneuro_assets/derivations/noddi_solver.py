"""AMICO's three fits of NODDI (Daducci et al., NeuroImage 105, 2015), for the voxels of one direction.

Their dictionary is the same, and so are its Gram matrices. Each fit is least squares with coefficients that are not
negative, by Lawson and Hanson's active set (Solving Least Squares Problems, 1974, chapter 23) in Gram form: a step
costs a product with the few columns of the support, and the Cholesky factor of these grows and shrinks with it
(Bro and de Jong, J. Chemometrics 11, 1997). An elastic net with coefficients that are not negative is one of these
problems, too: its linear penalty is taken from the right side, its quadratic one added to the diagonal.

All that is compiled stands in this one file: see `compiled`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.compiled import compiled

INDEPENDENT = 1e-13  # least share of an atom's square that the support must leave unexplained: float64's rounding
SOLVED = 1e-12  # gradient, as a share of the largest of the right side, that counts as zero
MOST_STEPS = 3  # times the number of atoms: Lawson and Hanson's own bound, far above what problems take
NEVER_ZERO = 1e-16  # AMICO's: added to a sum that is divided by


@compiled
def fit_voxels(
    signals: NDArray[np.float64],
    estimates: NDArray[np.float64],
    dictionary: NDArray[np.float64],
    unweighted: int,
    gram: NDArray[np.float64],
    penalised_gram: NDArray[np.float64],
    water: NDArray[np.float64],
    scale: NDArray[np.float64],
    penalty: float,
    densities: NDArray[np.float64],
    concentrations: NDArray[np.float64],
) -> None:
    """Fit signals (voxels, n), the first `unweighted` of them b=0, and write NDI, ODI, FWF and RMSE to `estimates`.

    `dictionary` (n, atoms + 1) has the atoms as columns, free water last; `gram` is its Gram matrix; `water`
    (atoms + 1,) its weighted part's products with free water. `penalised_gram` (atoms, atoms) is that of the
    weighted part of the atoms, each times its `scale`, with the quadratic penalty on its diagonal; `penalty` is the
    linear one. `densities` and `concentrations` (atoms,) are what the atoms stand for.

    1. Non-negative least squares for the share of free water, whose signal is taken away.
    2. The elastic net of what is left, for the few atoms that explain it.
    3. Non-negative least squares with these and free water, without a penalty.
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
            if left < 0.0:  # what is left of a signal is not negative
                for atom in range(atoms):
                    weighted[atom] -= left * dictionary[volume, atom]
        for atom in range(atoms):
            weighted[atom] = weighted[atom] * scale[atom] - penalty
        count = solve_nonnegative(penalised_gram, weighted[:atoms], x[:atoms], support, factor, work)

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
            share = fractions[place] / total / neurites
            density += densities[chosen[place]] * share
            concentration += concentrations[chosen[place]] * share
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
    """Minimise x' gram x / 2 - right' x over x >= 0, and return how many coefficients are positive.

    `gram` (m, m) is symmetric and positive semidefinite in its exact form; an atom that depends on those in the
    support, up to rounding, stays out. `x` (m,) takes the solution and `support` (m,), first of all, the indices of
    the positive coefficients in ascending order of joining. `factor` (m, m) and `work` (4, m) are scratch.
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
    for _ in range(MOST_STEPS * atoms):
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
                    share = before / (before - trial[place])
                    if share < step or blocking < 0:
                        step, blocking = share, place
            if blocking < 0:
                break
            for place in range(count):
                atom = support[place]
                x[atom] += step * (trial[place] - x[atom])
            x[support[blocking]] = 0.0
            kept = 0
            first = count
            for place in range(count):
                atom = support[place]
                if x[atom] > 0.0:
                    support[kept] = atom
                    kept += 1
                else:
                    x[atom] = 0.0
                    first = min(first, place)
            count = first
            while count < kept:
                # A part of a support that was independent is so too, but for rounding.
                if _extend(gram, right, support, count, factor, forward):
                    count += 1
                else:
                    x[support[count]] = 0.0
                    kept -= 1
                    for place in range(count, kept):
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
    """Take the atom at support[count] into the Cholesky factor and the forward solution; False where it depends."""
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
    """Solve factor' solution = forward."""
    for row in range(count - 1, -1, -1):
        value = forward[row]
        for below in range(row + 1, count):
            value -= factor[below, row] * solution[below]
        solution[row] = value / factor[row, row]
