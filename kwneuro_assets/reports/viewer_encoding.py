"""Images of a subject as compressed bytes on the grid of the viewer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.figures.colors import bundle_colors, direction_colors
from kwneuro_assets.imaging import Volume
from kwneuro_assets.reports.viewer_grid import ViewerGrid
from kwneuro_assets.reports.viewer_nifti import nifti_bytes

FINE, COARSE = 255, 127  # steps of the scale of a map; errors up to 0.2 and 0.4 % of its range
COLOR_STEPS = 63  # of each color; finer ones cannot be seen, and make the image a quarter larger
BRIGHTEST_FA = 0.8  # FA at which a voxel of the direction map has full brightness, as in the figures
_BRIGHT = 99.5  # percentile of the signal in the brain that counts as bright
_HEADROOM = 1.5  # times the bright signal; brighter voxels, such as those of the eyes, are clipped


@dataclass(frozen=True)
class ViewerVolume:
    """One volume: a compressed NIfTI file and how it is shown.

    Attributes:
        name: A short name in lower case, unique in the viewer.
        label: The name for people.
        unit: The unit of its values; empty for a ratio.
        nifti: (x, y, z), uint8 or RGB; a voxel means `slope * byte + intercept`.
        slope: The step of the scale, as in the header of the file.
        steps: The number of steps of the scale, the byte of its last value.
        intercept: The value of byte 0, as in the header of the file.
        window: The values shown in the first and last color.
        colors: The name of NiiVue's color map; `rgb` if the voxels are colors.
        clipped: Whether values below the first or above the last step of the scale were set to it.
    """

    name: str
    label: str
    unit: str
    nifti: bytes = field(repr=False)
    slope: float = 1.0
    intercept: float = 0.0
    steps: int = FINE
    window: tuple[float, float] = (0.0, 1.0)
    colors: str = "gray"
    clipped: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class BundleVolume:
    """The voxels of all bundles, as bits: bundle i is bit `i % 8`, of value `1 << i % 8`, of frame `i // 8`.

    `nifti` is (x, y, z, frames), uint8. `names`, `colors` (red, green, blue, 0 to 255) and `volumes_ml` have one entry
    per bundle.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    volumes_ml: tuple[float, ...]
    nifti: bytes = field(repr=False)


def signal(grid: ViewerGrid, steps: int, *, image: NDArray[Any], inside: NDArray[np.bool_]) -> ViewerVolume:
    """The mean b=0 (x, y, z), windowed to the bright signal of the brain, where `inside` (x, y, z) is true."""
    brain = image[inside]
    bright = float(np.percentile(brain, _BRIGHT)) if brain.size else 0.0
    brightest = float(grid.image(image).max())
    top = min(brightest, _HEADROOM * bright) if bright > 0 else max(brightest, 0.0)
    window = (0.0, min(bright, top)) if bright > 0 else (0.0, top or 1.0)
    return _scaled(grid, steps, image, "b0", "Mean b=0", "a.u.", top or 1.0, window, "gray")


def fraction(grid: ViewerGrid, steps: int, *, image: NDArray[Any], name: str, label: str, colors: str) -> ViewerVolume:
    """A map (x, y, z) from 0 to 1."""
    return _scaled(grid, steps, image, name, label, "", 1.0, (0.0, 1.0), colors)


def directions(grid: ViewerGrid, steps: int, *, vectors: NDArray[Any], fa: NDArray[Any]) -> ViewerVolume:
    """Direction-encoded colors of world vectors (x, y, z, 3) with the brightness of FA (x, y, z)."""
    colors = direction_colors(grid.image(vectors), grid.image(fa) / BRIGHTEST_FA)
    image = np.rint(np.rint(COLOR_STEPS * colors) * (255 / COLOR_STEPS)).astype(np.uint8)
    nifti = nifti_bytes(image, grid.affine, colors=True)
    return ViewerVolume("direction", "Color-coded direction", "", nifti, colors="rgb")


def mask(grid: ViewerGrid, steps: int, *, mask: NDArray[Any]) -> ViewerVolume:
    """The brain mask (x, y, z): 0 and 1."""
    nifti = nifti_bytes((grid.image(mask) > 0).astype(np.uint8), grid.affine)
    return ViewerVolume("mask", "Brain mask", "", nifti)


def bundles(grid: ViewerGrid, stack: Volume) -> BundleVolume:
    """The bundles of a stack of masks (x, y, z, n) with the names of its volumes."""
    count = stack.shape[3]
    names = stack.names or tuple(f"bundle {index + 1}" for index in range(count))
    bits = np.zeros((*grid.shape, -(-count // 8)), np.uint8, order="F")
    voxels = []
    for index, one in enumerate(stack.volumes()):
        bits[..., index // 8] |= (grid.image(one) > 0).astype(np.uint8) << np.uint8(index % 8)
        voxels.append(int(np.count_nonzero(one)))
    palette = bundle_colors(names)
    return BundleVolume(
        names,
        tuple(_rgb(palette[name]) for name in names),
        tuple(float(f"{number * stack.voxel_volume_ml:.4g}") for number in voxels),
        nifti_bytes(bits, grid.affine),
    )


def _rgb(color: tuple[float, float, float]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in color)
    return red, green, blue


def _scaled(
    grid: ViewerGrid,
    steps: int,
    image: NDArray[Any],
    name: str,
    label: str,
    unit: str,
    top: float,
    window: tuple[float, float],
    colors: str,
) -> ViewerVolume:
    """An image from 0 to `top`, in steps."""
    slope = float(np.float32(top / steps))  # the precision of a NIfTI header
    scaled = np.rint(grid.image(image) / np.float32(slope))
    return ViewerVolume(
        name,
        label,
        unit,
        nifti_bytes(np.clip(scaled, 0, steps).astype(np.uint8), grid.affine, slope=slope),
        slope,
        steps=steps,
        window=window,
        colors=colors,
        clipped=(bool(scaled.min() < 0), bool(scaled.max() > steps)),
    )
