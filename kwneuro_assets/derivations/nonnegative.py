"""Least squares under many inequalities that all voxels share, a voxel at a time.

Minimise |A x - b|^2 over C x >= 0. The multipliers of the inequalities are the solution of a problem with the simplest
of constraints, non-negative least squares with the Gram matrix C H^-1 C', where H = A'A (Lawson and Hanson, Solving
Least Squares Problems, 1974, chapter 23; their LDP). It is solved by their active set, an atom at a time: several at a
time, or those of a short list only, took fewer gradients but so many more changes of the support that it was slower.

Supports are large here and change often. So the inverse of their triangular factor is kept: with it the minimum on a
support follows each change by one multiple of one column. It gains a column by two products with a vector and loses
one by Givens rotations (as the factor itself would: Golub and Van Loan, Matrix Computations, section 6.5.2).

Which atom is to join is seen in single precision: the gradient is known in double precision for some x, its anchor,
and the change since then is added. Where that shows no more, the anchor moves; nothing but double precision says that
a voxel is solved.

All that is compiled stands in this one file: see `compiled`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.compiled import compiled

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

INDEPENDENT = 1e-12  # least share of a row's square that the support must leave unexplained: float64's rounding
SOLVED = 1e-9  # violation, as a share of the largest without constraints, that counts as none
ROUGH = 1e-7  # rounding of a gradient in single precision, as a share of the change that it follows
MOST_STEPS = 5  # times the number of inequalities: far above what voxels take
STRIDE = 32  # numbers that a loop takes at a time, at most: rows are padded with zeros so that none are left over
ROWS = 8  # of the inverse factor that a loop takes at a time


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
    rough, scratch = in_single_precision(gram), scratch_for(constraints, unknowns)
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
        count = solve_multipliers(gram, rough, right, multipliers, support, scratch)
        for place in range(count):
            constraint = support[place]
            value = multipliers[constraint]
            for unknown in range(unknowns):
                solution[unknown] += value * effects[constraint, unknown]


@compiled
def in_single_precision(gram: Floats) -> Singles:
    """The matrix with its rows padded by zeros, as `solve_multipliers` takes it."""
    size = gram.shape[0]
    rough = np.zeros((size, _padded(size)), np.float32)
    rough[:, :size] = gram
    return rough


@compiled
def scratch_for(size: int, rank: int) -> tuple[Floats, Floats, Singles, Integers]:
    """What `solve_multipliers` writes to on its way, for `size` coefficients."""
    wide = _padded(max(size, rank) + STRIDE)
    lines = (rank + STRIDE) // 16 * 2 + 3  # of the cache, an odd number, so that rows do not compete for a place
    roots, vectors = np.zeros((rank + ROWS, 8 * lines)), np.zeros((6, wide))
    return roots, vectors, np.zeros((3, _padded(size)), np.float32), np.empty(size, np.int64)


@compiled
def _padded(length: int) -> int:
    return (length + STRIDE - 1) // STRIDE * STRIDE


@compiled
def solve_multipliers(
    gram: Floats,
    rough: Singles,
    right: Floats,
    x: Floats,
    support: Integers,
    scratch: tuple[Floats, Floats, Singles, Integers],
) -> int:
    """Minimise x' gram x / 2 - right' x over x >= 0, and return how many coefficients are positive.

    `gram` (m, m) is symmetric and positive semidefinite, with ones on its diagonal and a rank of at most r; `rough` is
    its copy `in_single_precision`. `x` (m,) takes the solution and `support` (m,), first of all, the indices of the
    positive coefficients. `scratch` is that of `scratch_for(m, r)`.
    """
    roots, vectors, singles, moved = scratch
    size, rank = right.size, roots.shape[0] - ROWS
    gradient, scaled, anchor = vectors[0, :size], vectors[1, :size], vectors[2, :size]
    forward, trial, column = vectors[3], vectors[4], vectors[5]
    steepness, anchored, change = singles[0], singles[1], singles[2]
    largest = 0.0
    for atom in range(size):
        largest = max(largest, right[atom])
    unit = 1.0 / largest if largest > 0.0 else 1.0  # no signal is out of single precision's range then
    for atom in range(size):
        x[atom] = anchor[atom] = 0.0
        scaled[atom] = right[atom] * unit
        anchored[atom] = steepness[atom] = scaled[atom]
    count, changed, least, at_anchor = 0, 0, SOLVED, True
    for _ in range(MOST_STEPS * size):
        joined = False
        while not joined and count < rank:
            best = _steepest(steepness, least)
            if best < 0:
                break
            support[count] = best
            joined = _extend(gram, scaled, support, count, roots, forward, trial, column, True)
            steepness[best] = -1.0
        if joined:
            # Ends at the minimum on a support, below all minima before: no support comes twice, so there is an end.
            if anchor[best] == 0.0:
                known = False
                for place in range(changed):
                    known = known or moved[place] == best
                if not known:
                    moved[changed] = best
                    changed += 1
            count = _descend(x, support, count + 1, roots, forward, trial, column)
            total = 0.0
            for place in range(changed):
                atom = moved[place]
                change[place] = x[atom] - anchor[atom]
                total += abs(x[atom] - anchor[atom])
            least, at_anchor = max(SOLVED, ROUGH * total), False
            _find_gradient(rough, anchored, moved, changed, change, steepness)
            for place in range(count):
                steepness[support[place]] = -1.0
            continue
        if at_anchor:
            break
        _find_gradient(gram, scaled, support, count, trial, gradient)
        residual = 0.0
        for place in range(count):
            residual = max(residual, abs(gradient[support[place]]))
        if residual > SOLVED:  # by the rounding of many changes: the factor anew
            before, count = count, 0
            for place in range(before):
                support[count] = support[place]
                if _extend(gram, scaled, support, count, roots, forward, trial, column, False):
                    count += 1
                else:
                    x[support[count]] = 0.0
            count = _descend(x, support, count, roots, forward, trial, column)
            _find_gradient(gram, scaled, support, count, trial, gradient)
        for atom in range(size):
            anchor[atom] = x[atom]
            anchored[atom] = steepness[atom] = gradient[atom]
        for place in range(count):
            moved[place] = support[place]
            steepness[support[place]] = -1.0
        changed, least, at_anchor = count, SOLVED, True
    for place in range(count):
        x[support[place]] *= largest
    return count


@compiled
def _steepest(gradient: Singles, least: float) -> int:
    """The atom with the highest gradient, or -1 if none is above `least`."""
    best, steepest = -1, np.float32(least)
    for atom in range(gradient.size):
        if gradient[atom] > steepest:
            best, steepest = atom, gradient[atom]
    return best


@compiled
def _find_gradient(
    gram: NDArray[Any], right: NDArray[Any], atoms: Integers, count: int, x: NDArray[Any], gradient: NDArray[Any]
) -> None:
    """Write right - gram x to `gradient`, in the precision of the arrays, for the values x of the first atoms."""
    gradient[:] = right
    for place in range(0, count - count % 4, 4):  # four at a time: the gradient is read and written less often
        a, b = gram[atoms[place]], gram[atoms[place + 1]]
        c, d = gram[atoms[place + 2]], gram[atoms[place + 3]]
        first, second, third, fourth = x[place], x[place + 1], x[place + 2], x[place + 3]
        for atom in range(gradient.size):
            gradient[atom] -= (first * a[atom] + second * b[atom]) + (third * c[atom] + fourth * d[atom])
    for place in range(count - count % 4, count):
        a, first = gram[atoms[place]], x[place]
        for atom in range(gradient.size):
            gradient[atom] -= first * a[atom]


@compiled
def _descend(
    x: Floats, support: Integers, count: int, roots: Floats, forward: Floats, trial: Floats, column: Floats
) -> int:
    """Move x to the minimum on the support, less the atoms that reach zero on the way; return how many are left."""
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
        if step > 0.0:
            for place in range(count):
                atom = support[place]
                x[atom] += step * (trial[place] - x[atom])
        x[support[blocking]] = 0.0
        _remove(support, blocking, count, roots, forward, trial, column)
        count -= 1
    for place in range(count):
        x[support[place]] = trial[place]
    return count


@compiled
def _extend(
    gram: Floats,
    right: Floats,
    support: Integers,
    count: int,
    roots: Floats,
    forward: Floats,
    trial: Floats,
    column: Floats,
    rising: bool,
) -> bool:
    """Take the atom at support[count] in; False where it depends on the others or, if to be `rising`, would not.

    Row k of `roots` is column k of the inverse of the support's upper factor, zero after its entry k; `forward` is
    the product of these rows with the right side, and `trial` the minimum on the support.
    """
    own, new = gram[support[count]], roots[count]
    new[:] = 0.0
    for place in range(count):
        new[place] = own[support[place]]
    for row in range(0, count, ROWS):  # sums beside each other, as the compiler must not reorder one
        r0, r1, r2, r3 = roots[row], roots[row + 1], roots[row + 2], roots[row + 3]
        r4, r5, r6, r7 = roots[row + 4], roots[row + 5], roots[row + 6], roots[row + 7]
        s0, s1, s2, s3, s4, s5, s6, s7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for place in range(min(row + ROWS, count)):
            value = new[place]
            s0 += r0[place] * value
            s1 += r1[place] * value
            s2 += r2[place] * value
            s3 += r3[place] * value
            s4 += r4[place] * value
            s5 += r5[place] * value
            s6 += r6[place] * value
            s7 += r7[place] * value
        column[row], column[row + 1], column[row + 2], column[row + 3] = s0, s1, s2, s3
        column[row + 4], column[row + 5], column[row + 6], column[row + 7] = s4, s5, s6, s7
    left, slope = own[support[count]], right[support[count]]
    for row in range(count):
        left -= column[row] * column[row]
        slope -= column[row] * forward[row]
    if not left > INDEPENDENT or (rising and not slope > 0.0):
        return False
    root = np.sqrt(left)
    new[:] = 0.0
    for row in range(count, count + ROWS):
        column[row] = 0.0
    for row in range(0, count, 4):
        a, b, c, d = roots[row], roots[row + 1], roots[row + 2], roots[row + 3]
        first, second, third, fourth = column[row], column[row + 1], column[row + 2], column[row + 3]
        for place in range((row + 19) // 16 * 16):
            new[place] += (first * a[place] + second * b[place]) + (third * c[place] + fourth * d[place])
    minus = -1.0 / root
    for place in range(count):
        new[place] *= minus
    new[count] = 1.0 / root
    forward[count] = slope / root
    trial[count] = 0.0
    multiple = forward[count]
    for place in range(count + 1):
        trial[place] += multiple * new[place]
    return True


@compiled
def _remove(
    support: Integers, place: int, count: int, roots: Floats, forward: Floats, trial: Floats, column: Floats
) -> None:
    """Take the atom at `place` out of the support of `count` and of all that `_extend` keeps."""
    # Each row from here on is turned with the one after it until the atom is in the last alone, which is left out. What
    # is turned on and on is the sum of the rows so far, each times its entry for the atom, over the square's root.
    pivot = roots[place, place]
    square, value = pivot * pivot, pivot * forward[place]
    before, after = np.zeros(_padded(place)), np.zeros(_padded(count - place))
    before[:place] = pivot * roots[place, :place]
    for row in range(place, count - 1):
        here, following = roots[row], roots[row + 1]
        entry = following[place]
        longer = square + entry * entry
        cosine, sine = np.sqrt(square / longer), entry / np.sqrt(square * longer)
        # What is written too far is overwritten below.
        for index in range((place + 15) // 16 * 16):
            lower = following[index]
            here[index] = cosine * lower - sine * before[index]
            before[index] += entry * lower
        shifted, target = following[place + 1 :], here[place:]
        for index in range((row - place + 16) // 16 * 16):
            lower = shifted[index]
            target[index] = cosine * lower - sine * after[index]
            after[index] += entry * lower
        lower = forward[row + 1]
        forward[row] = cosine * lower - sine * value
        value += entry * lower
        square = longer
        support[row] = support[row + 1]
    multiple = value / square
    for index in range(place):
        trial[index] -= multiple * before[index]
    for index in range(count - 1 - place):
        trial[place + index] = trial[place + index + 1] - multiple * after[index]
