"""The demo's head on any grid: peaks and bundles from its formulas, without an image and without noise."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.demo.anatomy import WHITE, Cortex, head
from kwneuro_assets.demo.bundles import fibers
from kwneuro_assets.demo.head_shape import HeadShape
from kwneuro_assets.demo.tract_labels import LABELED, tract_labels
from kwneuro_assets.imaging import Volume

BRAIN = np.array([170.0, 210.0, 190.0])  # mm, a box around it
CENTER = np.array([0.0, -16.0, 2.0])  # mm, of that box


def grid_around_the_brain(
    voxel: ArrayLike, rotation: ArrayLike = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine of a grid of voxels (mm), LAS before it is rotated, that contains the brain."""
    axes = np.asarray(rotation) @ np.diag([-1.0, 1.0, 1.0])
    corners = np.array(list(itertools.product((-0.5, 0.5), repeat=3))) * BRAIN @ axes
    size = np.ceil(np.ptp(corners, axis=0) / voxel).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = axes * voxel
    affine[:3, 3] = CENTER - affine[:3, :3] @ ((size - 1) / 2)
    return (int(size[0]), int(size[1]), int(size[2])), affine


def formula_head(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> tuple[Volume, Volume]:
    """Three peaks (x, y, z, 9) in the world frame, and the bundles (x, y, z, n) named as in `LABELED`, of one head."""
    anatomy = HeadShape.standard()
    points = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    adult = anatomy.adult(points)
    tissues = head(adult, Cortex.random(np.random.default_rng(7)))
    inside = tissues.brain
    white = tissues.fractions[inside, WHITE]
    found = fibers(adult[inside])
    amplitudes = found.fractions * white[:, None]
    order = np.argsort(-amplitudes, axis=1, kind="stable")
    vectors = anatomy.world_directions(points[inside], found.directions) * amplitudes[..., None]
    peaks = np.zeros((len(points), 9), np.float32)
    peaks[inside] = np.take_along_axis(vectors, order[..., None], axis=1).reshape(-1, 9)
    labels = np.zeros((len(points), len(LABELED)), np.uint8)
    labels[inside] = tract_labels(adult[inside], white)
    return Volume(peaks.reshape(*shape, 9), affine), Volume(labels.reshape(*shape, -1), affine, LABELED)


def mean_dice(found: Volume, truth: Volume) -> float:
    """The mean Dice coefficient of the bundles in `truth` with those of the same names in `found`."""
    values = []
    for index, name in enumerate(truth.names):
        one, other = truth.array[..., index] > 0, found.array[..., found.names.index(name)] > 0
        values.append(2 * (one & other).sum() / (one.sum() + other.sum()))
    return float(np.mean(values))
