"""The subjects of the demo: the standard head, and a small cohort of other heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kwneuro_assets.demo.head_shape import HeadShape
from kwneuro_assets.demo.phantom import VOXEL, grid_around, is_complete, write_phantom

_STREAM = 20261  # random numbers that no head in the training of the demo's networks has


def subject_of(number: int) -> str:
    """The key of a subject of the demo; numbers start at 1."""
    return f"sub-{number:02d}"


def write_heads(folder: Path, count: int, voxel: float = VOXEL) -> list[str]:
    """Write the subjects 1 to `count` that are not yet complete into the BIDS dataset `folder`; returns their keys.

    The first is the standard head. The others differ in size, proportions, pose, cortex and noise; a subject is the
    same in every cohort. `voxel` is the size of the voxels in mm.
    """
    keys = [subject_of(number) for number in range(1, count + 1)]
    for index, key in enumerate(keys):
        if not is_complete(folder, key):
            anatomy = _shape(index)
            affine, shape = grid_around(anatomy, voxel)
            write_phantom(folder, key, seed=index, affine=affine, shape=shape, shape_of_head=anatomy)
    return keys


def _shape(index: int) -> HeadShape:
    return HeadShape.random(np.random.default_rng([_STREAM, index])) if index else HeadShape.standard()
