"""Least squares with many inequality constraints that are the same in all voxels, voxel by voxel.

Minimizes |A x - b|^2 over C x >= 0. The multipliers of the inequalities solve a simpler problem: non-negative least
squares with the Gram matrix C H^-1 C', where H = A'A (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter
23, problem LDP). It is solved with their active set. Supports are large here, nearly dependent, and change often: for
each final member, three are added and two removed. What makes this fast:

- Instead of a triangular factor of the support's Gram matrix, whose solutions wait for one row after another, a root of
  its inverse is stored. Both solutions for a new member are products, and a member is removed by one Householder
  reflection (Golub and Van Loan, Matrix Computations, section 5.1.2). The transpose is stored, too, so that all loops
  run along rows.
- The gradient is computed for all inequalities only after several members were added, and for a few candidates between.
- At the end, one step of iterative refinement removes the rounding that has accumulated in the solution.

All compiled functions are in this file: see `compiled`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.compiled import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

INDEPENDENT = 1e-12  # minimum fraction of a row's square norm that the support leaves unexplained: rounding of float64
SOLVED = 1e-9  # violation that counts as zero, relative to the maximum without constraints
MAX_STEPS = 5  # times the number of inequalities: far above the steps needed
CANDIDATES = 4  # members added before the gradient is computed for all inequalities; 8 are not faster
WORTHWHILE = 0.3  # minimum gradient of a candidate, relative to the largest
REFINEMENTS = 3  # of the solution at most, if one changes the support
MATRICES, VECTORS = 2, 7  # scratch arrays of `solve_multipliers`


@compiled
def fit_constrained(
    signals: Floats, solutions: Floats, inverse: Floats, amplitudes: Floats, effects: Floats, gram: Floats
) -> None:
    """Writes the solutions (voxels, unknowns) for signals (voxels, n) to `solutions`.

    `inverse` (n, unknowns) maps signals to the solution without constraints; `amplitudes` (unknowns, m) maps the
    solution to the amplitudes that must not be negative. The multiplier of a constraint adds a row of `effects`
    (m, unknowns) to the solution, and a row of `gram` (m, m), whose diagonal is one, to the amplitudes.
    """
    unknowns, constraints = amplitudes.shape
    right, multipliers = np.empty(constraints), np.empty(constraints)
    support = np.empty(constraints, np.int64)
    matrices, work = np.empty((MATRICES, unknowns, unknowns)), np.empty((VECTORS, constraints))
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
        count = solve_multipliers(gram, right, multipliers, support, matrices, work)
        for place in range(count):
            constraint = support[place]
            value = multipliers[constraint]
            for unknown in range(unknowns):
                solution[unknown] += value * effects[constraint, unknown]


@compiled
def solve_multipliers(gram: Floats, right: Floats, x: Floats, support: Integers, matrices: Floats, work: Floats) -> int:
    """Minimizes x' gram x / 2 - right' x over x >= 0; returns the number of positive coefficients.

    `gram` (m, m) is symmetric and positive semidefinite, with ones on its diagonal and a rank of at most r. Writes the
    solution to `x` (m,), and the indices of the positive coefficients to the start of `support` (m,). `matrices`
    (MATRICES, r, r) and `work` (VECTORS, m) are scratch arrays.
    """
    size = right.size
    gradient, barred, now, trial = work[0], work[1], work[2], work[3]
    largest = 0.0
    for atom in range(size):
        largest = max(largest, right[atom])
    tolerance = SOLVED * largest
    count, refinements, is_refined = 0, 0, False
    for _ in range(MAX_STEPS * size):
        _gradient(gram, right, support, now, count, gradient)
        barred[:] = 0.0
        for place in range(count):
            barred[support[place]] = 1.0
        count, is_changed = _add_candidates(gram, right, support, count, tolerance, matrices, work)
        if is_changed:
            is_refined = False
            continue
        if is_refined or refinements == REFINEMENTS:
            break
        refinements += 1
        _refine(gradient, support, count, matrices, now, trial, work)
        before = count
        count = _make_feasible(support, count, matrices, now, trial, work)
        is_refined = count == before
    x[:] = 0.0
    for place in range(count):
        x[support[place]] = now[place]
    return count


@compiled
def _gradient(gram: Floats, right: Floats, support: Integers, now: Floats, count: int, gradient: Floats) -> None:
    """Writes right - gram x for the support's coefficients `now`; four rows at a time are loaded and stored once."""
    size = right.size
    gradient[:] = right
    together = count - count % 4
    for place in range(0, together, 4):
        a, b, c, d = now[place], now[place + 1], now[place + 2], now[place + 3]
        row_a, row_b = gram[support[place]], gram[support[place + 1]]
        row_c, row_d = gram[support[place + 2]], gram[support[place + 3]]
        for atom in range(size):
            gradient[atom] -= (a * row_a[atom] + b * row_b[atom]) + (c * row_c[atom] + d * row_d[atom])
    for place in range(together, count):
        a, row_a = now[place], gram[support[place]]
        for atom in range(size):
            gradient[atom] -= a * row_a[atom]


