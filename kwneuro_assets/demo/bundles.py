"""The white-matter bundles of the synthetic head: positions and directions as formulas.

Every bundle is a family of curves around a center line, so its direction is the derivative of these curves and exact
everywhere. Positions are those of `anatomy`: mm, adult size, x right, y anterior, z superior. Directions are therefore
in the world frame.

The corpus callosum (left-right, fanning upwards, bending at both ends), the corona radiata with the corticospinal tract
(inferior-superior) and the superior longitudinal fasciculus (posterior-anterior) cross in the centrum semiovale of both
hemispheres, with two and three fiber populations per voxel. Elsewhere fibers point to the nearest cortex.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.demo.anatomy import Points

Values = NDArray[np.float32]  # (n,)
EDGE = 0.35  # fraction of a bundle's radius over which its weight decreases to 0
SHORT_FIBERS = 0.25  # weight of the fibers to the nearest cortex; bundles have weight 1
MIN_FRACTION = 0.12  # of the white matter; smaller fiber populations are removed
MAX_FIBERS = 3  # per voxel


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle at n points: weight (n,) from 0 outside to 1 inside, unit direction (n, 3), and neurite density."""

    name: str
    weight: Values
    direction: NDArray[np.float32]
    neurite_density: float


@dataclass(frozen=True, eq=False)
class Fibers:
    """The fiber populations at n points.

    `fractions` (n, 3) of the white matter, largest first, sum to 1; `directions` (n, 3, 3) are unit vectors in the
    world frame; `neurite_density` (n,) is the mean over the populations.
    """

    fractions: NDArray[np.float32]
    directions: NDArray[np.float32]
    neurite_density: Values


def fibers(points: Points) -> Fibers:
    """The fiber populations of white matter at `points` (n, 3) in mm of the adult frame."""
    found = bundles(points)
    weights = np.stack([bundle.weight for bundle in found], axis=1)
    directions = np.stack([bundle.direction for bundle in found], axis=1)
    order = np.argsort(-weights, axis=1, kind="stable")[:, :MAX_FIBERS]
    weights = np.take_along_axis(weights, order, axis=1)
    fractions = weights / weights.sum(axis=1, keepdims=True)
    fractions *= fractions >= MIN_FRACTION
    fractions /= fractions.sum(axis=1, keepdims=True)
    density = np.array([bundle.neurite_density for bundle in found], np.float32)[order]
    return Fibers(
        fractions, np.take_along_axis(directions, order[..., None], axis=1), (fractions * density).sum(axis=1)
    )


def bundles(points: Points) -> list[Bundle]:
    """All bundles at `points` (n, 3) in mm of the adult frame, the fibers to the nearest cortex last."""
    x = points[:, 0]
    right = points.copy()
    right[:, 0] = np.abs(x)
    # Curves in the left hemisphere are mirror images of those in the right.
    mirror = np.where(x[:, None] < 0, np.array([-1, 1, 1], np.float32), np.array([1, 1, 1], np.float32))
    pairs = (_corona_radiata, _superior_longitudinal, _inferior_longitudinal, _cingulum, _short_fibers)
    paired = [bundle(right) for bundle in pairs]
    unpaired = [_corpus_callosum(points), _middle_cerebellar_peduncle(points)]
    return unpaired + [Bundle(b.name, b.weight, b.direction * mirror, b.neurite_density) for b in paired]


def callosal_level(points: Points) -> Values:
    """Where the callosal curve through each point (n, 3) crosses the midline: mm (n,) to the front of its middle."""
    return np.asarray((points[:, 1] + 8) / (1 + 0.0006 * points[:, 0] ** 2), np.float32)


def _corpus_callosum(points: Points) -> Bundle:
    """Curves between the hemispheres: z increases with x^2 and fans out; y bends away from the middle (forceps)."""
    x, _, z = points.T
    level = callosal_level(points)
    height, slope = 24 - 9 * (level / 40) ** 2, 0.014
    width = 2.5 + 0.45 * np.hypot(x, 6)
    offset = (z - height - slope * x**2) / width
    rise = 2 * slope * x + offset * 0.45 * x / np.hypot(x, 6)
    return _bundle("corpus callosum", np.hypot(offset, level / 40), (1, 0.0012 * x * level, rise), 0.7)


