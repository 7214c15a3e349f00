"""The anatomy of one synthetic head: a smooth map from the world frame to the adult frame of `anatomy`.

A point of the world frame is moved by a smooth warp, then rotated, sheared and scaled. Tissues and bundles are formulas
of the adult frame, so one `HeadShape` gives every head its own size, proportions and pose. Directions are brought back
by the inverse of the map's Jacobian: a fiber stays tangent to its bundle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.demo.anatomy import HEAD_SCALE, Points

WorldPoints = NDArray[np.floating]  # (n, 3), mm, scanner RAS+

# How much random heads differ (standard deviations or half ranges), wider than the heads of a cohort.
SIZE = 0.12  # of the size, relative
PROPORTIONS = 0.07  # of the size along each axis, relative
ROTATION = np.radians(6)  # about each axis
MAX_ROTATION = np.radians(15)
SHEAR = 0.03
WAVES = 4  # of the warp
WAVELENGTHS = (90.0, 200.0)  # mm: longer than a bundle is wide
AMPLITUDE = 1.3  # mm, of each wave along each axis; much below 90 mm / (2 pi), where a wave folds space


@dataclass(frozen=True, eq=False)
class HeadShape:
    """The map of one head: adult = linear @ (world + warp(world)) / scale.

    The warp is a sum of plane waves: shifts * sin(waves @ world + phases).
    """

    scale: float  # relative to an adult
    linear: NDArray[np.float64]  # (3, 3), rotation, shear and proportions
    waves: NDArray[np.float64]  # (k, 3), radians per mm
    phases: NDArray[np.float64]  # (k,)
    shifts: NDArray[np.float64]  # (k, 3), mm

    @classmethod
    def standard(cls) -> HeadShape:
        """The head of the demo's first subject: smaller than an adult by `HEAD_SCALE`, and otherwise unchanged."""
        return cls(HEAD_SCALE, np.eye(3), np.zeros((0, 3)), np.zeros(0), np.zeros((0, 3)))

    @classmethod
    def random(cls, generator: np.random.Generator, variation: float = 1.0) -> HeadShape:
        """A random head; `variation` 1 is the range that the demo's networks are trained on, 0 the standard head."""
        scale = HEAD_SCALE * (1 + variation * generator.uniform(-SIZE, SIZE))
        proportions = 1 + variation * generator.uniform(-PROPORTIONS, PROPORTIONS, 3)
        angles = variation * generator.normal(0, ROTATION, 3).clip(-MAX_ROTATION, MAX_ROTATION)
        shear = np.eye(3) + variation * generator.normal(0, SHEAR, (3, 3)) * (1 - np.eye(3))
        waves = generator.normal(size=(WAVES, 3))
        waves *= 2 * np.pi / generator.uniform(*WAVELENGTHS, (WAVES, 1)) / np.linalg.norm(waves, axis=1, keepdims=True)
        phases = generator.uniform(0, 2 * np.pi, WAVES)
        shifts = variation * generator.normal(0, AMPLITUDE, (WAVES, 3))
        return cls(scale, shear @ _rotation(angles) / proportions[:, None], waves, phases, shifts)

    @property
    def is_standard(self) -> bool:
        """Whether the map only scales: directions are then the same in both frames."""
        return not len(self.waves) and np.array_equal(self.linear, np.eye(3))

    def adult(self, points: WorldPoints) -> Points:
        """The positions (n, 3) in mm of the adult frame of world positions (n, 3) in mm."""
        warp = np.sin(points @ self.waves.T + self.phases) @ self.shifts
        return np.asarray((points + warp) @ self.linear.T / self.scale, np.float32)

    def jacobian(self, points: WorldPoints) -> NDArray[np.float64]:
        """The derivatives (n, 3, 3) of the adult positions: rows are adult axes, columns world axes."""
        slopes = np.cos(points @ self.waves.T + self.phases)
        warp = np.einsum("nk,ki,kj->nij", slopes, self.shifts, self.waves)
        return np.asarray(self.linear @ (np.eye(3) + warp) / self.scale)

    def world_directions(self, points: WorldPoints, directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """The unit vectors (n, k, 3) in the world frame of `directions` (n, k, 3) in the adult frame.

        `points` (n, 3) are the world positions in mm at which they are. A zero vector stays zero.
        """
        if self.is_standard:
            return directions
        world = np.linalg.solve(self.jacobian(points)[:, None], directions[..., None])[..., 0]
        return np.asarray(world / np.linalg.norm(world, axis=-1, keepdims=True).clip(1e-12), np.float32)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation (3, 3) about x, then y, then z by `angles` in radians."""
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        rotation = step @ rotation
    return rotation
