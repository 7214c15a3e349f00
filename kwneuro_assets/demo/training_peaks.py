"""Peaks as CSD finds them in the fibers of a synthetic head, without the image: for training the demo's networks.

What differs from the true fibers: fibers at a small angle have one common peak, amplitudes and directions are noisy,
weak peaks are missing, gray matter and fluid have small peaks in random directions. A peak is an axis, so its sign is a
convention of the software that found it: training mixes conventions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.demo.training_heads import Anatomy

Peaks = NDArray[np.float32]  # (..., 9), three peaks, strongest first; length = amplitude

SEPARATION = (40.0, 4.0)  # degrees, mean and standard deviation: fibers closer than that have one common peak
ANGULAR_NOISE = (0.5, 5.0)  # degrees, of a peak of amplitude 0.5; weaker ones have more
AMPLITUDES = (1.0, 1.6)  # of a single fiber in pure white matter
AMPLITUDE_NOISE = 0.08  # relative
GRAY_PEAKS = (0.03, 0.10)  # amplitude of the random peaks in gray matter
FLUID_PEAKS = (0.005, 0.04)  # in fluid and outside the brain
MISSING = (0.03, 0.08, 0.3)  # proportion of voxels outside white matter without the first, second, third random peak
IN_WHITE_MATTER = (0.02, 0.03, 0.01)  # proportion of voxels in white matter with such a random peak
RELATIVE_MINIMUM = (0.08, 0.15)  # of a peak's amplitude, relative to the strongest of the voxel


def simulated_peaks(anatomy: Anatomy, generator: np.random.Generator) -> Peaks:
    """The peaks (..., 9) of a head or of one of its slices, in the world frame, zero outside its mask."""
    mask = anatomy.mask
    white, gray = anatomy.white[mask], anatomy.gray[mask]
    fractions, directions = _merged(anatomy.fractions[mask], anatomy.directions[mask].astype(np.float32), generator)
    amplitudes = generator.uniform(*AMPLITUDES) * fractions ** generator.uniform(0.7, 1.1) * white[:, None]
    amplitudes *= np.exp(generator.normal(0, AMPLITUDE_NOISE, amplitudes.shape))
    noise = np.radians(generator.uniform(*ANGULAR_NOISE)) * np.sqrt(0.5 / amplitudes.clip(0.05))
    directions = directions + generator.normal(size=directions.shape) * noise[..., None]
    _add_random_peaks(amplitudes, directions, white, gray, generator)
    strongest = amplitudes.max(axis=1, keepdims=True)
    amplitudes[amplitudes < generator.uniform(*RELATIVE_MINIMUM) * strongest] = 0
    order = np.argsort(-amplitudes, axis=1, kind="stable")
    directions = np.take_along_axis(directions, order[..., None], axis=1)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True).clip(1e-6)
    directions *= random_signs(directions, generator)
    peaks = np.zeros((*mask.shape, 9), np.float32)
    peaks[mask] = (directions * np.take_along_axis(amplitudes, order, axis=1)[..., None]).reshape(-1, 9)
    return peaks


def random_signs(directions: NDArray[np.floating], generator: np.random.Generator) -> NDArray[np.floating]:
    """Signs (..., 1) of axes (..., 3): random for each, or such that all lie in one random half of the sphere.

    The half is that of one voxel axis (as of most software) or any other.
    """
    convention = generator.random()
    if convention < 0.5:
        return np.where(generator.random((*directions.shape[:-1], 1)) < 0.5, -1.0, 1.0)
    pole = np.eye(3)[generator.integers(3)] if convention < 0.85 else generator.normal(size=3)
    sign = -1.0 if generator.random() < 0.5 else 1.0
    return np.where(directions @ pole < 0, -sign, sign)[..., None]


def _merged(
    fractions: NDArray[np.float32], directions: NDArray[np.float32], generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fibers (n, 3) and (n, 3, 3), where each that is close to a stronger one is joined to it."""
    fractions, directions = fractions.copy(), directions.copy()
    limit = np.cos(np.radians(generator.normal(*SEPARATION, len(fractions))))
    for strong, weak in ((0, 1), (0, 2), (1, 2)):
        cosine = np.einsum("ni,ni->n", directions[:, strong], directions[:, weak])
        close = (np.abs(cosine) > limit) & (fractions[:, weak] > 0) & (fractions[:, strong] > 0)
        weight = fractions[:, weak] * np.where(cosine < 0, -1, 1)
        joint = fractions[:, strong, None] * directions[:, strong] + weight[:, None] * directions[:, weak]
        joint /= np.linalg.norm(joint, axis=1, keepdims=True).clip(1e-6)
        directions[close, strong] = joint[close]
        fractions[close, strong] += fractions[close, weak]
        fractions[close, weak] = 0
    return fractions, directions


def _add_random_peaks(
    amplitudes: NDArray[np.floating],
    directions: NDArray[np.floating],
    white: NDArray[np.float32],
    gray: NDArray[np.float32],
    generator: np.random.Generator,
) -> None:
    """Replace weak peaks by random ones, in place."""
    count = len(amplitudes)
    level = np.where(gray + white > 0.5, generator.uniform(*GRAY_PEAKS), generator.uniform(*FLUID_PEAKS))
    random = np.abs(generator.normal(size=(count, 3))) * level[:, None]
    for peak in range(3):
        present = np.where(white > 0.5, IN_WHITE_MATTER[peak], 1 - MISSING[peak])
        chosen = (amplitudes[:, peak] < random[:, peak]) & (generator.random(count) < present)
        directions[chosen, peak] = generator.normal(size=(np.count_nonzero(chosen), 3))
        amplitudes[chosen, peak] = random[chosen, peak]


@dataclass(frozen=True, eq=False)
class WrongFrame:
    """A mistake in the frame of peaks: an exchange or negation of components."""

    matrix: NDArray[np.float32]  # (3, 3), a signed permutation

    @property
    def negates_x(self) -> bool:
        """Whether only left and right are exchanged: in a sagittal slice, that is the other side of the head."""
        return np.array_equal(np.abs(np.diag(self.matrix)), np.ones(3)) and self.matrix[1, 1] == self.matrix[2, 2]

    def applied(self, peaks: Peaks) -> Peaks:
        """The peaks (..., 9) with all vectors changed."""
        vectors = peaks.reshape(*peaks.shape[:-1], 3, 3)
        return np.asarray((vectors @ self.matrix.T).reshape(peaks.shape), np.float32)


def _wrong_frames() -> tuple[tuple[WrongFrame, ...], NDArray[np.float64]]:
    """All signed permutations but the right one, up to the sign of all vectors, and how often each occurs."""
    frames, weights = [], []
    for order, y, z in product(permutations(range(3)), (1, -1), (1, -1)):
        matrix = np.diag([1, y, z]).astype(np.float32)[list(order)]
        if order == (0, 1, 2) and y == z == 1:
            continue
        frames.append(WrongFrame(matrix))
        # Networks learn first that the product of y and z has one sign nearly everywhere, which shows all mistakes but
        # the negation of x: that one takes the other products, whose signs are opposite on the left and on the right.
        negation = order == (0, 1, 2)
        exchange = sum(a == b for a, b in enumerate(order)) == 1 and y == z == 1
        weights.append((20.0 if y == z else 8.0) if negation else 3.0 if exchange else 0.3)
    return tuple(frames), np.array(weights) / sum(weights)


WRONG_FRAMES, WRONG_FRAME_WEIGHTS = _wrong_frames()