def _corona_radiata(points: Points) -> Bundle:
    """Vertical curves from the brainstem through the internal capsule, fanning out to the upper cortex."""
    x, y, z = points.T
    inward, d_inward = _step(z, -10, 8)
    fan, d_fan = _step(z, 38, 10)
    back, d_back = _step(z, -10, 10)
    spread, d_spread = _step(z, 35, 12)
    radius_x, radius_y = 4 + 20 * fan, 6 + 26 * spread
    across, along = (x - 5 - 22 * inward) / radius_x, (y + 30 - 16 * back) / radius_y
    tangent = (22 * d_inward + 20 * across * d_fan, 16 * d_back + 26 * along * d_spread, 1)
    return _bundle("corona radiata", np.hypot(across, along), tangent, 0.72)


def _superior_longitudinal(points: Points) -> Bundle:
    """Posterior-anterior curves beside the corona radiata, arched upwards and outwards."""
    x, y, z = points.T
    across = (x - 36 + 0.002 * (y + 8) ** 2) / 8
    up = (z - 33 + 0.004 * (y + 8) ** 2) / 9
    ends = ((y + 8) / 52) ** 4
    return _bundle("superior longitudinal", np.hypot(across, up) + ends, (-0.004 * (y + 8), 1, -0.008 * (y + 8)), 0.65)


def _inferior_longitudinal(points: Points) -> Bundle:
    """Posterior-anterior curves from the occipital to the temporal and frontal lobes."""
    x, y, z = points.T
    across = (x - 38 + 0.004 * (y + 15) ** 2) / 7
    up = (z + 7 - 0.002 * (y + 15) ** 2) / 7
    ends = ((y + 15) / 60) ** 4
    return _bundle("inferior longitudinal", np.hypot(across, up) + ends, (-0.008 * (y + 15), 1, 0.004 * (y + 15)), 0.6)


def _cingulum(points: Points) -> Bundle:
    """Posterior-anterior curves above the corpus callosum, beside the midline."""
    x, y, z = points.T
    up = (z - 38 + 0.008 * (y + 8) ** 2) / 5
    ends = ((y + 8) / 45) ** 4
    return _bundle("cingulum", np.hypot((x - 8) / 4.5, up) + ends, (0, 1, -0.016 * (y + 8)), 0.6)


def _middle_cerebellar_peduncle(points: Points) -> Bundle:
    """Curves from one cerebellar hemisphere around the front of the pons to the other."""
    x, y, z = points.T
    out = (y + 17 + 0.028 * x**2) / 8
    return _bundle("middle cerebellar peduncle", np.hypot(out, (z + 33) / 9), (1, -0.056 * x, 0), 0.65)


def _short_fibers(points: Points) -> Bundle:
    """Fibers perpendicular to the surface of the hemisphere, with a small weight everywhere."""
    outward = (points - np.array([18, -16, 14], np.float32)) / np.array([48, 88, 56], np.float32) ** 2
    everywhere = np.full(len(points), SHORT_FIBERS, np.float32)
    return Bundle("short fibers", everywhere, _unit(outward), 0.52)


def _bundle(name: str, radius: Values, tangent: tuple[ArrayLike, ArrayLike, ArrayLike], density: float) -> Bundle:
    """A bundle from its radius (0 on the center line, 1 on the surface) and its tangent (of any length)."""
    components = np.broadcast_arrays(*(np.asarray(part, np.float32) for part in tangent), radius)[:3]
    weight = ((1 - radius) / EDGE).clip(0, 1).astype(np.float32)
    return Bundle(name, weight, _unit(np.stack(components, axis=1)), density)


def _step(z: Values, middle: float, width: float) -> tuple[Values, Values]:
    """A smooth step from 0 to 1 at `middle`, and its derivative."""
    step = 1 / (1 + np.exp((middle - z) / width))
    return step, step * (1 - step) / width


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-6)
