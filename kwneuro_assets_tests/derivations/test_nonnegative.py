from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls

from kwneuro_assets.derivations.nonnegative import fit_constrained, solve_multipliers

Floats = NDArray[np.float64]


def multipliers(gram: Floats, right: Floats, rank: int) -> Floats:
    size = right.size
    x, support = np.full(size, np.nan), np.empty(size, np.int64)
    count = solve_multipliers(gram, right, x, support, np.empty((rank, rank)), np.empty((4, size)))
    assert sorted(support[:count]) == np.flatnonzero(x).tolist()
    return x


def rows(seed: int, count: int, unknowns: int) -> Floats:
    """Unit vectors (count, unknowns)."""
    drawn = np.random.default_rng(seed).normal(size=(count, unknowns))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


@pytest.mark.parametrize("seed", range(20))
def test_multipliers_are_those_of_least_squares_on_the_constraints_themselves(seed: int) -> None:
    constraints = rows(seed, 80, 20)
    target = np.random.default_rng(seed).normal(size=20)
    found = multipliers(constraints @ constraints.T, constraints @ target, 20)
    # More columns than dimensions: the point is unique, the multipliers need not be.
    assert np.abs(constraints.T @ (found - nnls(constraints.T, target)[0])).max() < 1e-8


@pytest.mark.parametrize("seed", range(5))
def test_the_solution_is_that_of_a_general_optimiser_on_the_problem_as_it_is_stated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, constraints = rng.normal(size=(30, 6)), rows(seed + 50, 40, 6)
    constraints[:, 0] = np.abs(constraints[:, 0]) + 0.5  # so that there is more than the apex that is allowed
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
    assert np.abs(found[0] - slow.x).max() < 1e-5  # SLSQP's own


def test_the_same_constraint_twice_counts_once() -> None:
    constraints = np.repeat(rows(0, 6, 5), 2, axis=0)
    target = constraints[::2].T @ np.ones(6)
    found = multipliers(constraints @ constraints.T, constraints @ target, 5)
    np.testing.assert_allclose(constraints.T @ found, target, atol=1e-9)
    assert np.count_nonzero(found) <= 5


@pytest.mark.parametrize("right", [np.zeros(4), -np.ones(4)])
def test_nothing_joins_where_nothing_is_violated(right: Floats) -> None:
    assert not multipliers(np.eye(4), right, 4).any()
