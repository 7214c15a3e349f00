"""An image as a value: array, affine and, for 4-D masks, the names along the fourth axis."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.imaging.errors import InvalidData

GRID_TOLERANCE = 0.05  # voxels: the maximum distance between corresponding corners of one grid


class OnGrid:
    """An image on a voxel grid.

    `shape` is (x, y, z, ...); `affine` (4, 4) maps voxel indices to world coordinates, scanner RAS+ in mm.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    @property
    def grid(self) -> tuple[int, int, int]:
        """The spatial shape (x, y, z)."""
        x, y, z = self.shape[:3]
        return x, y, z

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """The edge lengths of a voxel in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_volume_ml(self) -> float:
        """The volume of a voxel in ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def same_grid(self, other: OnGrid) -> bool:
        """Whether shapes are equal and corresponding corners are at most 5 % of a voxel apart."""
        return self.grid == other.grid and corner_distance(self.affine, other.affine, self.grid) <= GRID_TOLERANCE


@dataclass(frozen=True, eq=False)
class Volume(OnGrid):
    """An image on a voxel grid, immutable and finite.

    `array` has shape (x, y, z) or (x, y, z, n[, m]) and dtype float32, or uint8 for masks, as in the store. Booleans
    are converted to uint8, all other numbers to float32. The array is not copied, if its dtype is one of these; the
    volume holds a read-only view. `affine` (4, 4) maps voxel indices to world coordinates, scanner RAS+ in mm. It is
    rounded to float32, the precision of a NIfTI header, so that a volume does not change when it is stored and loaded.
    `names`, if given, name the entries of the fourth axis.

    Raises InvalidData if `array` has another number of dimensions or NaN or infinite voxels, if the affine is singular,
    or if there is not one name for each entry.

    >>> volume = Volume(np.ones((4, 4, 2)), np.diag([2, 2, 3, 1]))
    >>> volume.shape, volume.voxel_size, str(volume.array.dtype)
    ((4, 4, 2), (2.0, 2.0, 3.0), 'float32')
    >>> Volume(np.array([[["left", "right"]]]), np.eye(4))
    Traceback (most recent call last):
        ...
    kwneuro_assets.imaging.errors.InvalidData: image: expected real numbers, found dtype <U5.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    names: tuple[str, ...] = ()
    shape: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", _checked_array(self.array))
        object.__setattr__(self, "affine", checked_affine(self.affine))
        object.__setattr__(self, "shape", self.array.shape)
        object.__setattr__(self, "names", tuple(self.names))
        if self.names and (self.array.ndim < 4 or len(self.names) != self.array.shape[3]):
            raise InvalidData(
                "names of the fourth axis",
                expected=f"one for each of its {self.array.shape[3] if self.array.ndim > 3 else 0} entries",
                found=f"{len(self.names)}",
            )

    def volumes(self, chosen: Iterable[int] | None = None) -> Iterator[NDArray[Any]]:
        """The volumes (x, y, z) along the fourth axis, as views: all, or those at the indices `chosen`."""
        return (self.array[..., index] for index in (range(self.shape[3]) if chosen is None else chosen))

    def subsampled(self, step: int) -> Volume:
        """Every `step`-th voxel along each axis, starting with the first, with the affine of these voxels."""
        if step == 1:
            return self
        array = np.asfortranarray(self.array[::step, ::step, ::step])
        return Volume(array, subsampled_affine(self.affine, step), self.names)


def subsampled_affine(affine: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """The affine (4, 4) of every `step`-th voxel along each axis, starting with the first."""
    scaled = affine.copy()
    scaled[:3, :3] *= step
    return scaled


def without_voxels(shape: tuple[int, ...], affine: ArrayLike) -> Volume:
    """A volume of zeros that takes no memory, however large its shape is. Raises InvalidData as Volume."""
    return Volume(np.broadcast_to(np.uint8(0), shape), np.asarray(affine))


def require_same_grid(volume: OnGrid, reference: OnGrid, what: str, reference_name: str) -> None:
    """Raises InvalidData if `volume` is not on the grid of `reference`; see `OnGrid.same_grid`."""
    if not volume.same_grid(reference):
        # If only the axes differ, expected and found would read the same without this distance.
        apart = ""
        if volume.grid == reference.grid:
            apart = f", up to {corner_distance(volume.affine, reference.affine, volume.grid):.3g} voxels away"
        raise InvalidData(
            f"grid of {what}",
            expected=f"that of {reference_name}, {describe_grid(reference)}",
            found=describe_grid(volume) + apart,
            remedy="Resample it onto that grid.",
        )


def on_grid_of(reference: OnGrid, volume: Volume, what: str, reference_name: str) -> Volume:
    """`volume` with exactly the affine of `reference`, from which its own may differ by rounding.

    Raises InvalidData if it is not on that grid.
    """
    require_same_grid(volume, reference, what, reference_name)
    return Volume(volume.array, reference.affine, volume.names)


def mask_of(dwi_volume: OnGrid, mask: Volume) -> Volume:
    """The mask (x, y, z) as uint8, 0 and 1, on the grid of the DWI.

    Raises InvalidData if the mask is empty, not binary, or on another grid.
    """
    return on_grid_of(dwi_volume, binary_mask(mask), "mask", "the diffusion-weighted image")


def binary_mask(volume: Volume, what: str = "mask") -> Volume:
    """`volume` (x, y, z) as a mask: uint8, 0 and 1. Raises InvalidData if it is empty or has other values.

    >>> binary_mask(Volume(np.array([[[0.0, 1.0]]]), np.eye(4))).array.tolist()
    [[[0, 1]]]
    """
    if volume.array.ndim != 3:
        raise InvalidData(what, expected="three dimensions", found=f"shape {volume.shape}")
    values = np.unique(volume.array)
    if not np.isin(values, (0, 1)).all():
        raise InvalidData(what, expected="the values 0 and 1", found=f"{values.size} values, {values[:5].tolist()} ...")
    if values[-1] == 0:
        raise InvalidData(what, expected="at least one voxel inside", found="an empty mask")
    return Volume(volume.array.astype(np.uint8), volume.affine)


def describe_grid(volume: OnGrid) -> str:
    """Shape, voxel size and origin for a message.

    >>> describe_grid(Volume(np.ones((4, 4, 2)), np.diag([2, 2, 3, 1])))
    '4 x 4 x 2 voxels of 2 x 2 x 3 mm at (0.0, 0.0, 0.0)'
    """
    origin = ", ".join(f"{value:.1f}" for value in volume.affine[:3, 3])
    return f"{' x '.join(map(str, volume.grid))} voxels of {describe_edges(volume)} mm at ({origin})"


def describe_edges(volume: OnGrid) -> str:
    """The voxel size in mm for a message, such as `2 x 2 x 3`."""
    return " x ".join(f"{value:.3g}" for value in volume.voxel_size)


def corner_distance(affine: NDArray[Any], reference: NDArray[Any], grid: tuple[int, ...]) -> float:
    """The maximum distance between corresponding corners of a grid (x, y, z) under two affines.

    In voxels of `reference`.

    >>> shifted = np.eye(4)
    >>> shifted[0, 3] = 0.5
    >>> corner_distance(shifted, np.eye(4), (10, 10, 10))
    0.5
    """
    # Outer corners of the voxels, so that a grid of one slice has a thickness.
    corners = np.array([(*corner, 1) for corner in itertools.product(*[(-0.5, size - 0.5) for size in grid[:3]])])
    apart = corners @ (np.asarray(affine) - reference).T
    return float(np.linalg.norm(apart[:, :3] @ np.linalg.inv(reference[:3, :3]).T, axis=1).max())


def checked_affine(affine: ArrayLike) -> NDArray[np.float64]:
    """The affine (4, 4) rounded to float32, as a read-only float64 array. Raises InvalidData if it is singular."""
    matrix = np.asarray(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InvalidData("affine", expected="4 x 4 finite numbers", found=f"shape {matrix.shape} {matrix.tolist()}")
    matrix = matrix.astype(np.float32).astype(np.float64)
    edges = np.linalg.norm(matrix[:3, :3], axis=0)
    # Relative to the edges, so that the test does not depend on the voxel size.
    if (edges == 0).any() or abs(np.linalg.det(matrix[:3, :3] / edges)) < 1e-3:
        raise InvalidData(
            "affine",
            expected="three independent voxel axes (a determinant other than zero)",
            found=f"{matrix[:3, :3].tolist()}",
            remedy="Convert the image again from its DICOM files.",
        )
    matrix.setflags(write=False)
    return matrix


def not_finite(values: NDArray[Any]) -> int:
    """The number of values that are NaN or infinite."""
    # Minimum and maximum are finite only if all values are, and need no temporary array of the image's size.
    if np.isfinite(values.min()) and np.isfinite(values.max()):
        return 0
    return int(values.size - np.count_nonzero(np.isfinite(values)))


def require_finite(bad: int, size: int) -> None:
    """Raises InvalidData if `bad`, the number of NaN or infinite voxels of `size`, is not zero."""
    if bad:
        raise InvalidData(
            "voxel values",
            expected="finite numbers",
            found=f"{bad} NaN or infinite of {size}",
            remedy="Repair or replace the image.",
        )


def _checked_array(array: ArrayLike) -> NDArray[Any]:
    values = np.asarray(array)
    if not 3 <= values.ndim <= 5 or 0 in values.shape:
        raise InvalidData("image", expected="3 to 5 dimensions, none of them empty", found=f"shape {values.shape}")
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    elif values.dtype != np.uint8:
        if values.dtype.kind not in "iuf":
            raise InvalidData("image", expected="real numbers", found=f"dtype {values.dtype}")
        with np.errstate(over="ignore"):  # values that overflow float32 become infinite and raise an error below
            values = values.astype(np.float32, copy=False)
        require_finite(not_finite(values), values.size)
    view = values.view()
    view.setflags(write=False)
    return view
