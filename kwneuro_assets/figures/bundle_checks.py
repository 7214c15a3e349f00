"""Which bundles of a subject to check: empty, much larger on one side, outside the brain, or with one ending only.

The limits are far from TractSeg's reference subject (its `tests/reference_files`, 2.5 mm): there, the larger side of a
pair has at most 1.32 times the volume of the other (the fornix; 31 pairs), and every bundle lies fully inside the brain
mask. A bundle beyond a limit is not wrong for certain: the arcuate fasciculus is much smaller on the right in many
healthy adults (Catani et al., PNAS 104, 2007, doi:10.1073/pnas.0702116104), and a tumor may displace a bundle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Volume

MAX_SIDE_RATIO = 2.0  # volume of the larger side of a pair divided by that of the other
MAX_OUTSIDE = 0.1  # fraction of the volume of a bundle outside the brain mask

NONE = "none"


def empty(names: Sequence[str], voxels: NDArray[np.int64]) -> str:
    """The names of the volumes without a voxel, for a table.

    >>> empty(["AF_left", "CA"], np.array([0, 3]))
    'AF_left'
    """
    return _listed([name for name, count in zip(names, voxels, strict=True) if not count])


def one_sided(names: Sequence[str], voxels: NDArray[np.int64]) -> str:
    """The pairs of which one side has more than `MAX_SIDE_RATIO` times the volume of the other, with this ratio.

    Pairs are named `<bundle>_left` and `<bundle>_right`. A pair without a voxel on one side has an infinite ratio; one
    without any voxel is not listed.

    >>> one_sided(["CST_left", "CST_right", "CA"], np.array([40, 100, 5]))
    'CST (right 2.5 times left)'
    """
    counts = dict(zip(names, voxels.tolist(), strict=True))
    found = []
    for name, left in counts.items():
        bundle = name.removesuffix("_left")
        right = counts.get(f"{bundle}_right")
        if bundle == name or right is None:
            continue
        larger, smaller = max(left, right), min(left, right)
        if larger > MAX_SIDE_RATIO * smaller:
            sides = ("left", "right") if left > right else ("right", "left")
            only = f"{sides[0]} only" if not smaller else f"{sides[0]} {larger / smaller:.2g} times {sides[1]}"
            found.append(f"{bundle} ({only})")
    return _listed(found)


def outside(stack: Volume, names: Sequence[str], voxels: NDArray[np.int64], brain: NDArray[np.bool_]) -> str:
    """The bundles with more than `MAX_OUTSIDE` of their volume outside `brain` (x, y, z), with this fraction."""
    found = []
    for name, count, mask in zip(names, voxels.tolist(), stack.volumes(), strict=True):
        fraction = np.count_nonzero(mask[~brain]) / count if count else 0
        if fraction > MAX_OUTSIDE:
            found.append(f"{name} ({fraction:.0%})")
    return _listed(found)


def with_one_ending(names: Sequence[str], voxels: NDArray[np.int64]) -> str:
    """The bundles of which one of both endings, `<bundle>_b` and `<bundle>_e`, is empty; with the name of this one.

    >>> with_one_ending(["CST_left_b", "CST_left_e", "CA_b", "CA_e"], np.array([0, 7, 0, 0]))
    'CST_left_b'
    """
    counts = dict(zip(names, voxels.tolist(), strict=True))
    other = {"b": "e", "e": "b"}
    return _listed(
        [name for name, count in counts.items() if not count and counts.get(f"{name[:-1]}{other.get(name[-1], '')}", 0)]
    )


def _listed(found: Sequence[str]) -> str:
    return ", ".join(found) or NONE
