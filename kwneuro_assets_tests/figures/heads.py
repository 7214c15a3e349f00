"""Synthetic heads on grids of every orientation, identical in the world frame, for tests of figures."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, ResponseFunction, TissueResponses, Volume
from kwneuro_assets_tests.derivations.tissues import true_responses

VOXEL = np.array([2.0, 2.0, 2.5])
BUNDLES = (*(f"{kind}_{side}" for kind in ("AF", "CST", "UF") for side in ("left", "right")), "CC", "MCP")


def _tilted(x_degrees: float, z_degrees: float) -> NDArray[np.float64]:
    a, b = np.radians([x_degrees, z_degrees])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_z @ about_x


AXES = {
    "ras": np.eye(3),
    "las": np.diag([-1.0, 1, 1]),
    "lpi": np.diag([-1.0, -1, -1]),
    "oblique": _tilted(15, 8),
    "oblique-20": _tilted(20, 20),
    "oblique-permuted": _tilted(20, 20) @ np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]]),
    "oblique-left": _tilted(15, 8) @ np.diag([-1.0, 1, 1]),
    "sagittal": np.array([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0]]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
}


def affine_of(orientation: str, grid: tuple[int, int, int]) -> NDArray[np.float64]:
    """An affine with those axes and the world's origin in the middle of the grid."""
    affine = np.eye(4)
    affine[:3, :3] = AXES[orientation] * VOXEL
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(grid) - 1) / 2)
    return affine


def world(affine: NDArray[np.float64], grid: tuple[int, int, int]) -> NDArray[np.float64]:
    """The world coordinates (x, y, z, 3) of the voxels in mm."""
    voxels = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def ball(coordinates: NDArray[np.float64], center: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.linalg.norm(coordinates - np.array(center), axis=-1) < radius
    return inside


def head(orientation: str = "ras", grid: tuple[int, int, int] = (34, 36, 30)) -> Volume:
    """A gray ball with a bright ball in it, left, anterior and superior of the middle."""
    affine = affine_of(orientation, grid)
    coordinates = world(affine, grid)
    image = 100.0 * ball(coordinates, (0, 0, 0), 28) + 1000.0 * ball(coordinates, (-8, 8, 8), 14)
    return Volume(image.astype(np.float32), affine)


def every_value(grid: tuple[int, int, int], orientation: str, seed: int = 0) -> dict[str, Any]:
    """A value for each asset, random inside a mask of at least one voxel, zero outside."""
    random = np.random.default_rng(seed)
    affine = affine_of(orientation, grid)
    mask = ball(world(affine, grid), (0, 0, 0), 12)
    mask[tuple(length // 2 for length in grid)] = True

    def volume(*shape: int, names: tuple[str, ...] = ()) -> Volume:
        values = random.uniform(0, 1, (*grid, *shape)) * mask.reshape(*grid, *[1] * len(shape))
        return Volume(values.astype(np.float32), affine, names)

    def vectors(count: int) -> NDArray[np.float32]:
        values = random.normal(size=(*grid, count, 3))
        values /= np.linalg.norm(values, axis=-1, keepdims=True)
        return (values * mask[..., None, None]).reshape(*grid, 3 * count).astype(np.float32)

    def masks(names: tuple[str, ...]) -> Volume:
        inside = (random.uniform(size=(*grid, len(names))) < 0.2) & mask[..., None]
        return Volume(inside.astype(np.uint8), affine, names)

    bvecs = np.array([[0, 0, 0], *itertools.permutations([1.0, 0, 0], 3)])
    table = GradientTable(np.array([0, *[1000] * 3, *[3000] * 3]), bvecs, "world")
    noisy = Dwi(Volume((1 + random.uniform(0, 1, (*grid, 7))).astype(np.float32), affine), table)
    amplitudes = -np.sort(-volume(5).array, axis=-1)
    return {
        "dwi": noisy,
        "denoised_dwi": noisy.with_array(0.9 * noisy.array),
        "mean_b0": noisy.mean_b0(),
        "brain_mask": Volume(mask, affine),
        "dti": MapSet(
            {
                "fa": volume(),
                "md": volume(),
                "evals": Volume(amplitudes[..., :3], affine),
                "evecs": Volume(vectors(3), affine),
            }
        ),
        "noddi": MapSet({name: volume() for name in ("ndi", "odi", "fwf")}),
        "fiber_response": ResponseFunction(np.array([200.0, -130, 40, -9]), 3000, 300),
        "csd_peaks": MapSet({"peaks": Volume(vectors(5), affine), "peakvalues": Volume(amplitudes, affine)}),
        "tract_masks": masks(BUNDLES),
        "tract_endings": masks(tuple(f"{bundle}_{end}" for bundle in BUNDLES for end in "be")),
        "tract_orientations": Volume(vectors(len(BUNDLES)), affine),
    }


def three_tissues(grid: tuple[int, int, int], orientation: str, seed: int = 0) -> dict[str, Any]:
    """The same for multi-tissue deconvolution: three responses, and random tissue fractions among the peaks."""
    values = every_value(grid, orientation, seed)
    mask, affine = values["brain_mask"].array, values["brain_mask"].affine
    fractions = np.random.default_rng(seed).dirichlet([1, 1, 1], grid).astype(np.float32) * mask[..., None]
    names = ("wmfraction", "gmfraction", "csffraction")
    maps = {name: Volume(fractions[..., index], affine) for index, name in enumerate(names)}
    return {
        **values,
        "fiber_response": counted(true_responses()),
        "csd_peaks": MapSet({**values["csd_peaks"], **maps}),
    }


def counted(responses: TissueResponses) -> TissueResponses:
    return replace(responses, wm_voxels=300, gm_voxels=142, csf_voxels=100)
