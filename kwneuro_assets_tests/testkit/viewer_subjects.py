"""Derivatives of a made-up head on grids of several orientations, with a marker on the subject's left."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import MapSet, Volume

GRIDS = ("RAS", "LAS", "oblique", "permuted")
SHAPE = (36, 40, 24)
SPACING = np.array([2.0, 2.0, 2.5])  # mm, from left to right, posterior to anterior, inferior to superior
MARKER = np.array([-16.0, 8.0, 5.0])  # mm, RAS+: on the left, anterior, superior
NAMES = tuple(f"{name}_{side}" for name in ("AF", "CST", "UF", "ILF", "OR") for side in ("left", "right"))
_TILT = 20  # degrees, about the inferior-superior axis


def affine_of(orientation: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The affine of a grid of `shape` whose center is the origin of the world."""
    axes = np.diag(SPACING)
    if orientation == "LAS":
        axes[:, 0] *= -1
    elif orientation == "oblique":
        cosine, sine = np.cos(np.radians(_TILT)), np.sin(np.radians(_TILT))
        axes = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ axes
    elif orientation == "permuted":  # the indices run to superior, left and anterior
        axes = np.stack([axes[:, 2], -axes[:, 0], axes[:, 1]], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ ((np.array(shape[:3]) - 1) / 2)
    return affine


def subject_on(orientation: str, shape: tuple[int, int, int] = SHAPE) -> dict[str, Any]:
    """The arguments of `viewer_volumes`. `shape` is from left to right, posterior to anterior, inferior to superior.

    The brain is an ellipsoid with random signals; a ball at MARKER is bright, anisotropic and in the left bundles.
    """
    x, y, z = shape
    stored = (z, x, y) if orientation == "permuted" else shape
    affine = affine_of(orientation, stored)
    world = affine[:3, :3] @ np.indices(stored).reshape(3, -1) + affine[:3, 3:]
    world = world.reshape(3, *stored)
    half = np.array(shape) * SPACING / 2
    radius = np.sqrt(sum((world[axis] / (0.78 * half[axis])) ** 2 for axis in range(3)))
    brain, marker = radius < 1, sum((world[axis] - MARKER[axis]) ** 2 for axis in range(3)) < 5.0**2
    random = np.random.default_rng(7)

    def volume(values: NDArray[Any], names: tuple[str, ...] = ()) -> Volume:
        return Volume(np.asfortranarray(values), affine, names)

    def smooth(low: float, high: float) -> NDArray[np.float64]:
        return np.clip(low + (high - low) * (1 - radius) + random.normal(0, 0.03, stored), 0, 1)

    head = 300 * (radius < 1.2) + 400 * (1 - np.clip(radius, 0, 1)) + np.abs(random.normal(0, 12, stored))
    vectors = random.normal(size=(*stored, 9)).astype(np.float32)
    vectors[..., :3] /= np.linalg.norm(vectors[..., :3], axis=-1, keepdims=True)
    vectors[marker, :3] = (1, 0, 0)
    fractions = random.dirichlet((4, 2, 1), stored)
    bundles = np.zeros((*stored, len(NAMES)), np.uint8)
    for index, name in enumerate(NAMES):
        side = world[0] < -2 if name.endswith("_left") else world[0] > 2
        bundles[..., index] = side & brain & (np.abs(world[1] - 6 * (index // 2) + 14) < 4)
    bundles[..., NAMES.index("CST_left")] |= marker
    return {
        "mean_b0": volume(np.where(marker, 1000, head)),
        "brain_mask": volume(brain),
        "dti": MapSet({"fa": volume(np.where(marker, 1.0, smooth(0.1, 0.6)) * brain), "evecs": volume(vectors)}),
        "noddi": MapSet({name: volume(smooth(0.2, 0.7) * brain) for name in ("ndi", "odi", "fwf")}),
        "csd_peaks": MapSet(
            {
                "peakvalues": volume(random.random((*stored, 3)) * brain[..., None]),
                **{
                    name: volume(fractions[..., index] * brain)
                    for index, name in enumerate(("wmfraction", "gmfraction", "csffraction"))
                },
            }
        ),
        "tract_masks": volume(bundles, NAMES),
    }
