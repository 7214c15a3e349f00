"""Check of the gradient table: finds flipped or swapped axes from the coherence of fibers.

A fiber continues in the neighboring voxel that it points to. If an axis of the b-vectors is flipped or two are swapped,
the tensors rotate within their voxels, and their directions no longer point to voxels of the same fiber. MRtrix3's
dwigradcheck tests this with tractography (Jeurissen et al., Medical Image Analysis 18, 2014,
doi:10.1016/j.media.2014.05.012); this module compares neighboring voxels, as Schilling et al., Magnetic Resonance
Imaging 58 (2019) 82-89. A signed permutation of the b-vectors rotates the fitted tensor in the same way, so one fit,
accumulated while the volumes are read, serves all 24 permutations.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.tensor import UNKNOWNS, tensor_design, tensor_volumes
from kwneuro_assets.imaging import GradientTable, NotApplicable
from kwneuro_assets.imaging.gradients import fsl_to_world

MAX_BVALUE = 1500.0  # s/mm^2: the tensor is a poor model above it; higher shells are used only if needed
BLOCK = (96, 96, 24)  # voxels around the center of the head: most of the white matter, in 7 maps of 1 MB
MIN_BRIGHTNESS = 0.1  # of the 98th percentile of S0: includes white matter far from the coil, well above the noise
MIN_FA = 0.3  # one fiber population dominates; results do not change from 0.2 to 0.5
SAME_FIBER = np.cos(np.radians(40))  # a bundle may bend by this much in a step; 20 to 50 degrees give the same result

# The decision rule. A false warning is worse than none: the gradient table is reported as wrong only if the same other
# table fits better in all parts of the head. Measured with correct tables, on 3000 boxes from whole-brain phantoms and
# on slabs with motion, eddy currents, ghosts, dropouts, vibration or noise alone: whenever a wrong table was the most
# coherent and 10 cells or more had white matter, its lead over the next was below 2 standard errors. The correct table
# leads by 5 to 19 at SNR 6 to 30, in voxels of 2 to 6 mm and slices three times as thick as wide; the second best has
# 0.3 to 0.6 of its coherence. Cells of 8 voxels were measured on 3000 more boxes, of 2 and 4 mm, with thick slices, and
# interpolated to 1 mm, which makes neighbors similar: again, no wrong table led by 2.
CELL = 8  # voxels, 20 mm of 2.5 mm: bundles bend within a cell, so cells are nearly independent of their neighbors
MIN_CELLS = 20
MIN_LEAD = 4.0  # standard errors between the best table and every other
MAX_OF_RUNNER_UP = 0.75  # of the coherence of the best table
MIN_COHERENCE = 0.01  # noise alone reaches 0.003
MAX_ALIGNED = 0.9  # of the mean dyadic's trace: if all directions are equal, only the outline of the head counts

_STEPS = np.array([step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)])  # one of each opposite pair
_SIGNS = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])  # all others are the negatives of these
_PERMUTATIONS = np.array([sign[:, None] * np.eye(3)[list(axes)] for axes in permutations(range(3)) for sign in _SIGNS])
_AXES, _ROWS = ("x", "y", "z"), ("first", "second", "third")


@dataclass(frozen=True)
class Verdict:
    """The result of the check of a gradient table.

    `coherence` is that of the table itself, `best` that of the best of the 24 signed permutations of its axes. The
    coherence compares a step along the fiber with a step in any direction: 0 if it reaches the same fiber no more
    often, 1 if it always does. `correction` describes the change of the bvec file that gives the best table; None if
    the table is the best, or if `decided` is False, which means that the data do not determine the best table.
    """

    coherence: float
    best: float
    correction: str | None
    decided: bool


class GradientCheck:
    """Finds flipped or swapped axes of a gradient table, while the volumes of a DWI series are read."""

    def __init__(self, gradients: GradientTable, grid: tuple[int, int, int], affine: NDArray[np.float64]) -> None:
        """`gradients` in either frame, for a DWI series with volumes of shape `grid` and this `affine` (4, 4)."""
        self._affine = np.asarray(affine, np.float64)
        table = gradients.to_frame("fsl", self._affine)
        volumes = tensor_volumes(table, MAX_BVALUE)
        self._weights: dict[int, NDArray[np.float32]] = {}  # by volume: the weight of its logarithm in each coefficient
        if not isinstance(volumes, NotApplicable):
            # In 1e-3 mm^2/s, as in fit_tensor. The tensor is in the FSL frame, as the b-vectors are.
            bvals = table.bvals[volumes] / 1000
            columns = np.linalg.pinv(tensor_design(bvals, table.bvecs[volumes])).T.astype(np.float32)
            self._weights = {int(index): column for index, column in zip(volumes, columns, strict=True)}
        self._block: tuple[slice, ...] | None = None
        size = tuple(min(available, wanted) for available, wanted in zip(grid, BLOCK, strict=True))
        self._coefficients = np.zeros((UNKNOWNS, *size), np.float32)
        self._positive = np.ones(size, np.bool_)
        self._added = 0

    def add(self, index: int, volume: NDArray[Any]) -> None:
        """Adds volume `index` of the DWI series, (x, y, z) of any real dtype; in ascending order, each once."""
        weights = self._weights.get(index)
        if weights is None:
            return
        if self._block is None:
            self._block = _central_block(volume, self._positive.shape)
        signal = np.ascontiguousarray(volume[self._block])
        positive = (signal > 0) & np.isfinite(signal)
        self._positive &= positive
        floating = np.result_type(np.float32, signal.dtype)  # never float16
        logarithm = np.log(np.where(positive, signal, 1).astype(floating)).astype(np.float32)
        for coefficient, weight in zip(self._coefficients, weights, strict=True):
            coefficient += weight * logarithm
        self._added += 1

    def verdict(self) -> Verdict:
        """The result, after all volumes were added; undecided if some were not."""
        if self._added < max(len(self._weights), 1):
            return Verdict(0.0, 0.0, None, False)
        where, directions = self._fibers()
        excess, possible = _votes(where, directions, self._positive.shape, self._affine)
        total = np.maximum(possible.sum(axis=1), 1e-9)
        coherence = excess.sum(axis=1) / total
        best = int(coherence.argmax())
        others = np.arange(len(_PERMUTATIONS)) != best
        # The standard error of a difference of two ratios, from the contribution of each cell (linearized jackknife).
        influence = (excess - coherence[:, None] * possible) / total[:, None]
        error = np.sqrt(((influence[best] - influence[others]) ** 2).sum(axis=1))
        aligned = np.linalg.eigvalsh(directions.T @ directions)[-1] / max(len(directions), 1)
        decided = bool(
            np.count_nonzero(possible.any(axis=0)) >= MIN_CELLS
            and aligned <= MAX_ALIGNED
            and coherence[best] >= MIN_COHERENCE
            and coherence[others].max() <= MAX_OF_RUNNER_UP * coherence[best]
            and (coherence[best] - coherence[others] >= MIN_LEAD * error).all()
        )
        correction = _described(_PERMUTATIONS[best]) if decided and best != 0 else None
        return Verdict(float(coherence[0]), float(coherence[best]), correction, decided)

    def _fibers(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The voxels (n, 3) of the block with a single fiber, and its direction (n, 3) in the FSL frame."""
        log_s0 = self._coefficients[UNKNOWNS - 1]
        lit = self._positive.copy()
        if lit.any():
            lit &= log_s0 > np.percentile(log_s0[lit], 98) + np.log(MIN_BRIGHTNESS)
        where = np.argwhere(lit)
        tensor = self._coefficients[:6, lit].T.astype(np.float64)[:, [0, 1, 3, 1, 2, 4, 3, 4, 5]].reshape(-1, 3, 3)
        # FA from the invariants, without eigenvectors: 2/3 FA^2 = 1 - trace^2 / (3 norm^2).
        norm = (tensor**2).sum(axis=(1, 2))
        trace = np.trace(tensor, axis1=1, axis2=2)
        clear = (trace > 0) & (1 - trace**2 / np.maximum(3 * norm, 1e-30) >= 2 / 3 * MIN_FA**2)
        evals, columns = np.linalg.eigh(tensor[clear])
        positive = evals[:, 0] > 0
        return where[clear][positive], columns[positive, :, 2]


