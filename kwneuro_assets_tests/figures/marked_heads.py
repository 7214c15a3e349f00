"""A head that is the same on every grid, with or without a marker in its left, anterior and superior part.

Without the marker it consists of balls around the world's origin, the middle of the grid. The marker changes neither
the crop nor the limits of a color scale: the brightest voxels are those of a ball in the middle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, RigidTransform, Table, Volume
from kwneuro_assets_tests.figures.heads import BUNDLES, affine_of, ball, world

GRID = (34, 36, 30)
MARKER = (-12.0, 6.0, 10.0)  # mm: left, anterior, superior
RADIUS = 14.0  # the central slices of all planes cut the marker
BUMP = (-14.0, 8.0, 12.0)  # of the brain mask
_HEAD, _MASK, _MIDDLE = 30.0, 20.0, 9.0
_BVECS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)


def marked_values(orientation: str, marked: bool) -> dict[str, Any]:
    """A value for each asset that has a figure with slices."""
    affine = affine_of(orientation, GRID)
    places = world(affine, GRID)
    head, middle = ball(places, (0, 0, 0), _HEAD), ball(places, (0, 0, 0), _MIDDLE)
    marker = ball(places, MARKER, RADIUS) & marked
    image = np.where(middle, 1.0, np.where(marker, 0.8, 0.3)) * head
    mask = ball(places, (0, 0, 0), _MASK) | (ball(places, BUMP, RADIUS) & head & marked)
    bundles = {name: middle | (marker if name == "CST_left" else False) for name in BUNDLES}

    def volume(array: NDArray[Any], names: tuple[str, ...] = ()) -> Volume:
        return Volume(array if array.dtype == bool else array.astype(np.float32), affine, names)

    def along(axis: int, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = (np.eye(3)[axis] * inside[..., None]).astype(np.float32)
        return vectors

    table = GradientTable(np.array([0, 1000, 1000, 3000]), _BVECS, "world")
    removed = 0.2 * np.where(middle | marker, 1.0, 0.0)
    fractions = {"wmfraction": head & ~marker, "gmfraction": head & False, "csffraction": marker}
    peaks = MapSet(
        {
            "peaks": volume(np.concatenate([along(0, head), along(1, head)], axis=-1)),
            # The second peak is above half of the first in the head, and below it in the marker.
            "peakvalues": volume(np.stack([image, 0.25 * head], axis=-1)),
            **{name: volume(inside.astype(np.float32)) for name, inside in fractions.items()},
        }
    )
    endings = {f"{name}_{end}": inside if end == "b" else middle for name, inside in bundles.items() for end in "be"}
    return {
        "dwi": Dwi(volume(np.stack([image + removed] * 4, axis=-1)), table),
        "denoised_dwi": Dwi(volume(np.stack([image] * 4, axis=-1)), table),
        "mean_b0": volume(image),
        "brain_mask": volume(mask),
        "head": volume(head),
        "dti": MapSet(
            {
                "fa": volume(image),
                "md": volume(2e-3 * image),
                "evals": volume(2e-3 * np.stack([image] * 3, axis=-1)),
                "evecs": volume(np.concatenate([along(axis, head) for axis in range(3)], axis=-1)),
            }
        ),
        "noddi": MapSet({name: volume(image) for name in ("ndi", "odi", "fwf")}),
        "csd_peaks": peaks,
        "tract_masks": volume(np.stack(list(bundles.values()), axis=-1), tuple(bundles)),
        "tract_endings": volume(np.stack(list(endings.values()), axis=-1), tuple(endings)),
        "tract_orientations": volume(
            np.concatenate([along(0, middle) + along(1, inside & ~middle) for inside in bundles.values()], axis=-1)
        ),
        "mni_alignment": RigidTransform(np.eye(4)),
        "dwi_qc": Table({"ndc": [0.9]}, {"ndc": "number"}),
    }
