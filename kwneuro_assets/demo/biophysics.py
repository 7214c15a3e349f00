"""The diffusion signal of the synthetic tissues: the forward model of NODDI (Zhang 2012).

Neurites are sticks, dispersed about the direction of their bundle by a Watson distribution. The extra-neurite water has
hindered diffusion, a tensor whose diffusivities follow from the neurite density (tortuosity) and the dispersion. Free
water diffuses isotropically. Gray matter has neurites in all directions.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.directions import fibonacci_directions

PARALLEL = 1.7e-3  # mm^2/s, along neurites (Zhang 2012)
FREE_WATER = 3.0e-3  # mm^2/s, at body temperature
DISPERSION = 0.06  # orientation dispersion index of a bundle: 0 is parallel, 1 isotropic

_DIRECTIONS = 2000  # directions on the half sphere in the sum over the Watson distribution
_ANGLES = 129  # entries of the lookup table over the cosine


def fiber_signal(bvalue: float, cosine: NDArray[np.float32], density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Attenuation of the tissue of a bundle, with the shape of `cosine`.

    `bvalue` is in s/mm^2, `cosine` is that of the angle between gradient and fiber, and `density` is the neurite
    density, broadcast against `cosine`.
    """
    grid, sticks, alignment = _dispersed_sticks(bvalue)
    inside = np.interp(np.abs(cosine), grid, sticks).astype(np.float32)
    along = PARALLEL * (1 - density * (1 - alignment))
    across = PARALLEL * (1 - density * (1 + alignment) / 2)
    around = np.exp(-bvalue * (across + (along - across) * cosine**2))
    return np.asarray(density * inside + (1 - density) * around, np.float32)


@lru_cache(maxsize=16)
def _dispersed_sticks(bvalue: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Cosines between gradient and bundle, the intra-neurite attenuation at each, and the mean squared cosine between
    neurites and bundle.
    """
    directions = fibonacci_directions(_DIRECTIONS)
    weight = np.exp(directions[:, 2] ** 2 / np.tan(np.pi * DISPERSION / 2))  # Watson, kappa = 1 / tan(pi/2 ODI)
    weight /= weight.sum()
    cosines = np.linspace(0, 1, _ANGLES)
    projection = np.outer(np.sqrt(1 - cosines**2), directions[:, 0]) + np.outer(cosines, directions[:, 2])
    return cosines, np.exp(-bvalue * PARALLEL * projection**2) @ weight, float(weight @ directions[:, 2] ** 2)


def isotropic_signal(bvalue: float, density: float) -> float:
    """Attenuation of tissue with this density of neurites in all directions; `bvalue` in s/mm^2."""
    cosines = (np.arange(500) + 0.5) / 500
    sticks = float(np.exp(-bvalue * PARALLEL * cosines**2).mean())
    around = float(np.exp(-bvalue * PARALLEL * (1 - 2 * density / 3)))
    return density * sticks + (1 - density) * around
