"""A small phantom of straight fibers whose direction turns from layer to layer, as in plywood.

Fibers are perfectly continuous along themselves, and change across the layers: along x, y or z in one third of the
block each, so that the continuity of fibers determines the rotation of the b-vectors about every axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.imaging import Dwi, GradientTable, Volume

GRID = (30, 24, 9)
PARALLEL, PERPENDICULAR = 1.4e-3, 0.5e-3  # mm^2/s: harmonics of order 4 suffice at b=1000
BRIGHTNESS = 800.0
SIGMA = 20.0  # SNR 40 at b=0
TURN = 0.35  # radians from layer to layer


def table(shells: Sequence[tuple[float, int]] = ((1000, 32), (2000, 60)), b0: int = 3) -> GradientTable:
    """A gradient table in the world frame: the b=0 volumes first, then the shells of (b-value, volumes)."""
    bvals = np.concatenate([np.zeros(b0), *(np.full(count, bvalue) for bvalue, count in shells)])
    bvecs = np.concatenate([np.zeros((b0, 3)), *(electrostatic_directions(count) for _, count in shells)])
    return GradientTable(bvals, bvecs, "world")


def fibers(affine: NDArray[np.float64], grid: tuple[int, int, int] = GRID) -> NDArray[np.float64]:
    """(x, y, z, 3) the direction of the fiber in each voxel, in the world frame."""
    place = np.indices(grid).reshape(3, -1)
    layers = np.minimum(place[0] * 3 // grid[0], 2)  # of this third of the block: the axis along which they turn
    angle = TURN * place[layers, np.arange(place.shape[1])]
    along = np.zeros((place.shape[1], 3))
    along[np.arange(len(along)), (layers + 1) % 3] = np.cos(angle)
    along[np.arange(len(along)), (layers + 2) % 3] = np.sin(angle)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return (along @ axes.T).reshape(*grid, 3)


def block(
    gradients: GradientTable | None = None,
    affine: NDArray[np.float64] | None = None,
    *,
    sigma: float = SIGMA,
    parallel: float = PARALLEL,
    grid: tuple[int, int, int] = GRID,
    seed: int = 0,
) -> Dwi:
    """The DWI series of a block of fibers, with Gaussian noise; `gradients` are in the world frame.

    `parallel` is the diffusivity along the fibers, in mm^2/s.
    """
    gradients = gradients or table()
    affine = np.diag([-2.0, 2, 2, 1]) if affine is None else affine
    cosine = fibers(affine, grid) @ gradients.bvecs.T
    signal = BRIGHTNESS * np.exp(-gradients.bvals * (PERPENDICULAR + (parallel - PERPENDICULAR) * cosine**2))
    signal += sigma * np.random.default_rng(seed).standard_normal(signal.shape)
    return Dwi(Volume(np.asfortranarray(signal.astype(np.float32)), affine), gradients)


def mask_of(dwi: Dwi) -> Volume:
    """A mask without the corners of each slice, so that rows of voxels begin and end at different places."""
    x, y, _ = np.indices(dwi.volume.grid)
    corner = np.minimum(x, dwi.volume.grid[0] - 1 - x) + np.minimum(y, dwi.volume.grid[1] - 1 - y) < 4
    return Volume((~corner).astype(np.uint8), dwi.affine)


def changed(dwi: Dwi, volume: int, slices: slice, factor: float) -> Dwi:
    """The same DWI series with some slices of one volume multiplied by `factor`."""
    array = np.array(dwi.array, order="F")
    array[:, :, slices, volume] *= factor
    return dwi.with_array(array)
