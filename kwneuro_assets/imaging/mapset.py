"""Named maps on one grid: what a model fit returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.volume import Volume, require_same_grid


@dataclass(frozen=True, eq=False)
class MapSet(Mapping[str, Volume]):
    """Volumes by name, all on one grid; an immutable mapping in the order given.

    Raises InvalidData if it is empty, if a volume is not on the grid of the first, or if a name is not lower-case
    alphanumeric (the name becomes the `param-` entity of the BIDS file name).

    >>> fa = Volume(np.full((2, 2, 2), 0.4), np.eye(4))
    >>> maps = MapSet({"fa": fa, "md": Volume(np.full((2, 2, 2), 0.0007), np.eye(4))})
    >>> list(maps), maps["fa"].shape
    (['fa', 'md'], (2, 2, 2))
    """

    maps: Mapping[str, Volume]

    def __post_init__(self) -> None:
        if not self.maps:
            raise InvalidData("map set", expected="at least one map", found="none")
        first = next(iter(self.maps))
        for name, volume in self.maps.items():
            if not (name.isascii() and name.isalnum() and name.islower()):
                raise InvalidData("name of a map", expected="lower-case letters and digits", found=repr(name))
            require_same_grid(volume, self.maps[first], name, first)
        object.__setattr__(self, "maps", MappingProxyType(dict(self.maps)))

    def __getitem__(self, name: str) -> Volume:
        return self.maps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), voxel indices to world coordinates, scanner RAS+ in mm."""
        return next(iter(self.maps.values())).affine


def scatter(values: NDArray[np.generic], mask: Volume) -> Volume:
    """The values (voxels, ...) of the voxels of `mask`, in C order, as a Volume (x, y, z, ...); zero outside the mask.

    >>> mask = Volume(np.array([[[0, 1], [1, 0]]], np.uint8), np.eye(4))
    >>> scatter(np.array([0.5, 0.25]), mask).array.tolist()
    [[[0.0, 0.5], [0.25, 0.0]]]
    """
    inside = mask.array.astype(bool)
    full = np.zeros((*mask.grid, *values.shape[1:]), np.uint8 if values.dtype in (np.uint8, np.bool_) else np.float32)
    full[inside] = values
    return Volume(full, mask.affine)
