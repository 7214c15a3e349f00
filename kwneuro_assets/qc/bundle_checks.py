"""Which bundles of a subject to check: empty, much larger on one side, outside the brain, or with one ending only.

The limits are far from TractSeg's reference subject (its `tests/reference_files`, 2.5 mm): there, the larger side of a
pair has at most 1.32 times the volume of the other (the fornix; 31 pairs), and every bundle lies fully inside the brain
mask. A bundle beyond a limit is not wrong for certain: the arcuate fasciculus is much smaller on the right in many
healthy adults (Catani et al., PNAS 104, 2007, doi:10.1073/pnas.0702116104), and a tumor may displace a bundle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Volume

MAX_SIDE_RATIO = 2.0  # volume of the larger side of a pair divided by that of the other
MAX_OUTSIDE = 0.1  # fraction of the volume of a bundle outside the brain mask

NONE = "none"


class Pair(NamedTuple):
    """A bundle with a left and a right side, and the voxels of each."""

    bundle: str
    left: int
    right: int

    @property
    def ratio(self) -> float:
        """The voxels of the larger side divided by those of the other: infinite if only one is found, 1 if none is."""
        larger, smaller = max(self.left, self.right), min(self.left, self.right)
        return larger / smaller if smaller else math.inf if larger else 1.0

    def __str__(self) -> str:
        larger, smaller = ("left", "right") if self.left > self.right else ("right", "left")
        sides = f"{larger} {self.ratio:.2g} times {smaller}" if min(self.left, self.right) else f"{larger} only"
        return f"{self.bundle} ({sides})"


def empty(names: Sequence[str], voxels: NDArray[np.int64]) -> list[str]:
    """The names of the volumes without a voxel.

    >>> empty(["AF_left", "CA"], np.array([0, 3]))
    ['AF_left']
    """
    return [name for name, count in zip(names, voxels, strict=True) if not count]


def pairs(names: Sequence[str], voxels: NDArray[np.int64]) -> list[Pair]:
    """The pairs `<bundle>_left` and `<bundle>_right` among the names, in their order.

    >>> [str(pair) for pair in pairs(["CST_left", "CST_right", "CA"], np.array([40, 100, 5]))]
    ['CST (right 2.5 times left)']
    """
    counts = dict(zip(names, voxels.tolist(), strict=True))
    bundles = [name.removesuffix("_left") for name in counts if name.endswith("_left")]
    return [
        Pair(bundle, counts[f"{bundle}_left"], counts[f"{bundle}_right"])
        for bundle in bundles
        if f"{bundle}_right" in counts
    ]


def one_sided(names: Sequence[str], voxels: NDArray[np.int64]) -> list[Pair]:
    """The pairs of which one side has more than `MAX_SIDE_RATIO` times the volume of the other, or is the only one."""
    return [pair for pair in pairs(names, voxels) if pair.ratio > MAX_SIDE_RATIO]


def outside(stack: Volume, names: Sequence[str], voxels: NDArray[np.int64], brain: NDArray[np.bool_]) -> list[str]:
    """The bundles with more than `MAX_OUTSIDE` of their volume outside `brain` (x, y, z), with this fraction."""
    beyond = np.asfortranarray(~brain)  # the order of stored images: both arrays are read once, in their order
    found = []
    for name, count, mask in zip(names, voxels.tolist(), stack.volumes(), strict=True):
        fraction = np.count_nonzero((mask > 0) & beyond) / count if count else 0
        if fraction > MAX_OUTSIDE:
            found.append(f"{name} ({fraction:.0%})")
    return found


def with_one_ending(names: Sequence[str], voxels: NDArray[np.int64]) -> list[str]:
    """The bundles of which one of both endings, `<bundle>_b` and `<bundle>_e`, is empty; with the name of this one.

    >>> with_one_ending(["CST_left_b", "CST_left_e", "CA_b", "CA_e"], np.array([0, 7, 0, 0]))
    ['CST_left_b']
    """
    counts = dict(zip(names, voxels.tolist(), strict=True))
    other = {"b": "e", "e": "b"}
    return [
        name for name, count in counts.items() if not count and counts.get(f"{name[:-1]}{other.get(name[-1], '')}", 0)
    ]


def listed(found: Sequence[object]) -> str:
    """What was found, for a cell of a table; `none` if nothing was.

    >>> listed(["AF_left", "CA"]), listed([])
    ('AF_left, CA', 'none')
    """
    return ", ".join(map(str, found)) or NONE


def voxel_counts(stack: NDArray[Any]) -> NDArray[np.int64]:
    """The number of nonzero voxels (n,) in each volume of a stack (x, y, z, n)."""
    if stack.strides[3] == max(stack.strides):  # each volume is contiguous
        return np.array([np.count_nonzero(stack[..., layer]) for layer in range(stack.shape[3])], np.int64)
    counts = np.zeros(stack.shape[3], np.int64)
    for slab in stack:
        counts += np.count_nonzero(slab, axis=(0, 1))
    return counts
