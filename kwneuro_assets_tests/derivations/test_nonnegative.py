"""The solver of constrained least squares, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls

from kwneuro_assets.derivations.nonnegative import (
    CANDIDATES,
    MATRICES,
    VECTORS,
    _extend,
    _make_feasible,
    _remove,
    _steepest,
    fit_constrained,
    solve_multipliers,
)

Floats = NDArray[np.float64]


def multipliers(gram: Floats, right: Floats, rank: int) -> Floats:
    size = right.size
    x, support = np.full(size, np.nan), np.empty(size, np.int64)
    matrices, work = np.full((MATRICES, rank, rank), np.nan), np.full((VECTORS, size), np.nan)
    count = solve_multipliers(gram, right, x, support, matrices, work)
    assert sorted(support[:count]) == np.flatnonzero(x).tolist()
    return x


def rows(seed: int, count: int, unknowns: int) -> Floats:
    """Unit vectors (count, unknowns)."""
    drawn = np.random.default_rng(seed).normal(size=(count, unknowns))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


@pytest.mark.parametrize("seed", range(20))
def test_multipliers_are_those_of_least_squares_on_the_constraints(seed: int) -> None:
    constraints = rows(seed, 80, 20)
    target = np.random.default_rng(seed).normal(size=20)
    found = multipliers(constraints @ constraints.T, constraints @ target, 20)
    # More columns than dimensions: the solution is unique, but the multipliers may not be.
    assert np.abs(constraints.T @ (found - nnls(constraints.T, target)[0])).max() < 1e-8


@pytest.mark.parametrize("seed", range(5))
def test_the_solution_is_that_of_a_general_optimizer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, constraints = rng.normal(size=(30, 6)), rows(seed + 50, 40, 6)
    constraints[:, 0] = np.abs(constraints[:, 0]) + 0.5  # so that zero is not the only feasible point
    signal = rng.normal(size=30)
    inverse = np.linalg.inv(matrix.T @ matrix)
    scaled = constraints / np.sqrt(np.einsum("ij,jk,ik->i", constraints, inverse, constraints))[:, None]
    effects, found = scaled @ inverse, np.empty((1, 6))
    fit_constrained(signal[None], found, matrix @ inverse, np.ascontiguousarray(scaled.T), effects, effects @ scaled.T)
    slow = minimize(
        lambda x: 0.5 * ((matrix @ x - signal) ** 2).sum(),
        np.zeros(6),
        jac=lambda x: matrix.T @ (matrix @ x - signal),
        constraints={"type": "ineq", "fun": lambda x: constraints @ x, "jac": lambda x: constraints},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert np.abs(found[0] - slow.x).max() < 1e-5  # the tolerance of SLSQP


def test_a_repeated_constraint_counts_once() -> None:
    constraints = np.repeat(rows(0, 6, 5), 2, axis=0)
    target = constraints[::2].T @ np.ones(6)
    found = multipliers(constraints @ constraints.T, constraints @ target, 5)
    np.testing.assert_allclose(constraints.T @ found, target, atol=1e-9)
    assert np.count_nonzero(found) <= 5


@pytest.mark.parametrize("right", [np.zeros(4), -np.ones(4)])
def test_satisfied_constraints_have_zero_multipliers(right: Floats) -> None:
    assert not multipliers(np.eye(4), right, 4).any()


@pytest.mark.parametrize("seed", range(5))
def test_nearly_dependent_constraints_are_satisfied(seed: int) -> None:
    """The deconvolution of a noisy, blurred peak at 120 points, whose neighbors hardly differ."""
    orders, points = np.arange(25), np.linspace(0, 1, 120)
    blur = 0.8**orders
    constraints = np.cos(np.pi * orders * points[:, None]) / blur
    constraints /= np.linalg.norm(constraints, axis=1, keepdims=True)
    target = blur * np.cos(np.pi * orders * 0.4) + np.random.default_rng(seed).normal(0, 0.02, 25)
    found = multipliers(constraints @ constraints.T, -constraints @ target, 25)
    largest = -(constraints @ target).min()
    solution = target + constraints.T @ found
    assert np.count_nonzero(found) >= 8
    assert (constraints @ solution).min() > -1e-9 * largest
    expected = target + constraints.T @ nnls(constraints.T, -target, maxiter=10_000)[0]
    assert np.abs(solution - expected).max() < 1e-9 * largest


def test_the_root_is_that_of_the_inverse_after_atoms_were_added_and_removed() -> None:
    constraints = rows(7, 12, 8)
    gram = constraints @ constraints.T
    right = constraints @ np.random.default_rng(0).normal(size=8)
    support, matrices = np.empty(12, np.int64), np.full((MATRICES, 8, 8), np.nan)
    work = np.full((VECTORS, 12), np.nan)
    now, trial = work[2], work[3]
    count = 0
    for atom in (3, 9, 0, 7, 5, 11):
        now[:count] = 1.0
        slope = right[atom] - gram[atom, support[:count]].sum()
        assert _extend(gram[atom], atom, slope, support, count, matrices, now, trial, work)
        count += 1
    for place in (1, 4, 0):
        _remove(support, place, count, matrices, now, trial, work)
        count -= 1
    root, chosen = matrices[0, :count, :count], support[:count]
    assert sorted(chosen) == [0, 7, 11]
    np.testing.assert_array_equal(matrices[1, :count, :count], root.T)
    np.testing.assert_allclose(root.T @ root, np.linalg.inv(gram[np.ix_(chosen, chosen)]), atol=1e-12)


def test_a_dependent_atom_is_refused() -> None:
    gram = np.ones((2, 2))
    support, matrices, work = np.empty(2, np.int64), np.full((MATRICES, 2, 2), np.nan), np.full((VECTORS, 2), np.nan)
    assert _extend(gram[0], 0, 1.0, support, 0, matrices, work[2], work[3], work)
    assert _make_feasible(support, 1, matrices, work[2], work[3], work) == 1
    assert not _extend(gram[1], 1, 1.0, support, 1, matrices, work[2], work[3], work)


def test_the_candidates_have_the_largest_gradients() -> None:
    gradient = np.array([0.1, 5, 2, 7, 0.3, 3, 7, 4, -9])
    barred = np.array([0.0, 0, 0, 0, 0, 0, 0, 1, 0])
    candidates = np.empty(CANDIDATES, np.int64)
    assert _steepest(gradient, barred, 0.2, candidates) == CANDIDATES == 4
    assert candidates.tolist() == [3, 6, 1, 5]  # of equal ones, the first
    assert np.flatnonzero(barred).tolist() == [1, 3, 5, 6, 7]
    assert _steepest(gradient, barred, 0.2, candidates) == 2
    assert candidates[:2].tolist() == [2, 4]
