"""The bundles of the synthetic head under TractSeg's names: where they are, where they end, and their directions.

TractSeg's names of what the head has: the entire corpus callosum (CC) and in seven parts from the front to the back
(CC_1 to CC_7), the corona radiata with the corticospinal tract (CST), the cingulum (CG), the inferior longitudinal
fasciculus (ILF), the middle cerebellar peduncle (MCP), and the superior longitudinal fasciculus. TractSeg divides the
last into three; the head's single one lies where the middle part (SLF_II) does, between the corona radiata and the
lateral cortex, so it has that name. The other bundles of TractSeg are absent from the head.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.demo.anatomy import Points
from kwneuro_assets.demo.bundles import Bundle, Values, bundles, callosal_level

WEIGHT = 0.5  # of a bundle in a voxel that belongs to it
WHITE_MATTER = 0.5  # minimum volume fraction of such a voxel


class _Tract(NamedTuple):
    """A tract of the head: its bundle in `bundles`, its side, and the planes in mm beyond which it ends."""

    bundle: str
    axis: int  # along which the tract runs: 0 left-right, 1 back-front, 2 bottom-top
    ends: tuple[float, float]  # positions along the axis: left, back or bottom, and right, front or top
    side: int = 0  # -1 left, 1 right, 0 both


def _pair(name: str, bundle: str, axis: int, ends: tuple[float, float]) -> dict[str, _Tract]:
    return {f"{name}_left": _Tract(bundle, axis, ends, -1), f"{name}_right": _Tract(bundle, axis, ends, 1)}


# In TractSeg's order.
_CALLOSAL = {f"CC_{part}": _Tract("corpus callosum", 0, (-26.0, 26.0)) for part in range(1, 8)}
_TRACTS: dict[str, _Tract] = {
    **_CALLOSAL,
    **_pair("CG", "cingulum", 1, (-27.0, 11.0)),
    **_pair("CST", "corona radiata", 2, (-34.0, 46.0)),
    **_pair("ILF", "inferior longitudinal", 1, (-42.0, 12.0)),
    "MCP": _Tract("middle cerebellar peduncle", 0, (-18.0, 18.0)),
    **_pair("SLF_II", "superior longitudinal", 1, (-31.0, 16.0)),
    "CC": _Tract("corpus callosum", 0, (-26.0, 26.0)),
}
LABELED: tuple[str, ...] = tuple(_TRACTS)
MAIN_AXES: tuple[int, ...] = tuple(tract.axis for tract in _TRACTS.values())  # along which each runs: 0 is x
LABELED_ENDINGS: tuple[str, ...] = tuple(f"{name}_{end}" for name in LABELED for end in "be")

# Levels along the callosum (mm, see `callosal_level`) between CC_1 and CC_2, and so on.
_CALLOSAL_LEVELS = np.array([21, 13, 4.5, -4.5, -13, -21], np.float32)


def tract_labels(points: Points, white: Values) -> NDArray[np.bool_]:
    """Whether each point belongs to each tract of `LABELED` (n, 17).

    `points` (n, 3) are in mm of the adult frame, and `white` (n,) is the volume fraction of white matter, 0 outside the
    brain (the spinal cord is white matter, too).
    """
    found = {bundle.name: bundle for bundle in bundles(points)}
    part = 1 + (callosal_level(points)[:, None] < _CALLOSAL_LEVELS).sum(axis=1)
    labels = np.empty((len(points), len(LABELED)), np.bool_)
    for index, (name, tract) in enumerate(_TRACTS.items()):
        inside = (found[tract.bundle].weight > WEIGHT) & (white > WHITE_MATTER)
        if tract.side:
            inside &= tract.side * points[:, 0] > 0
        if name in _CALLOSAL:
            inside &= part == int(name.rpartition("_")[2])
        labels[:, index] = inside
    return labels


def ending_labels(points: Points, white: Values) -> NDArray[np.bool_]:
    """Whether each point belongs to each ending of `LABELED_ENDINGS` (n, 34): both ends of each tract of `LABELED`.

    An ending is the part of a tract beyond a plane. `<tract>_b` is its left, back or lower end, `<tract>_e` its right,
    front or upper end. The arguments are those of `tract_labels`.
    """
    labels = tract_labels(points, white)
    endings = np.empty((len(points), 2 * len(LABELED)), np.bool_)
    for index, tract in enumerate(_TRACTS.values()):
        position, (low, high) = points[:, tract.axis], tract.ends
        endings[:, 2 * index] = labels[:, index] & (position < low)
        endings[:, 2 * index + 1] = labels[:, index] & (position > high)
    return endings


def tract_directions(points: Points) -> NDArray[np.float32]:
    """The unit direction of each tract of `LABELED` at `points` (n, 3), in the adult frame (n, 17, 3).

    It is defined everywhere, and meant for points inside the tract. Its component along the tract's main axis
    (`MAIN_AXES`) is positive.
    """
    found: dict[str, Bundle] = {bundle.name: bundle for bundle in bundles(points)}
    return np.stack([found[tract.bundle].direction for tract in _TRACTS.values()], axis=1)
