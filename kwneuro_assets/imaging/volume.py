"""A NIfTI image as a value: array, affine and, for stacked masks, the names along the fourth axis."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.imaging.errors import InvalidData

GRID_TOLERANCE = 1e-3  # mm: two affines closer than this describe one grid


class OnGrid:
    """What lies on a voxel grid: `shape` (x, y, z, ...), and `affine` (4, 4) from voxel indices to world coordinates,
    scanner RAS+ in mm."""

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    @property
    def grid(self) -> tuple[int, int, int]:
        """The spatial shape."""
        x, y, z = self.shape[:3]
        return x, y, z

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_volume_ml(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def same_grid(self, other: OnGrid) -> bool:
        return self.grid == other.grid and bool(np.allclose(self.affine, other.affine, atol=GRID_TOLERANCE))


@dataclass(frozen=True, eq=False)
class Volume(OnGrid):
    """An image on a voxel grid, immutable and finite.

    `array` has shape (x, y, z) or (x, y, z, n[, m]) and dtype float32, or uint8 for masks: what the store holds.
    Booleans become uint8, every other number float32. It is taken over, not copied, and made read-only.
    `affine` (4, 4) maps voxel indices to world coordinates, scanner RAS+ in mm; it is kept at float32
    precision, which is what a NIfTI header holds, so that a stored and loaded volume is the same value.
    `names`, where given, name the entries of the fourth axis.

    Raises InvalidData for another number of dimensions, NaN or infinite voxels, a singular affine, names that
    do not fit.
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
        """The images along the fourth axis, all of them or those at these indices: views of the array."""
        return (self.array[..., index] for index in (range(self.shape[3]) if chosen is None else chosen))

    def subsampled(self, step: int) -> Volume:
        """Every `step`-th voxel along each axis, starting with the first; the world frame stays."""
        if step == 1:
            return self
        array = np.asfortranarray(self.array[::step, ::step, ::step])
        return Volume(array, subsampled_affine(self.affine, step), self.names)


def subsampled_affine(affine: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """The affine of every `step`-th voxel along each axis, starting with the first."""
    scaled = affine.copy()
    scaled[:3, :3] *= step
    return scaled


def without_voxels(shape: tuple[int, ...], affine: ArrayLike) -> Volume:
    """A volume of zeros that takes no memory, whatever size a header tells. Raises InvalidData as Volume does."""
    return Volume(np.broadcast_to(np.uint8(0), shape), np.asarray(affine))


def require_same_grid(volume: OnGrid, reference: OnGrid, what: str, reference_name: str) -> None:
    """Raises InvalidData when `volume` does not lie on the grid of `reference`."""
    if not volume.same_grid(reference):
        # Where only the axes differ, size and origin would read the same on both sides.
        apart = f", up to {_apart(volume, reference):.3g} mm away" if volume.grid == reference.grid else ""
        raise InvalidData(
            f"grid of {what}",
            expected=f"that of {reference_name}, {describe_grid(reference)}",
            found=describe_grid(volume) + apart,
            remedy="Resample it onto that grid.",
        )


def binary_mask(volume: Volume, what: str = "mask") -> Volume:
    """`volume` (x, y, z) as a uint8 mask of 0 and 1. Raises InvalidData for other values or an empty mask."""
    if volume.array.ndim != 3:
        raise InvalidData(what, expected="three dimensions", found=f"shape {volume.shape}")
    values = np.unique(volume.array)
    if not np.isin(values, (0, 1)).all():
        raise InvalidData(what, expected="the values 0 and 1", found=f"{values.size} values, {values[:5].tolist()} ...")
    if values[-1] == 0:
        raise InvalidData(what, expected="at least one voxel inside", found="an empty mask")
    return Volume(volume.array.astype(np.uint8), volume.affine)


def describe_grid(volume: OnGrid) -> str:
    origin = ", ".join(f"{value:.1f}" for value in volume.affine[:3, 3])
    return f"{' x '.join(map(str, volume.grid))} voxels of {describe_edges(volume)} mm at ({origin})"


def describe_edges(volume: OnGrid) -> str:
    return " x ".join(f"{value:.3g}" for value in volume.voxel_size)


def _apart(volume: OnGrid, reference: OnGrid) -> float:
    """The largest distance in mm between corners of one name."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*[(0, size - 1) for size in volume.grid])])
    return float(np.linalg.norm(corners @ (volume.affine - reference.affine).T, axis=1).max())


def checked_affine(affine: ArrayLike) -> NDArray[np.float64]:
    """A finite, invertible 4x4 affine at float32 precision, read-only."""
    matrix = np.asarray(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InvalidData("affine", expected="4 x 4 finite numbers", found=f"shape {matrix.shape} {matrix.tolist()}")
    matrix = matrix.astype(np.float32).astype(np.float64)
    edges = np.linalg.norm(matrix[:3, :3], axis=0)
    # Relative to the edges, so that a grid of micrometres is no more singular than one of millimetres.
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
    """How many of the values are NaN or infinite."""
    # A minimum and a maximum are finite only where all is, and need no temporary of the image's size.
    if np.isfinite(values.min()) and np.isfinite(values.max()):
        return 0
    return int(values.size - np.count_nonzero(np.isfinite(values)))


def require_finite(bad: int, size: int) -> None:
    """Raises InvalidData where `bad` of an image's `size` voxel values are not finite."""
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
        with np.errstate(over="ignore"):  # what overflows float32 is infinite and refused just below
            values = values.astype(np.float32, copy=False)
        require_finite(not_finite(values), values.size)
    view = values.view()
    view.setflags(write=False)
    return view
