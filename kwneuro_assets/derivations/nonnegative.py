"""Least squares under many inequalities that all voxels share, a voxel at a time.

Minimise |A x - b|^2 over C x >= 0. The multipliers of the inequalities are the solution of a problem with the simplest
of constraints, non-negative least squares with the Gram matrix C H^-1 C', where H = A'A (Lawson and Hanson, Solving
Least Squares Problems, 1974, chapter 23; their LDP). It is solved by their active set. As supports are large here and
change often, the triangular factor of the support loses a column by Givens rotations (Golub and Van Loan, Matrix
Computations, section 6.5.2) instead of being made anew.

All that is compiled stands in this one file: see `compiled`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.compiled import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

INDEPENDENT = 1e-12  # least share of a row's square that the support must leave unexplained: float64's rounding
SOLVED = 1e-9  # violation, as a share of the largest without constraints, that counts as none
MOST_STEPS = 5  # times the number of inequalities: far above what voxels take


@compiled
def fit_constrained(
    signals: Floats, solutions: Floats, inverse: Floats, amplitudes: Floats, effects: Floats, gram: Floats
) -> None:
    """Write the solutions (voxels, unknowns) for signals (voxels, n) to `solutions`.

    `inverse` (n, unknowns) takes signals to the solution without constraints; `amplitudes` (unknowns, m) gives what
    must not be negative; `effects` (m, unknowns) is what the multiplier of each adds to the solution, and `gram`
    (m, m) what it adds to the amplitudes, scaled to a diagonal of one.
    """
    unknowns, constraints = amplitudes.shape
    right, multipliers = np.empty(constraints), np.empty(constraints)
    support = np.empty(constraints, np.int64)
    factor, work = np.empty((unknowns, unknowns)), np.empty((4, constraints))
    for voxel in range(signals.shape[0]):
        solution = solutions[voxel]
        solution[:] = 0.0
        right[:] = 0.0
        for volume in range(signals.shape[1]):
            value = signals[voxel, volume]
            for unknown in range(unknowns):
                solution[unknown] += value * inverse[volume, unknown]
        for unknown in range(unknowns):
            value = solution[unknown]
            for constraint in range(constraints):
                right[constraint] -= value * amplitudes[unknown, constraint]
        count = solve_multipliers(gram, right, multipliers, support, factor, work)
        for place in range(count):
            constraint = support[place]
            value = multipliers[constraint]
            for unknown in range(unknowns):
                solution[unknown] += value * effects[constraint, unknown]


@compiled
def solve_multipliers(gram: Floats, right: Floats, x: Floats, support: Integers, factor: Floats, work: Floats) -> int:
    """Minimise x' gram x / 2 - right' x over x >= 0, and return how many coefficients are positive.

    `gram` (m, m) is symmetric and positive semidefinite, with ones on its diagonal and a rank of at most r. `x` (m,)
    takes the solution and `support` (m,), first of all, the indices of the positive coefficients. `factor` (r, r) and
    `work` (4, m) are scratch.
    """
    size, rank = right.size, factor.shape[0]
    gradient, forward, trial, barred = work[0], work[1], work[2], work[3]
    largest = 0.0
    for atom in range(size):
        x[atom] = 0.0
        barred[atom] = 0.0
        gradient[atom] = right[atom]
        largest = max(largest, right[atom])
    tolerance = SOLVED * largest
    count = 0
    for _ in range(MOST_STEPS * size):
        best, steepest = -1, tolerance
        for atom in range(size):
            if gradient[atom] > steepest and barred[atom] == 0.0:
                best, steepest = atom, gradient[atom]
        if best < 0 or count == rank:
            break
        support[count] = best
        barred[best] = 1.0
        if not _extend(gram, right, support, count, factor, forward):
            continue
        count += 1
        _back(factor, forward, count, trial)
        while True:
            step, blocking = 1.0, -1
            for place in range(count):
                if trial[place] <= 0.0:
                    start = x[support[place]]
                    share = start / (start - trial[place]) if start > 0.0 else 0.0
                    if share < step or blocking < 0:
                        step, blocking = share, place
            if blocking < 0:
                break
            for place in range(count):
                atom = support[place]
                x[atom] += step * (trial[place] - x[atom])
            x[support[blocking]] = 0.0
            for place in range(count - 1, -1, -1):
                if trial[place] <= 0.0 and x[support[place]] <= 0.0:
                    x[support[place]] = 0.0
                    _remove(support, place, count, factor, forward)
                    count -= 1
            _back(factor, forward, count, trial)
        for atom in range(size):
            gradient[atom] = right[atom]
            barred[atom] = 0.0
        for place in range(count):
            atom, value = support[place], trial[place]
            x[atom] = value
            for other in range(size):
                gradient[other] -= value * gram[atom, other]
        for place in range(count):
            barred[support[place]] = 1.0
    return count


@compiled
def _extend(gram: Floats, right: Floats, support: Integers, count: int, factor: Floats, forward: Floats) -> bool:
    """Take the atom at support[count] into the upper factor and the forward solution; False where it depends."""
    atom = support[count]
    column = np.empty(count + 1)
    for row in range(count):
        column[row] = gram[atom, support[row]]
    left, value = gram[atom, atom], right[atom]
    for row in range(count):
        here = column[row] / factor[row, row]
        column[row] = here
        left -= here * here
        value -= here * forward[row]
        rest, entries = column[row + 1 : count], factor[row, row + 1 : count]
        for later in range(rest.size):
            rest[later] -= here * entries[later]
    if not left > INDEPENDENT * gram[atom, atom]:
        return False
    for row in range(count):
        factor[row, count] = column[row]
    factor[count, count] = np.sqrt(left)
    forward[count] = value / factor[count, count]
    return True


@compiled
def _remove(support: Integers, place: int, count: int, factor: Floats, forward: Floats) -> None:
    """Take the atom at `place` out of the support of `count`, its factor and the forward solution."""
    for later in range(place, count - 1):
        support[later] = support[later + 1]
    for row in range(count):
        here = factor[row]
        for column in range(max(place, row - 1), count - 1):
            here[column] = here[column + 1]
    for row in range(place, count - 1):
        # The next row's diagonal stands below this one's now: turn it up.
        upper, lower = factor[row, row : count - 1], factor[row + 1, row : count - 1]
        length = np.sqrt(upper[0] * upper[0] + lower[0] * lower[0])
        cosine, sine = upper[0] / length, lower[0] / length
        for column in range(upper.size):
            above, below = upper[column], lower[column]
            upper[column] = cosine * above + sine * below
            lower[column] = cosine * below - sine * above
        above, below = forward[row], forward[row + 1]
        forward[row], forward[row + 1] = cosine * above + sine * below, cosine * below - sine * above


@compiled
def _back(factor: Floats, forward: Floats, count: int, solution: Floats) -> None:
    """Solve factor solution = forward."""
    for row in range(count - 1, -1, -1):
        known, entries = solution[row + 1 : count], factor[row, row + 1 : count]
        # Sums beside each other, as the compiler must not reorder one.
        first, second, third, fourth = 0.0, 0.0, 0.0, 0.0
        whole = known.size - known.size % 4
        for column in range(0, whole, 4):
            first += entries[column] * known[column]
            second += entries[column + 1] * known[column + 1]
            third += entries[column + 2] * known[column + 2]
            fourth += entries[column + 3] * known[column + 3]
        for column in range(whole, known.size):
            first += entries[column] * known[column]
        solution[row] = (forward[row] - (first + second + (third + fourth))) / factor[row, row]
