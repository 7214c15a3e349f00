"""Sets of directions spread evenly over the half-sphere, the same on every call."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.threads import one_blas_thread

_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_ROUNDS = 300  # of repulsion: the smallest angle between neighbours no longer grows


@lru_cache(maxsize=8)
def fibonacci_directions(count: int) -> NDArray[np.float64]:
    """(count, 3) unit vectors with z > 0 on a spherical Fibonacci lattice (Swinbank and Purser 2006), read-only."""
    place = np.arange(count) + 0.5
    z = place / count
    radius, azimuth = np.sqrt(1 - z**2), place * _GOLDEN_ANGLE
    directions = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)
    directions.setflags(write=False)
    return directions


@lru_cache(maxsize=8)
def electrostatic_directions(count: int) -> NDArray[np.float64]:
    """(count, 3) axes that repel one another like pairs of opposite charges (Jones 1999), read-only.

    Gradient descent on Coulomb's energy from the Fibonacci lattice, whose rim is uneven when taken as axes.
    """
    axes = fibonacci_directions(count)
    spacing = np.sqrt(2 * np.pi / count)
    step = None
    with one_blas_thread():  # the axes are kept for the whole process, whoever asks first
        for _ in range(_ROUNDS):
            cosines = axes @ axes.T
            np.fill_diagonal(cosines, 0)
            force = (_inverse_cube(2 + 2 * cosines) - _inverse_cube(2 - 2 * cosines)) @ axes
            force -= (force * axes).sum(1, keepdims=True) * axes
            if step is None:
                # The first step moves no axis further than a fifth of its distance to the next one.
                step = 0.2 * spacing / np.linalg.norm(force, axis=1).max()
            axes = axes + step * force
            axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    axes.setflags(write=False)
    return axes


def _inverse_cube(square: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of lengths whose squares these are; five times as fast as the power of -1.5."""
    return np.asarray(1 / (square * np.sqrt(square)))
