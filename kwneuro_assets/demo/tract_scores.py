"""Scores of tract masks, endings and orientation maps against the bundles of the synthetic head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.demo.measures import UNDEFINED, Measured, angles_to_nearest, dice, median_angle
from kwneuro_assets.demo.truth_files import Truth
from kwneuro_assets.imaging import Volume


def _overlaps(what: str, found: Volume, inside: NDArray[np.bool_], truth: Truth) -> list[Measured]:
    """The mean Dice of the known bundles or endings, and the voxels of those that the head does not have."""
    known = truth.load(f"tract_{what}")
    true = dict(zip(known.names, known.volumes(), strict=True))
    absent = [mask for name, mask in zip(found.names, found.volumes(), strict=True) if name not in true]
    scores = {name: dice(_of(found, name) > 0, (mask > 0) & inside) for name, mask in true.items()}
    return [
        _mean_dice(f"Dice with the {len(scores)} known {_PLURAL[what]}, mean", scores),
        _voxels(f"voxels in {_PLURAL[what]} that the head does not have", absent),
    ]


def _orientations(found: Volume, inside: NDArray[np.bool_], truth: Truth) -> list[Measured]:
    """The angle to the direction of each known bundle, in its true voxels that have a direction in the map."""
    known, masks = truth.load("tract_orientations"), truth.load("tract_masks")
    angles = [np.zeros(0)]
    for index, name in enumerate(masks.names):
        chosen = (masks.array[..., index] > 0) & inside
        vectors = np.stack([_of(found, f"{name}_{axis}")[chosen] for axis in "xyz"], axis=1)
        directions = np.stack([_of(known, f"{name}_{axis}")[chosen] for axis in "xyz"], axis=1)
        mapped = vectors.any(axis=1)
        angles.append(angles_to_nearest(directions[mapped], vectors[mapped][:, None]))
    measure = f"direction in the {len(masks.names)} known bundles, median"
    return [median_angle(measure, np.concatenate(angles), "degrees")]


TRACT_COMPARISONS: Mapping[str, Callable[[Volume, NDArray[np.bool_], Truth], list[Measured]]] = {
    "tract_masks": partial(_overlaps, "masks"),
    "tract_endings": partial(_overlaps, "endings"),
    "tract_orientations": _orientations,
}
_PLURAL = {"masks": "bundles", "endings": "endings"}


def _mean_dice(measure: str, scores: dict[str, float]) -> Measured:
    defined = {name: value for name, value in scores.items() if not np.isnan(value)}
    if not defined:
        return Measured(measure, UNDEFINED, "undefined: all are empty", "Dice")
    mean, lowest = float(np.mean(list(defined.values()))), min(defined, key=lambda name: defined[name])
    return Measured(measure, mean, f"{mean:.3f} (lowest {defined[lowest]:.3f}, {lowest})", "Dice")


def _voxels(measure: str, masks: list[NDArray[np.uint8]]) -> Measured:
    counts = [int(np.count_nonzero(mask)) for mask in masks]
    found = sum(count > 0 for count in counts)
    return Measured(measure, sum(counts), f"{sum(counts)}" + (f" in {found} of {len(masks)}" if found else ""))


def _of(stack: Volume, name: str) -> NDArray[np.float32]:
    volume: NDArray[np.float32] = stack.array[..., stack.names.index(name)]
    return volume