def _central_block(volume: NDArray[Any], size: tuple[int, ...]) -> tuple[slice, ...]:
    """The block of this size around the center of the voxels that are brighter than the mean."""
    positive = (volume > 0) & np.isfinite(volume)
    bright = positive & (volume >= np.mean(volume, dtype=np.float64, where=positive)) if positive.any() else positive
    block = []
    for axis, (available, wanted) in enumerate(zip(volume.shape, size, strict=True)):
        profile = bright.sum(axis=tuple(other for other in range(3) if other != axis))
        center = profile @ np.arange(available) / profile.sum() if profile.any() else (available - 1) / 2
        start = min(max(round(center - (wanted - 1) / 2), 0), available - wanted)
        block.append(slice(start, start + wanted))
    return tuple(block)


def _votes(
    where: NDArray[np.intp], directions: NDArray[np.float64], size: tuple[int, ...], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The numerator and the denominator of the coherence, for each permutation and cell: both (24, cells).

    Two steps start from every voxel, forward and backward, to the one of its 26 neighbors that is nearest to the
    direction of the fiber. A step arrives if the neighbor has a fiber within 40 degrees. The numerator is the number of
    arrivals above that expected for steps to this neighbor from all voxels, whatever their direction; the denominator
    is its maximum. Without this baseline, steps to near neighbors (at 2 mm instead of 6 mm, or mixed by interpolation)
    would arrive more often, and the permutation with the most of them would win. Steps out of the block are not
    counted.
    """
    count = len(where)
    vectors = np.vstack([directions, np.zeros(3)]).astype(np.float32)  # the last has no direction: no fiber
    numbers = np.full([axis + 2 for axis in size], -1)
    numbers[1:-1, 1:-1, 1:-1] = count
    numbers[tuple(where.T + 1)] = np.arange(count)
    strides = np.array([numbers.shape[1] * numbers.shape[2], numbers.shape[2], 1])
    here = (where + 1) @ strides
    taken, arrived = np.zeros((2, count, len(_STEPS)), np.float32)
    for kind, offset in enumerate(_STEPS @ strides):
        for neighbor in (numbers.ravel()[here + offset], numbers.ravel()[here - offset]):
            taken[:, kind] += neighbor >= 0
            arrived[:, kind] += np.abs(np.einsum("vi,vi->v", vectors[:-1], vectors[neighbor])) > SAME_FIBER
    expected = arrived.sum(axis=0, dtype=np.float64) / np.maximum(taken.sum(axis=0, dtype=np.float64), 1)
    excess, possible = arrived - expected * taken, (1 - expected) * taken

    cell = where // _cell_edges(affine)
    cell = np.ravel_multi_index(tuple(cell.T), tuple(cell.max(axis=0, initial=0) + 1))
    cell = np.unique(cell, return_inverse=True)[1].ravel()  # cells that contain a voxel
    # Steps in mm, in the FSL frame; also for oblique and sheared affines.
    steps = _STEPS @ affine[:3, :3].T @ fsl_to_world(affine)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    voxels, cells = np.arange(count), int(cell.max(initial=0)) + 1
    votes = np.zeros((2, len(_PERMUTATIONS), cells))
    for number, permutation in enumerate(_PERMUTATIONS):
        nearest = np.abs(vectors[:-1] @ (steps @ permutation).T.astype(np.float32)).argmax(axis=1)
        votes[0, number] = np.bincount(cell, excess[voxels, nearest], cells)
        votes[1, number] = np.bincount(cell, possible[voxels, nearest], cells)
    return votes[0], votes[1]


def _cell_edges(affine: NDArray[np.float64]) -> NDArray[np.intp]:
    """(3,) the edges of a cell in voxels: about CELL^3 voxels, as close to a cube in mm as possible.

    The size is in voxels and not in mm, so that it also suits the brain of a mouse.
    """
    size = np.linalg.norm(affine[:3, :3], axis=0)
    return np.maximum(np.rint(CELL * np.cbrt(size.prod()) / size), 1).astype(np.intp)


def _described(permutation: NDArray[np.float64]) -> str:
    """The change of the rows of a bvec file that makes its vectors (columns) `permutation @ vectors`, up to sign."""
    axes = np.abs(permutation).argmax(axis=1)
    moved = np.flatnonzero(axes != np.arange(3))
    parts = []
    if len(moved) == 2:
        one, other = moved
        parts.append(f"swap {_AXES[one]} and {_AXES[other]} (the {_ROWS[one]} and {_ROWS[other]} row of the bvec file)")
    elif len(moved) == 3:
        order = ", ".join(_ROWS[axis] for axis in axes)
        parts.append(f"rotate x, y and z (take the rows of the bvec file in the order {order})")
    for axis in np.flatnonzero(permutation.sum(axis=1) < 0):
        rows = f"the {_ROWS[axis]} row" + ("" if parts else " of the bvec file")
        parts.append(f"flip {_AXES[axis]} (negate {rows})")
    return " and then ".join(parts)
