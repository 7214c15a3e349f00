"""Synthetic heads to train the demo's networks on: fibers and known bundles on a grid, from formulas, without images.

A head has its own anatomy (`HeadShape`, `Cortex`), voxel size and position in its grid, whose voxel axes are those of
the images that TractSeg works on (L-A-S).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.demo.anatomy import GRAY, TISSUES, WHITE, Cortex, head
from kwneuro_assets.demo.bundles import fibers
from kwneuro_assets.demo.head_shape import HeadShape
from kwneuro_assets.demo.tract_labels import (
    LABELED,
    LABELED_ENDINGS,
    MAIN_AXES,
    ending_labels,
    tract_directions,
    tract_labels,
)

VOXELS = (2.2, 3.8)  # mm, smallest and largest
BRAIN = np.array([160.0, 205.0, 180.0])  # mm, a box around an adult's brain and the foramen magnum
BRAIN_CENTER = np.array([0.0, -16.0, 2.0])  # mm, of that box in the adult frame
SAMPLES = 4  # per voxel, at random places: partial volumes
LARGER_MASKS = (0.25, 0.6, 0.15)  # proportion of heads whose mask extends 0, 1 and 2 voxels beyond the brain
CUBE = 144  # voxels along each edge of TractSeg's input

# All parts of the corpus callosum have its direction.
DIRECTED: tuple[str, ...] = tuple(name for name in LABELED if not name.startswith("CC_"))
_DIRECTED = [LABELED.index(name) for name in DIRECTED]
_ALONG_X = np.array([MAIN_AXES[index] == 0 for index in _DIRECTED])


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Fibers and bundles of a head on its grid, or on one slice of it; all arrays begin with the axes of the grid."""

    white: NDArray[np.float32]  # volume fraction of white matter, 0 outside the brain
    gray: NDArray[np.float32]  # of gray matter
    mask: NDArray[np.bool_]  # where peaks are computed: the brain, and some voxels around it
    fractions: NDArray[np.float32]  # (..., 3) of the fiber populations, largest first
    directions: NDArray[np.float16]  # (..., 3, 3) of these, in the world frame
    labels: NDArray[np.bool_]  # (..., 17) of the tracts LABELED
    endings: NDArray[np.bool_]  # (..., 34) of LABELED_ENDINGS
    tangents: NDArray[np.float16]  # (..., 10, 3), directions of the tracts DIRECTED in the world frame

    @classmethod
    def random(cls, generator: np.random.Generator) -> Anatomy:
        """A head with random anatomy, voxel size and position, cropped to its mask."""
        shape, cortex = HeadShape.random(generator), Cortex.random(generator)
        # Uniform on a logarithmic scale
        voxel = float(np.exp(generator.uniform(*np.log(VOXELS))))
        corners = np.stack(np.meshgrid(*[[-0.6, 0.6]] * 3), axis=-1).reshape(-1, 3) * BRAIN
        # The linear part is enough to find a box around the brain; the warp moves points by few mm.
        world = (BRAIN_CENTER + corners / 1.2) @ np.linalg.inv(shape.linear / shape.scale).T
        low = world.min(axis=0) - generator.uniform(4, 6, 3) * voxel
        grid = tuple(int(n) for n in np.ceil((world.max(axis=0) - low) / voxel + 5))
        return cls._on_grid(shape, cortex, low, grid, voxel, generator)._cropped()

    @classmethod
    def _on_grid(
        cls,
        shape: HeadShape,
        cortex: Cortex,
        low: NDArray[np.float64],
        grid: tuple[int, ...],
        voxel: float,
        generator: np.random.Generator,
    ) -> Anatomy:
        from scipy.ndimage import binary_dilation

        index = np.indices(grid).reshape(3, -1).T
        points = low + voxel * index
        points[:, 0] = low[0] + voxel * (grid[0] - 1 - index[:, 0])  # the first voxel axis points to the left
        tissues = np.zeros((len(points), len(TISSUES)), np.float32)
        inside = np.zeros(len(points), np.float32)
        for offset in generator.uniform(-0.4, 0.4, (SAMPLES, 3)):
            sample = head(shape.adult(points + offset * voxel), cortex)
            tissues += sample.fractions / SAMPLES
            inside += sample.brain / np.float32(SAMPLES)
        brain = inside >= 0.5
        larger = int(generator.choice(len(LARGER_MASKS), p=LARGER_MASKS))
        mask = binary_dilation(brain.reshape(grid), iterations=larger).ravel() if larger else brain
        return cls._of_tissues(shape, points, tissues * brain[:, None], mask, grid)

    @classmethod
    def _of_tissues(
        cls,
        shape: HeadShape,
        points: NDArray[np.float64],
        tissues: NDArray[np.float32],
        mask: NDArray[np.bool_],
        grid: tuple[int, ...],
    ) -> Anatomy:
        at, white = points[mask], tissues[mask, WHITE]
        adult = shape.adult(at)
        found = fibers(adult)

        def full(values: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
            array = np.zeros((len(points), *values.shape[1:]), dtype)
            array[mask] = values
            return array.reshape(*grid, *values.shape[1:])

        return cls(
            tissues[:, WHITE].reshape(grid),
            tissues[:, GRAY].reshape(grid),
            mask.reshape(grid),
            full(found.fractions, np.float32),
            full(shape.world_directions(at, found.directions), np.float16),
            full(tract_labels(adult, white), np.bool_),
            full(ending_labels(adult, white), np.bool_),
            full(shape.world_directions(at, tract_directions(adult)[:, _DIRECTED]), np.float16),
        )

    def _cropped(self) -> Anatomy:
        inside = np.argwhere(self.mask)
        box = tuple(slice(low, high) for low, high in zip(inside.min(axis=0), inside.max(axis=0) + 1, strict=True))
        return Anatomy(*(np.ascontiguousarray(getattr(self, field.name)[box]) for field in fields(self)))

    def slice(self, axis: int, index: int) -> Anatomy:
        """One slice across a voxel axis."""
        return Anatomy(*(np.take(getattr(self, field.name), index, axis) for field in fields(self)))

    def mirrored(self, axis: int | None) -> Anatomy:
        """The mirror image of a head, or of its slice across `axis`: left and right change places, also in names."""
        flip = slice(None) if axis == 0 else slice(None, None, -1)
        across = np.array([-1, 1, 1], np.float16)
        # A tangent stays positive along the tract's main axis.
        tangents = across * np.where(_ALONG_X, -1, 1).astype(np.float16)[:, None]
        return Anatomy(
            self.white[flip],
            self.gray[flip],
            self.mask[flip],
            self.fractions[flip],
            self.directions[flip] * across,
            self.labels[flip][..., _other_side(LABELED)],
            self.endings[flip][..., _other_side(LABELED_ENDINGS)],
            self.tangents[flip][..., _other_side(DIRECTED), :] * tangents,
        )

    @cached_property
    def cube(self) -> list[NDArray[np.intp]]:
        """For each axis, the voxel at each of the 144 places of TractSeg's cube; -1 is padding."""
        return cube_index(self.mask.shape)


def cube_index(shape: tuple[int, ...]) -> list[NDArray[np.intp]]:
    """The voxel at each place of TractSeg's cube, per axis: an image of `shape` padded to a cube and scaled to 144.

    The same as TractSeg's `pad_and_scale_img_to_square_img`, which scales by nearest neighbor, axis by axis.
    """
    from scipy.ndimage import zoom

    longest, places = max(shape), []
    for length in shape:
        line = np.full(longest, -1.0)
        start = (longest - length) // 2
        line[start : start + length] = np.arange(length)
        places.append(np.rint(zoom(line, CUBE / longest, order=0)).astype(np.intp))
    return places


def in_cube(values: NDArray[np.floating], places: list[NDArray[np.intp]]) -> NDArray[np.float32]:
    """A slice (a, b, ...) of a head in TractSeg's cube (144, 144, ...), zero in the padding."""
    first, second = places
    inside = (first >= 0)[:, None] & (second >= 0)
    picked = values[np.ix_(first.clip(0), second.clip(0))]
    return np.asarray(picked * inside.reshape(*inside.shape, *[1] * (values.ndim - 2)), np.float32)


@cache
def _other_side(names: tuple[str, ...]) -> list[int]:
    """For each name, the index of the name in a mirrored head: tracts across the midline exchange their two ends."""
    other = {"left": "right", "right": "left", "b": "e", "e": "b"}

    def mirrored(name: str) -> str:
        parts = name.split("_")
        unpaired = not {"left", "right"} & set(parts)
        return "_".join(other[p] if p in other and (len(p) > 1 or unpaired) else p for p in parts)

    return [names.index(mirrored(name)) for name in names]
