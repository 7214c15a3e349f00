"""Masks together with the probability maps that they come from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.volume import Volume, require_same_grid


@dataclass(frozen=True, eq=False)
class Segmentation(Volume):
    """A mask of several structures, and the probability of each structure in each voxel.

    It is a Volume, the mask (x, y, z, n), uint8, so whatever takes a mask takes a segmentation. `probabilities` has
    the same shape and names, float32, from 0 to 1.

    Raises InvalidData as Volume, and if the mask is not uint8, or the probabilities have another grid, shape, names or
    range.

    >>> mask = Volume(np.array([[[[0, 1]]]], np.uint8), np.eye(4), ("CST_left", "CST_right"))
    >>> both = Segmentation.of(mask, Volume(np.array([[[[0.1, 0.8]]]]), np.eye(4), mask.names))
    >>> both.names, both.array.ravel().tolist(), round(float(both.probabilities.array[0, 0, 0, 1]), 3)
    (('CST_left', 'CST_right'), [0, 1], 0.8)
    """

    probabilities: Volume = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        found = self.probabilities
        require_same_grid(found, self, "the probabilities", "the mask")
        if self.array.ndim != 4 or self.array.dtype != np.uint8:
            raise InvalidData(
                "mask of a segmentation", expected="(x, y, z, n), uint8", found=f"{self.shape}, {self.array.dtype}"
            )
        if found.shape != self.shape or found.names != self.names or found.array.dtype != np.float32:
            raise InvalidData(
                "probabilities",
                expected=f"shape {self.shape}, float32, with the names of the mask",
                found=f"shape {found.shape}, {found.array.dtype}, names {found.names[:3]} ...",
            )
        if found.array.min() < 0 or found.array.max() > 1:
            raise InvalidData(
                "probabilities",
                expected="values from 0 to 1",
                found=f"{found.array.min():g} to {found.array.max():g}",
            )

    @classmethod
    def of(cls, mask: Volume, probabilities: Volume) -> Segmentation:
        """The segmentation of a mask and its probabilities. Raises InvalidData as the class."""
        return cls(mask.array, mask.affine, mask.names, probabilities=probabilities)
