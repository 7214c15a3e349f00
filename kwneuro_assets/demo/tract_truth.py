"""The known tract masks, endings and orientation maps of a synthetic head, under TractSeg's names."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.demo.head_shape import HeadShape, WorldPoints
from kwneuro_assets.demo.tract_labels import LABELED, LABELED_ENDINGS, ending_labels, tract_directions, tract_labels


class Named(NamedTuple):
    """Values (n, k) at n points, and the names of the k columns."""

    names: tuple[str, ...]
    values: NDArray[np.generic]


def tract_truth(head: HeadShape, world: WorldPoints, white: NDArray[np.float32]) -> dict[str, Named]:
    """The true `tract_masks`, `tract_endings` and `tract_orientations` at n points, by name.

    `world` (n, 3) are the points in mm, `white` (n,) is the volume fraction of white matter. Masks and endings are
    uint8. Orientations are unit vectors in the world frame, float32, and zero outside the tract.
    """
    masks = np.zeros((len(world), len(LABELED)), np.uint8)
    endings = np.zeros((len(world), len(LABELED_ENDINGS)), np.uint8)
    orientations = np.zeros((len(world), len(LABELED), 3), np.float32)
    somewhere = np.flatnonzero(white > 0)
    adult, fraction = head.adult(world[somewhere]), white[somewhere]
    masks[somewhere] = tract_labels(adult, fraction)
    endings[somewhere] = ending_labels(adult, fraction)
    orientations[somewhere] = head.world_directions(world[somewhere], tract_directions(adult))
    orientations *= masks[..., None]
    components = tuple(f"{name}_{axis}" for name in LABELED for axis in "xyz")
    return {
        "tract_masks": Named(LABELED, masks),
        "tract_endings": Named(LABELED_ENDINGS, endings),
        "tract_orientations": Named(components, orientations.reshape(len(world), -1)),
    }
