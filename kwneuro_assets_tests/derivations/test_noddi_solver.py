"""The non-negative least-squares solver of NODDI, against SciPy."""

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
    """Exponential decays over b-values, nearly collinear."""
    return np.exp(-np.outer(np.sort(rng.uniform(0, 3, volumes)), np.sort(rng.uniform(0.05, 3, atoms))))


@pytest.mark.parametrize("seed", range(20))
def test_the_solution_is_that_of_least_squares_on_the_dictionary(seed: int) -> None:
    # Random dictionaries have a condition of 10, which the Gram form squares; real ones have 1e6.
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(60, 40))
    signal = matrix @ np.maximum(rng.normal(size=40), 0) + rng.normal(size=60)
    np.testing.assert_allclose(solved(matrix.T @ matrix, matrix.T @ signal), nnls(matrix, signal)[0], atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ridge", [0, 1e-3])
def test_the_solution_is_optimal_for_nearly_equal_atoms(seed: int, ridge: float) -> None:
    # The Karush-Kuhn-Tucker conditions of a minimum, because the coefficients themselves are ill-conditioned.
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
    if not ridge:  # 1e-3, because the condition of the Gram matrix is 1e16 and more
        best = np.sum((matrix @ nnls(matrix, signal)[0] - signal) ** 2)
        assert np.sum((matrix @ x - signal) ** 2) == pytest.approx(best, rel=1e-3)


def test_a_repeated_atom_counts_once() -> None:
    matrix = np.repeat(np.random.default_rng(0).random((30, 5)), 2, axis=1)
    signal = matrix[:, ::2] @ np.array([1.0, 0, 2, 0, 0.5])
    x = solved(matrix.T @ matrix, matrix.T @ signal)
    assert np.count_nonzero(x) == 3
    np.testing.assert_allclose(matrix @ x, signal, atol=1e-9)


@pytest.mark.parametrize("right", [np.zeros(4), -np.ones(4)])
def test_atoms_that_do_not_improve_the_fit_are_not_used(right: NDArray[np.float64]) -> None:
    assert not solved(np.eye(4), right).any()


def test_atoms_without_signal_are_not_used() -> None:
    gram = np.diag([1.0, 0, 2])
    np.testing.assert_allclose(solved(gram, np.array([3.0, 5, 4])), [3, 0, 2], rtol=1e-15)
