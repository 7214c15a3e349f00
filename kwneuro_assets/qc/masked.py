"""The signals of a DWI series in the voxels of a mask, read once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, GradientTable
from kwneuro_assets.threads import parallel_map

Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MaskedSeries:
    """The signals in a mask: `signals` (n, voxels), float32; voxels in Fortran order of the grid, x fastest.

    `positions` (voxels,) are the ascending flat indices of the voxels in that order, and `gradients` the gradient table
    of the n volumes, in the FSL frame. The voxels of one slice (third voxel axis) are contiguous.
    """

    signals: NDArray[np.float32]
    positions: NDArray[np.intp]
    grid: tuple[int, int, int]
    affine: NDArray[np.float64]
    gradients: GradientTable

    @cached_property
    def slices(self) -> list[tuple[int, slice]]:
        """The slices that contain voxels: the index along the third voxel axis, and the range of its voxels."""
        plane = self.grid[0] * self.grid[1]
        starts = np.searchsorted(self.positions, np.arange(self.grid[2] + 1) * plane)
        return [
            (z, slice(int(start), int(stop)))
            for z, (start, stop) in enumerate(itertools.pairwise(starts))
            if stop > start
        ]

    @cached_property
    def neighbors(self) -> dict[int, tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """By slice, the pairs of adjacent voxels in it, along x and along y: their indices, from its first voxel."""
        width = self.grid[0]
        found = {}
        for z, part in self.slices:
            place = self.positions[part]
            pairs = []
            for step, is_inside in ((1, place % width < width - 1), (width, np.ones(place.size, np.bool_))):
                after = np.minimum(np.searchsorted(place, place + step), place.size - 1)
                first = np.flatnonzero((place[after] == place + step) & is_inside)
                pairs.append((first, after[first]))
            found[z] = (
                np.concatenate([first for first, _ in pairs]),
                np.concatenate([second for _, second in pairs]),
            )
        return found

    def at(self, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(voxels,) the values of a map (x, y, z) in the voxels of the mask."""
        return inside.ravel(order="F")[self.positions]


class Observer(Protocol):
    """What is computed from entire volumes while they are read."""

    def prepared(self, index: int, image: Image) -> Any:
        """What `add` needs of volume `index`, (x, y, z); called on any thread."""

    def add(self, index: int, prepared: Any) -> None:
        """Adds volume `index`; called in the order of the volumes, on one thread."""


def read_masked(dwi: Dwi, inside: NDArray[np.bool_], observers: Sequence[Observer] = ()) -> MaskedSeries:
    """The signals in the voxels `inside` (x, y, z), from one pass over the volumes of the DWI series."""
    positions = np.flatnonzero(inside.ravel(order="F"))
    signals = np.empty((len(dwi.gradients), positions.size), np.float32)

    def read(numbered: tuple[int, Image]) -> list[Any]:
        index, image = numbered
        np.take(image.ravel(order="F"), positions, out=signals[index])
        return [one.prepared(index, image) for one in observers]

    for index, prepared in enumerate(parallel_map(read, enumerate(dwi.images()))):
        for observer, one in zip(observers, prepared, strict=True):
            observer.add(index, one)
    return MaskedSeries(signals, positions, dwi.volume.grid, dwi.affine, dwi.gradients)