@compiled
def _add_candidates(
    gram: Floats,
    right: Floats,
    support: Integers,
    count: int,
    tolerance: float,
    matrices: Floats,
    work: Floats,
) -> tuple[int, bool]:
    """Adds the atoms of the largest gradients; returns the size of the support, and whether an atom was added."""
    rank = matrices.shape[1]
    gradient, barred, now, trial = work[0], work[1], work[2], work[3]
    candidates = np.empty(CANDIDATES, np.int64)
    is_changed = False
    while not is_changed:
        number = _steepest(gradient, barred, tolerance, candidates)
        if number == 0:
            break
        minimum = max(tolerance, WORTHWHILE * gradient[candidates[0]])
        while number > 0 and count < rank:
            best, steepest = -1, minimum
            for candidate in range(number):
                atom = candidates[candidate]
                if is_changed:
                    gradient[atom] = right[atom] - _product(gram[atom], support, now, count)
                if gradient[atom] > steepest:
                    best, steepest = candidate, gradient[atom]
            if best < 0:
                break
            atom = candidates[best]
            number -= 1
            candidates[best] = candidates[number]
            if _extend(gram[atom], atom, steepest, support, count, matrices, now, trial, work):
                count = _make_feasible(support, count + 1, matrices, now, trial, work)
                is_changed = True
        if count == rank:
            break
    return count, is_changed


@compiled
def _steepest(gradient: Floats, barred: Floats, tolerance: float, candidates: Integers) -> int:
    """Writes the atoms of the largest gradients, largest first, bars them, and returns their number."""
    number, minimum = 0, tolerance
    for atom in range(gradient.size):
        if not gradient[atom] > minimum or barred[atom] != 0.0:
            continue
        place = min(number, candidates.size - 1)
        while place > 0 and gradient[candidates[place - 1]] < gradient[atom]:
            candidates[place] = candidates[place - 1]
            place -= 1
        candidates[place] = atom
        number = min(number + 1, candidates.size)
        if number == candidates.size:
            minimum = gradient[candidates[number - 1]]
    for candidate in candidates[:number]:
        barred[candidate] = 1.0
    return number


@compiled
def _product(row: Floats, support: Integers, now: Floats, count: int) -> float:
    """The product of a row of the Gram matrix and the coefficients; four sums, because none may be reordered."""
    first, second, third, fourth = 0.0, 0.0, 0.0, 0.0
    together = count - count % 4
    for place in range(0, together, 4):
        first += row[support[place]] * now[place]
        second += row[support[place + 1]] * now[place + 1]
        third += row[support[place + 2]] * now[place + 2]
        fourth += row[support[place + 3]] * now[place + 3]
    for place in range(together, count):
        first += row[support[place]] * now[place]
    return (first + second) + (third + fourth)


