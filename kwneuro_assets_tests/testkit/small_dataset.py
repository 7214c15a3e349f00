"""A tiny BIDS dataset of one tensor with a known direction in the world frame.

The module uses the simplest implementation, independent of the package, so that it can serve as an oracle: nibabel
writes the files, and b-vectors are converted to the FSL frame one axis at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.settings import PipelineSettings

GRID = (8, 7, 6)
SHELLS = (700.0, 1000.0, 2000.0)  # s/mm^2
DIRECTIONS = 8  # per shell: two more than a tensor needs
B0_VOLUMES = 2
FIBER = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)  # world frame; different components, so that swapped axes are detected
EIGENVALUES = (1.7e-3, 0.3e-3, 0.3e-3)  # mm^2/s: white matter (Pierpaoli 1996)
FA = float(np.sqrt(1.5 * np.var(EIGENVALUES) * 3 / np.sum(np.square(EIGENVALUES))))
SIGNAL = 1000.0  # at b=0 in the middle of the head


def rotation(x: float, y: float, z: float) -> NDArray[np.float64]:
    """The rotation (3, 3) by these degrees about x, then y, then z."""
    a, b, c = np.radians([x, y, z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def affine_of(axes: NDArray[np.float64], zooms: Sequence[float] = (2, 2.5, 3)) -> NDArray[np.float64]:
    """The affine (4, 4) with these voxel axes (columns, world frame) and edge lengths in mm."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(zooms)
    affine[:3, 3] = (-9, 4, 11)
    return affine


AFFINES: dict[str, NDArray[np.float64]] = {
    "left-handed": affine_of(np.diag([-1.0, 1, 1])),
    "right-handed": affine_of(np.eye(3)),
    "oblique": affine_of(rotation(12, -20, 33)),
    "left-handed oblique": affine_of(rotation(-35, 8, 14) @ np.diag([-1.0, 1, 1])),
    "permuted": affine_of(np.eye(3)[:, [2, 0, 1]]),
    "permuted and flipped": affine_of(np.eye(3)[:, [1, 0, 2]] @ np.diag([1.0, -1, 1])),
}


@dataclass(frozen=True)
class Table:
    """b-values (n,) and b-vectors (n, 3) in the world frame."""

    bvals: NDArray[np.float64]
    world: NDArray[np.float64]


def table(shells: Sequence[float] = SHELLS, directions: int = DIRECTIONS, b0: int = B0_VOLUMES) -> Table:
    """A gradient table: b=0 volumes, then the shells, with distinct directions on a spiral over half a sphere."""
    count = directions * len(shells)
    steps = np.arange(count)
    height = 1 - (steps + 0.5) / max(count, 1)
    angle = steps * np.pi * (3 - np.sqrt(5))
    spiral = np.column_stack([np.sqrt(1 - height**2) * np.cos(angle), np.sqrt(1 - height**2) * np.sin(angle), height])
    # Neighbors on the spiral belong to different shells, so that each shell covers the half sphere.
    order = steps.reshape(directions, -1).T.ravel() if count else steps
    bvals = np.concatenate([np.zeros(b0), np.repeat(np.asarray(shells, float), directions)])
    return Table(bvals, np.concatenate([np.zeros((b0, 3)), spiral[order]]))


def head(grid: tuple[int, int, int] = GRID) -> NDArray[np.bool_]:
    """The mask of a head: an ellipsoid without the outermost voxels."""
    where = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in grid], indexing="ij"))
    return np.asarray((where**2).sum(axis=0) < 1)


def signal(directions: Table, grid: tuple[int, int, int] = GRID) -> NDArray[np.float32]:
    """The signal (x, y, z, n) of a head with one fiber population along FIBER; zero outside, no noise.

    The brightness increases along the first axis.
    """
    tensor = EIGENVALUES[1] * np.eye(3) + (EIGENVALUES[0] - EIGENVALUES[1]) * np.outer(FIBER, FIBER)
    attenuation = [
        np.exp(-b * vector @ tensor @ vector) for b, vector in zip(directions.bvals, directions.world, strict=True)
    ]
    brightness = SIGNAL * np.linspace(0.8, 1.2, grid[0])[:, None, None] * head(grid)
    return np.asarray(brightness[..., None] * np.array(attenuation), np.float32)


