from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import nnls

from kwneuro_assets.derivations.noddi_solver import solve_nonnegative


def solved(gram: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    size = right.size
    x, support = np.full(size, np.nan), np.empty(size, np.int64)
    count = solve_nonnegative(gram, right, x, support, np.empty((size, size)), np.empty((4, size)))
    assert sorted(support[:count]) == np.flatnonzero(x).tolist()
    return x


def dictionary(rng: np.random.Generator, volumes: int = 60, atoms: int = 40) -> NDArray[np.float64]:
    """Decays over b-values, each much like the next."""
    return np.exp(-np.outer(np.sort(rng.uniform(0, 3, volumes)), np.sort(rng.uniform(0.05, 3, atoms))))


@pytest.mark.parametrize("seed", range(20))
def test_the_solution_is_that_of_least_squares_on_the_dictionary_itself(seed: int) -> None:
    # Random dictionaries are well conditioned: the Gram form squares a condition of 10, not one of 1e6.
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(60, 40))
    signal = matrix @ np.maximum(rng.normal(size=40), 0) + rng.normal(size=60)
    np.testing.assert_allclose(solved(matrix.T @ matrix, matrix.T @ signal), nnls(matrix, signal)[0], atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ridge", [0, 1e-3])
def test_no_coefficient_can_be_changed_for_the_better_where_atoms_are_nearly_the_same(seed: int, ridge: float) -> None:
    # The conditions of Karush, Kuhn and Tucker, which make it a minimum: coefficients themselves are ill-determined.
    rng = np.random.default_rng(seed)
    matrix = dictionary(rng)
    signal = np.abs(matrix @ rng.exponential(size=40) * (rng.random(40) < 0.1).sum() + rng.normal(0, 0.02, 60))
    gram, right = matrix.T @ matrix + ridge * np.eye(40), matrix.T @ signal - (0.5 if ridge else 0)
    x = solved(gram, right)
    gradient = right - gram @ x
    tolerance = 1e-9 * np.abs(right).max()
    assert (x >= 0).all()
    assert (gradient <= tolerance).all()
    assert np.abs(gradient[x > 0]).max() <= tolerance
    if not ridge:  # 1e-3 of it: a Gram matrix has the square of the dictionary's condition, here 1e16 and more
        best = np.sum((matrix @ nnls(matrix, signal)[0] - signal) ** 2)
        assert np.sum((matrix @ x - signal) ** 2) == pytest.approx(best, rel=1e-3)


def test_the_same_atom_twice_counts_once() -> None:
    matrix = np.repeat(np.random.default_rng(0).random((30, 5)), 2, axis=1)
    signal = matrix[:, ::2] @ np.array([1.0, 0, 2, 0, 0.5])
    x = solved(matrix.T @ matrix, matrix.T @ signal)
    assert np.count_nonzero(x) == 3
    np.testing.assert_allclose(matrix @ x, signal, atol=1e-9)


@pytest.mark.parametrize("right", [np.zeros(4), -np.ones(4)])
def test_nothing_joins_that_would_not_help(right: NDArray[np.float64]) -> None:
    assert not solved(np.eye(4), right).any()


def test_atoms_without_a_signal_stay_out() -> None:
    gram = np.diag([1.0, 0, 2])
    np.testing.assert_allclose(solved(gram, np.array([3.0, 5, 4])), [3, 0, 2], rtol=1e-15)
