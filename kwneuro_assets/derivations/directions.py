"""Sets of directions spread evenly over the half-sphere, equal on every call."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.threads import one_blas_thread

_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_ROUNDS = 300  # of repulsion: with more, the smallest angle between neighbors no longer grows


@lru_cache(maxsize=8)
def fibonacci_directions(count: int) -> NDArray[np.float64]:
    """(count, 3) unit vectors with z > 0 on a spherical Fibonacci lattice, read-only.

    Swinbank and Purser, Quarterly Journal of the Royal Meteorological Society 132 (2006) 1769, doi:10.1256/qj.05.227.

    >>> fibonacci_directions(100).shape
    (100, 3)
    """
    place = np.arange(count) + 0.5
    z = place / count
    radius, azimuth = np.sqrt(1 - z**2), place * _GOLDEN_ANGLE
    directions = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)
    directions.setflags(write=False)
    return directions


@lru_cache(maxsize=8)
def electrostatic_directions(count: int) -> NDArray[np.float64]:
    """(count, 3) axes at the minimum of electrostatic repulsion, read-only.

    Jones, Horsfield and Simmons, Magnetic Resonance in Medicine 42 (1999) 515: each axis is a pair of opposite charges.
    Gradient descent on the Coulomb energy, starting from the Fibonacci lattice, which is uneven at its rim if its
    vectors are axes.
    """
    axes = fibonacci_directions(count)
    spacing = np.sqrt(2 * np.pi / count)
    step = None
    with one_blas_thread():  # the result is cached for the process, and must not depend on the first caller
        for _ in range(_ROUNDS):
            cosines = axes @ axes.T
            np.fill_diagonal(cosines, 0)
            force = (_inverse_cube(2 + 2 * cosines) - _inverse_cube(2 - 2 * cosines)) @ axes
            force -= (force * axes).sum(1, keepdims=True) * axes
            if step is None:
                # The first step moves no axis by more than a fifth of the distance between neighbors.
                step = 0.2 * spacing / np.linalg.norm(force, axis=1).max()
            axes = axes + step * force
            axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    axes.setflags(write=False)
    return axes


def _inverse_cube(square: NDArray[np.float64]) -> NDArray[np.float64]:
    """The power -1.5 of `square`, five times as fast as `**`."""
    return np.asarray(1 / (square * np.sqrt(square)))
