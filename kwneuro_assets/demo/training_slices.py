"""Slices of synthetic heads as TractSeg's networks receive them, and what they shall answer.

A network has one task: the masks of the tracts, their endings, or their directions. In wrong frames (a component of all
vectors negated, or two exchanged) there are no tracts: the network learns to compare directions with the shape of the
head, and not to recognize positions alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.demo.tract_labels import LABELED, LABELED_ENDINGS
from kwneuro_assets.demo.training_heads import CUBE, DIRECTED, Anatomy, in_cube
from kwneuro_assets.demo.training_peaks import WRONG_FRAME_WEIGHTS, WRONG_FRAMES, simulated_peaks

BATCH = 8  # slices
MAX_SHIFT = 4  # voxels of the cube, as another crop would have

Batch = tuple[NDArray[np.float32], NDArray[np.float32]]  # input (n, 9, 144, 144), target (n, channels, 144, 144)


@dataclass(frozen=True)
class Task:
    """What a network answers: one channel for each name, or three (x, y, z) for a direction."""

    names: tuple[str, ...]
    axes: tuple[int, ...] = (0, 1, 2)  # across which its slices are taken
    wrong_frames: float = 0.35  # proportion of slices
    directed: bool = False

    @property
    def channels(self) -> int:
        return len(self.names) * (3 if self.directed else 1)

    def target(self, anatomy: Anatomy) -> NDArray[np.float32]:
        """The answer for a slice of a head (a, b, channels)."""
        if not self.directed:
            return (anatomy.labels if self.names == LABELED else anatomy.endings).astype(np.float32)
        inside = _dilated(anatomy.labels[..., [LABELED.index(name) for name in self.names]])
        vectors = anatomy.tangents.astype(np.float32) * inside[..., None]
        return vectors.reshape(*inside.shape[:2], self.channels)


MASKS = Task(LABELED)
ENDINGS = Task(LABELED_ENDINGS)
ORIENTATIONS = Task(DIRECTED, axes=(1,), wrong_frames=0.0, directed=True)  # TractSeg uses coronal slices only


def batch(heads: Sequence[Anatomy], task: Task, generator: np.random.Generator) -> Batch:
    """Random slices of random heads, half of them mirrored, each with new peaks."""
    inputs = np.zeros((BATCH, 9, CUBE, CUBE), np.float32)
    targets = np.zeros((BATCH, task.channels, CUBE, CUBE), np.float32)
    for place in range(BATCH):
        peaks, target = _sample(heads[int(generator.integers(len(heads)))], task, generator)
        inputs[place] = standardized(peaks.transpose(2, 0, 1))
        targets[place] = target.transpose(2, 0, 1)
    return inputs, targets


def standardized(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A slice with mean 0 and standard deviation 1 over all its channels, as TractSeg's loader does."""
    return np.asarray((values - values.mean()) / (values.std() + 1e-8), np.float32)


def _sample(
    head: Anatomy, task: Task, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The peaks (144, 144, 9) and the target (144, 144, channels) of a random slice."""
    axis = int(generator.choice(task.axes))
    piece = head.slice(axis, int(generator.integers(head.mask.shape[axis])))
    if generator.random() < 0.5:
        piece = piece.mirrored(axis)
    peaks, target = simulated_peaks(piece, generator), task.target(piece)
    if generator.random() < task.wrong_frames:
        frame = WRONG_FRAMES[generator.choice(len(WRONG_FRAMES), p=WRONG_FRAME_WEIGHTS)]
        # Seen in one sagittal slice, exchanging left and right is no mistake, but the other side of the head.
        if not (axis == 0 and frame.negates_x):
            peaks, target = frame.applied(peaks), np.zeros_like(target)
    places = [place for other, place in enumerate(head.cube) if other != axis]
    shift = generator.integers(-MAX_SHIFT, MAX_SHIFT + 1, 2)
    inside, answer = (np.roll(in_cube(values, places), shift, (0, 1)) for values in (peaks, target))
    return inside, answer


def _dilated(labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Labels (a, b, n) and their neighbors in the slice: orientation maps extend beyond their masks by one voxel."""
    result = labels.copy()
    result[1:] |= labels[:-1]
    result[:-1] |= labels[1:]
    result[:, 1:] |= labels[:, :-1]
    result[:, :-1] |= labels[:, 1:]
    return result