@compiled
def _extend(
    row: Floats,
    atom: int,
    slope: float,
    support: Integers,
    count: int,
    matrices: Floats,
    now: Floats,
    trial: Floats,
    work: Floats,
) -> bool:
    """Adds an atom to the support and writes the solution to `trial`; False if the atom is dependent.

    `row` is its row of the Gram matrix and `slope` its gradient.
    """
    root, transposed = matrices[0], matrices[1]
    column, part, effect = work[4], work[5], work[6]
    for place in range(count):
        column[place] = row[support[place]]
    _combine(transposed, count, column, part)
    left = row[atom]
    for place in range(count):
        left -= part[place] * part[place]
    if not left > INDEPENDENT * row[atom]:
        return False
    _combine(root, count, part, effect)
    length, scale = slope / left, 1.0 / np.sqrt(left)
    for place in range(count):
        trial[place] = now[place] - length * effect[place]
        entry = -scale * effect[place]
        root[count, place], transposed[place, count] = entry, entry
        root[place, count], transposed[count, place] = 0.0, 0.0
    root[count, count], transposed[count, count] = scale, scale
    support[count], now[count], trial[count] = atom, 0.0, length
    return True


@compiled
def _combine(matrix: Floats, count: int, weights: Floats, combined: Floats) -> None:
    """The weighted sum of the first rows of a matrix."""
    combined[:count] = 0.0
    together = count - count % 4
    for row in range(0, together, 4):
        a, b, c, d = weights[row], weights[row + 1], weights[row + 2], weights[row + 3]
        row_a, row_b, row_c, row_d = matrix[row], matrix[row + 1], matrix[row + 2], matrix[row + 3]
        for column in range(count):
            combined[column] += (a * row_a[column] + b * row_b[column]) + (c * row_c[column] + d * row_d[column])
    for row in range(together, count):
        a, row_a = weights[row], matrix[row]
        for column in range(count):
            combined[column] += a * row_a[column]


@compiled
def _refine(
    gradient: Floats, support: Integers, count: int, matrices: Floats, now: Floats, trial: Floats, work: Floats
) -> None:
    """Writes the solution with a correction for the gradient that is left at the support to `trial`."""
    column, part, effect = work[4], work[5], work[6]
    for place in range(count):
        column[place] = gradient[support[place]]
    _combine(matrices[1], count, column, part)
    _combine(matrices[0], count, part, effect)
    for place in range(count):
        trial[place] = now[place] + effect[place]


@compiled
def _make_feasible(support: Integers, count: int, matrices: Floats, now: Floats, trial: Floats, work: Floats) -> int:
    """Moves `now` to the solution `trial`, without the atoms that would be negative; returns the support's size."""
    while True:
        step, blocking = 1.0, -1
        for place in range(count):
            if trial[place] <= 0.0:
                fraction = now[place] / (now[place] - trial[place]) if now[place] > 0.0 else 0.0
                if fraction < step or blocking < 0:
                    step, blocking = fraction, place
        if blocking < 0:
            break
        for place in range(count):
            now[place] += step * (trial[place] - now[place])
        now[blocking] = 0.0
        for place in range(count - 1, -1, -1):
            if trial[place] <= 0.0 and now[place] <= 0.0:
                _remove(support, place, count, matrices, now, trial, work)
                count -= 1
    now[:count] = trial[:count]
    return count


@compiled
def _remove(
    support: Integers, place: int, count: int, matrices: Floats, now: Floats, trial: Floats, work: Floats
) -> None:
    """Removes the atom at `place`: the last atom takes its place, and `trial` becomes the solution without it.

    The reflection makes the atom's column of the root zero, except in the last row; both are then left out.
    """
    root, transposed = matrices[0], matrices[1]
    reflected, effect = work[4], work[5]
    last = count - 1
    square = 0.0
    for row in range(count):
        reflected[row] = transposed[place, row]
        square += reflected[row] * reflected[row]
    _combine(root, count, reflected, effect)
    length = trial[place] / square
    for other in range(count):
        trial[other] -= length * effect[other]
    norm = np.sqrt(square)
    scale = 1.0 / (square + abs(reflected[last]) * norm)
    shift = norm if reflected[last] >= 0.0 else -norm
    for other in range(count):
        effect[other] += shift * root[last, other]
    for row in range(last):
        reflected[row] *= scale
        root[row, place] = root[row, last]
        transposed[place, row] = transposed[last, row]
    effect[place] = effect[last]
    support[place], now[place], trial[place] = support[last], now[last], trial[last]
    for row in range(last):
        here, there = root[row], transposed[row]
        weight, other_weight = reflected[row], effect[row]
        for column in range(last):
            here[column] -= weight * effect[column]
            there[column] -= other_weight * reflected[column]
