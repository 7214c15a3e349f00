"""Does the gradient table belong to the image? Flipped or swapped axes, found by the coherence of the fibres.

A fibre goes on in the voxel that it points to. With an axis of the b-vectors flipped or two of them swapped, every
tensor is turned within its voxel while the voxels stay, and the directions no longer lead from one to the next
(Jeurissen et al. 2014, MRtrix3's dwigradcheck; Schilling et al. 2019, Magn Reson Imaging 58:82-89, whose idea of
comparing neighbours is used here). A signed permutation of the b-vectors turns the fitted tensor in the same way, so
one fit, made while the volumes go by, serves all 24.
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

MAX_BVALUE = 1500.0  # s/mm^2: above it the tensor is a poor model; higher shells serve where these do not suffice
BLOCK = (96, 96, 24)  # voxels around the middle of the head: most of its white matter, in 7 maps of 1 MB
LEAST_BRIGHTNESS = 0.1  # of the 98th percentile of S0: white matter far from the coil, yet well above the noise
LEAST_FA = 0.3  # one fibre population leads; measured flat from 0.2 to 0.5
SAME_FIBRE = np.cos(np.radians(40))  # a bundle may bend this much within a step; 20 to 50 degrees find the same table

# The rule. A wrong warning is worse than none, so the table is accused only where one and the same other table fits
# better all over the head. Measured with right tables, on 3000 boxes cut out of whole-brain phantoms and on slabs with
# motion, eddy currents, ghosts, dropouts, vibration or noise alone: whenever a wrong table was the most coherent and
# white matter lay in 10 cells or more, its lead over the next was below 2 standard errors. The right one leads by 5 to
# 19 at SNR 6 to 30, in voxels of 2 to 6 mm and slices three times as thick as wide; its runner-up has 0.3 to 0.6 of
# its coherence.
CELL = 20.0  # mm: bundles bend within it, so what one cell says hardly depends on its neighbours
LEAST_CELLS = 20
LEAST_LEAD = 4.0  # standard errors between the best and every other
MOST_OF_RUNNER_UP = 0.75  # of the coherence of the best
LEAST_COHERENCE = 0.01  # noise alone reaches 0.003
MOST_ALIGNED = 0.9  # of the mean dyadic's trace: with one direction everywhere, only the outline of the head would vote

_STEPS = np.array([step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)])  # one of each opposite pair
_SIGNS = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])  # the others are these with all signs changed
_TURNS = np.array([sign[:, None] * np.eye(3)[list(axes)] for axes in permutations(range(3)) for sign in _SIGNS])
_AXES, _ROWS = ("x", "y", "z"), ("first", "second", "third")


@dataclass(frozen=True)
class Verdict:
    """What the data say about the gradient table.

    `coherence` is that of the table as it is, `best` that of the best of the 24 signed permutations of its axes: how
    much more often than a step in any direction a step along the fibre arrives at the same fibre, 0 where no more
    often, 1 where always. `mending` says in words what turns the bvec file into the best one, None where it is the
    best or where the data do not tell, for which `decided` is False.
    """

    coherence: float
    best: float
    mending: str | None
    decided: bool


class GradientCheck:
    """Looks for axes of a gradient table that are flipped or swapped, while the volumes of a series go by."""

    def __init__(self, gradients: GradientTable, grid: tuple[int, int, int], affine: NDArray[np.float64]) -> None:
        """`gradients` in either frame, of a series with volumes of shape `grid` and this `affine` (4, 4)."""
        self._affine = np.asarray(affine, np.float64)
        table = gradients.to_frame("fsl", self._affine)
        volumes = tensor_volumes(table, MAX_BVALUE)
        self._weights: dict[int, NDArray[np.float32]] = {}  # by volume: what its logarithm adds to each coefficient
        if not isinstance(volumes, NotApplicable):
            # In 1e-3 mm^2/s, as in fit_tensor. b-vectors of the FSL frame give the tensor in the FSL frame.
            bvals = np.where(table.b0_mask, 0, table.bvals)[volumes] / 1000
            columns = np.linalg.pinv(tensor_design(bvals, table.bvecs[volumes])).T.astype(np.float32)
            self._weights = {int(index): column for index, column in zip(volumes, columns, strict=True)}
        self._block: tuple[slice, ...] | None = None
        size = tuple(min(have, most) for have, most in zip(grid, BLOCK, strict=True))
        self._coefficients = np.zeros((UNKNOWNS, *size), np.float32)
        self._positive = np.ones(size, np.bool_)
        self._seen = 0

    def add(self, index: int, volume: NDArray[Any]) -> None:
        """Volume `index` of the series, (x, y, z) of any real dtype; in rising order, each once."""
        weights = self._weights.get(index)
        if weights is None:
            return
        if self._block is None:
            self._block = _middle(volume, self._positive.shape)
        signal = np.ascontiguousarray(volume[self._block])
        positive = (signal > 0) & np.isfinite(signal)
        self._positive &= positive
        floating = np.result_type(np.float32, signal.dtype)  # never float16
        logarithm = np.log(np.where(positive, signal, 1).astype(floating)).astype(np.float32)
        for coefficient, weight in zip(self._coefficients, weights, strict=True):
            coefficient += weight * logarithm
        self._seen += 1

    def verdict(self) -> Verdict:
        """What the volumes say, once all have been added."""
        if self._seen < max(len(self._weights), 1):
            return Verdict(0.0, 0.0, None, False)
        where, directions = self._fibres()
        excess, chances = _votes(where, directions, self._positive.shape, self._affine)
        total = np.maximum(chances.sum(axis=1), 1e-9)
        coherence = excess.sum(axis=1) / total
        best = int(coherence.argmax())
        others = np.arange(len(_TURNS)) != best
        # The standard error of a difference of two ratios, from what each cell adds to it (linearised jackknife).
        influence = (excess - coherence[:, None] * chances) / total[:, None]
        error = np.sqrt(((influence[best] - influence[others]) ** 2).sum(axis=1))
        aligned = np.linalg.eigvalsh(directions.T @ directions)[-1] / max(len(directions), 1)
        decided = bool(
            np.count_nonzero(chances.any(axis=0)) >= LEAST_CELLS
            and aligned <= MOST_ALIGNED
            and coherence[best] >= LEAST_COHERENCE
            and coherence[others].max() <= MOST_OF_RUNNER_UP * coherence[best]
            and (coherence[best] - coherence[others] >= LEAST_LEAD * error).all()
        )
        mending = _in_words(_TURNS[best]) if decided and best != 0 else None
        return Verdict(float(coherence[0]), float(coherence[best]), mending, decided)

    def _fibres(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Voxels (n, 3) of the block with one clear fibre, and its direction (n, 3) in the FSL frame of the table."""
        log_s0 = self._coefficients[UNKNOWNS - 1]
        lit = self._positive.copy()
        if lit.any():
            lit &= log_s0 > np.percentile(log_s0[lit], 98) + np.log(LEAST_BRIGHTNESS)
        where = np.argwhere(lit)
        tensor = self._coefficients[:6, lit].T.astype(np.float64)[:, [0, 1, 3, 1, 2, 4, 3, 4, 5]].reshape(-1, 3, 3)
        # FA from the invariants, so that few voxels need their eigenvectors: 2/3 FA^2 = 1 - trace^2 / (3 norm^2).
        norm = (tensor**2).sum(axis=(1, 2))
        trace = np.trace(tensor, axis1=1, axis2=2)
        clear = (trace > 0) & (1 - trace**2 / np.maximum(3 * norm, 1e-30) >= 2 / 3 * LEAST_FA**2)
        evals, columns = np.linalg.eigh(tensor[clear])
        positive = evals[:, 0] > 0
        return where[clear][positive], columns[positive, :, 2]