def to_fsl(world: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """World vectors (n, 3) in the FSL frame: along the voxel axes, x negated if the determinant is positive."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = np.array([[vector @ axes[:, axis] for axis in range(3)] for vector in world])
    if np.linalg.det(affine[:3, :3]) > 0:
        along[:, 0] = -along[:, 0]
    return along


def load(path: Path) -> Any:
    """The image from nibabel, untyped because nibabel does not type NIfTI images."""
    return nibabel.load(path)


def dwi_folder(root: Path, key: str) -> Path:
    """The folder of `sub-01_ses-02`: `sub-01/ses-02/dwi`."""
    return root.joinpath(*key.split("_"), "dwi")


def write_series(
    root: Path,
    key: str = "sub-01",
    *,
    entities: str = "",
    affine: NDArray[np.float64] | None = None,
    directions: Table | None = None,
    extension: str = ".nii.gz",
    gradients: bool = True,
    brightness: float = 1.0,
) -> Path:
    """Write image, bval and bvec of one run, with `entities` such as `run-2` in their names; returns the image path.

    By default, `affine` is right-handed and `directions` has three shells. Without `gradients`, only the image is
    written.
    """
    affine = AFFINES["right-handed"] if affine is None else affine
    directions = directions or table()
    folder = dwi_folder(root, key)
    folder.mkdir(parents=True, exist_ok=True)
    stem = "_".join([key, *([entities] if entities else []), "dwi"])
    image = folder / f"{stem}{extension}"
    nibabel.save(nibabel.Nifti1Image(signal(directions) * np.float32(brightness), affine), image)
    if gradients:
        write_gradients(folder / stem, directions, affine)
    return image


def write_gradients(stem: Path, directions: Table, affine: NDArray[np.float64]) -> None:
    """Write `stem.bval` and `stem.bvec`, the latter with three rows."""
    np.savetxt(f"{stem}.bval", directions.bvals[None], fmt="%g")
    np.savetxt(f"{stem}.bvec", to_fsl(directions.world, affine).T, fmt="%.8f")


def write_mask(
    root: Path,
    key: str = "sub-01",
    *,
    affine: NDArray[np.float64] | None = None,
    inside: NDArray[np.bool_] | None = None,
) -> Path:
    """Write a brain mask beside the DWI, by default of the head; returns its path."""
    folder = dwi_folder(root, key)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}_desc-brain_mask.nii.gz"
    values = (head() if inside is None else inside).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, AFFINES["right-handed"] if affine is None else affine), path)
    return path


def write_dataset(root: Path, keys: Sequence[str] = ("sub-01",)) -> Path:
    """Write a dataset of these subjects (and sessions), each with one run and a mask; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "small", "BIDSVersion": "1.11.1"}\n')
    for key in keys:
        write_series(root, key)
        write_mask(root, key)
    return root


def settings_for(source: Path, /, **sections: dict[str, object]) -> PipelineSettings:
    """`small_settings` with the store beside the source."""
    return small_settings(source, source.parent / "store", **sections)


def small_settings(source: Path, store: Path, /, **sections: dict[str, object]) -> PipelineSettings:
    """Settings for a small dataset: provided masks, no denoising, no settling time; updated by `sections`."""
    tree: dict[str, dict[str, object]] = {
        "source": {"url": str(source)},
        "store": {"url": str(store)},
        "denoising": {"method": "none"},
        "brain_mask": {"method": "provided"},
        "ingestion": {"settle_seconds": 0},
    }
    for name, keys in sections.items():
        tree[name] = {**tree.get(name, {}), **keys}
    return PipelineSettings.model_validate(tree)