def _middle(volume: NDArray[Any], size: tuple[int, ...]) -> tuple[slice, ...]:
    """The block of that size around the centre of what is brighter than the mean."""
    positive = (volume > 0) & np.isfinite(volume)
    bright = positive & (volume >= np.mean(volume, dtype=np.float64, where=positive)) if positive.any() else positive
    block = []
    for axis, (have, wanted) in enumerate(zip(volume.shape, size, strict=True)):
        profile = bright.sum(axis=tuple(other for other in range(3) if other != axis))
        centre = profile @ np.arange(have) / profile.sum() if profile.any() else (have - 1) / 2
        start = min(max(round(centre - (wanted - 1) / 2), 0), have - wanted)
        block.append(slice(start, start + wanted))
    return tuple(block)


def _votes(
    where: NDArray[np.intp], directions: NDArray[np.float64], size: tuple[int, ...], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each of the 24 turns and each cell of the head: what makes up the coherence there, both (24, cells).

    From every voxel two steps are taken, forwards and backwards, to the one of its 26 neighbours that lies nearest to
    the direction. A step arrives if the neighbour holds a fibre within 40 degrees. The first result is how many steps
    arrive beyond what steps of that kind, from all voxels whatever their direction, would; the second how many more
    could. Without that baseline a neighbour 2 mm away, or one that interpolation has mixed in, would beat one at 6 mm,
    and the turn that takes most steps between close neighbours would win. Steps out of the block are not counted.
    """
    count = len(where)
    vectors = np.vstack([directions, np.zeros(3)]).astype(np.float32)  # the last, without a direction: no fibre
    numbers = np.full([axis + 2 for axis in size], -1)
    numbers[1:-1, 1:-1, 1:-1] = count
    numbers[tuple(where.T + 1)] = np.arange(count)
    strides = np.array([numbers.shape[1] * numbers.shape[2], numbers.shape[2], 1])
    here = (where + 1) @ strides
    taken, arrived = np.zeros((2, count, len(_STEPS)), np.float32)
    for kind, offset in enumerate(_STEPS @ strides):
        for neighbour in (numbers.ravel()[here + offset], numbers.ravel()[here - offset]):
            taken[:, kind] += neighbour >= 0
            arrived[:, kind] += np.abs(np.einsum("vi,vi->v", vectors[:-1], vectors[neighbour])) > SAME_FIBRE
    usual = arrived.sum(axis=0, dtype=np.float64) / np.maximum(taken.sum(axis=0, dtype=np.float64), 1)
    excess, chances = arrived - usual * taken, (1 - usual) * taken

    cell = np.floor(where * np.linalg.norm(affine[:3, :3], axis=0) / CELL).astype(np.intp)
    cell = np.ravel_multi_index(tuple(cell.T), tuple(cell.max(axis=0, initial=0) + 1))
    cell = np.unique(cell, return_inverse=True)[1].ravel()  # those that hold a voxel, however far apart
    # Steps in mm, along the axes that the rows of a bvec file have: oblique and sheared affines included.
    steps = _STEPS @ affine[:3, :3].T @ fsl_to_world(affine)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    voxels, cells = np.arange(count), int(cell.max(initial=0)) + 1
    votes = np.zeros((2, len(_TURNS), cells))
    for number, turn in enumerate(_TURNS):
        nearest = np.abs(vectors[:-1] @ (steps @ turn).T.astype(np.float32)).argmax(axis=1)
        votes[0, number] = np.bincount(cell, excess[voxels, nearest], cells)
        votes[1, number] = np.bincount(cell, chances[voxels, nearest], cells)
    return votes[0], votes[1]


def _in_words(turn: NDArray[np.float64]) -> str:
    """What to do with the rows of a bvec file so that its vectors (columns) become `turn @ vectors`, up to sign."""
    axes = np.abs(turn).argmax(axis=1)
    moved = np.flatnonzero(axes != np.arange(3))
    words = []
    if len(moved) == 2:
        one, other = moved
        words.append(f"swap {_AXES[one]} and {_AXES[other]} (the {_ROWS[one]} and {_ROWS[other]} row of the bvec file)")
    elif len(moved) == 3:
        order = ", ".join(_ROWS[axis] for axis in axes)
        words.append(f"rotate x, y and z (take the rows of the bvec file in the order {order})")
    for axis in np.flatnonzero(turn.sum(axis=1) < 0):
        rows = f"the {_ROWS[axis]} row" + ("" if words else " of the bvec file")
        words.append(f"flip {_AXES[axis]} (negate {rows})")
    return " and then ".join(words)
