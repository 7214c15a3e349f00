"""The volumes of the viewer in the report of a subject: small, as they travel inside the page.

Maps are stored in 128 or 256 steps of a scale that each volume carries; bundles as bits. All are on one grid, see
`viewer_grid`, which is as fine as `MAX_BYTES` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.figures.tissues import TISSUES
from kwneuro_assets.figures.view import foreground
from kwneuro_assets.imaging import MapSet, NotApplicable, Volume
from kwneuro_assets.reports import viewer_encoding
from kwneuro_assets.reports.viewer_encoding import COARSE, FINE, BundleVolume, ViewerVolume
from kwneuro_assets.reports.viewer_grid import ViewerGrid
from kwneuro_assets.threads import parallel_map

MAX_BYTES = 2_900_000  # of all volumes of a subject, as base64 text; with the text of the page under 3 MB
_COARSE_GAIN = 1.15  # a scale of COARSE steps makes the volumes smaller by about this factor
_MAX_VOXELS = 600_000  # inside the mask; the maps of more voxels never fit into MAX_BYTES, so they are not tried
_MAPS = (  # asset, map, label, color map
    ("noddi", "ndi", "Neurite density (NDI)", "inferno"),
    ("noddi", "odi", "Orientation dispersion (ODI)", "magma"),
    ("noddi", "fwf", "Free water fraction (FWF)", "bone"),
    *(("csd_peaks", tissue.map, f"Fraction of {tissue.name}", "viridis") for tissue in TISSUES),
)

_Input = Volume | MapSet | NotApplicable | None
_Encoder = Callable[[ViewerGrid, int], ViewerVolume]  # of a grid and a number of steps


@dataclass(frozen=True, eq=False)
class ViewerVolumes:
    """What the viewer shows: backgrounds in the order of its menu, the brain mask and the bundles, on one grid.

    `grid` is None if there is no volume at all.
    """

    grid: ViewerGrid | None = None
    backgrounds: tuple[ViewerVolume, ...] = ()
    mask: ViewerVolume | None = None
    bundles: BundleVolume | None = None

    @property
    def base64_bytes(self) -> int:
        """The size of all volumes in the page."""
        files = [one.nifti for one in (*self.backgrounds, self.mask, self.bundles) if one is not None]
        return sum(4 * -(-len(file) // 3) for file in files)


def viewer_volumes(
    *,
    mean_b0: Volume | NotApplicable | None,
    brain_mask: Volume | NotApplicable | None,
    dti: MapSet | NotApplicable | None,
    noddi: MapSet | NotApplicable | None,
    csd_peaks: MapSet | NotApplicable | None,
    tract_masks: Volume | NotApplicable | None,
) -> ViewerVolumes:
    """The volumes of a subject, from its derivatives.

    Each may be missing (None) or not applicable; its volumes are then left out, as are those on another grid than the
    first that is present. The grid is cropped to the brain mask, or else to the head. It has every voxel of the
    derivatives there, or every n-th along some axes, if all of them would exceed `MAX_BYTES`, with half as many steps
    of the scales, too. The same values give the same bytes.
    """
    found = _on_one_grid(
        {
            "mean_b0": mean_b0,
            "brain_mask": brain_mask,
            "dti": dti,
            "noddi": noddi,
            "csd_peaks": csd_peaks,
            "tract_masks": tract_masks,
        }
    )
    if not found:
        return ViewerVolumes()
    source, inside = next(iter(found.values())), _inside(found)
    grid = ViewerGrid.of(source, inside)
    while np.count_nonzero(grid.image(inside)) > _MAX_VOXELS:
        grid = ViewerGrid.of(source, inside, grid.coarser())
    volumes = _encoded(found, inside, grid, FINE)
    if MAX_BYTES < volumes.base64_bytes <= _COARSE_GAIN * MAX_BYTES:
        volumes = _encoded(found, inside, grid, COARSE)
    while volumes.base64_bytes > MAX_BYTES and max(grid.shape) > 1:
        grid = ViewerGrid.of(source, inside, grid.coarser())
        volumes = _encoded(found, inside, grid, FINE)
    return volumes


def _on_one_grid(inputs: Mapping[str, _Input]) -> dict[str, Volume]:
    """The images that are present, by asset, or asset and map: `dti.fa`."""
    images: dict[str, Volume] = {}
    for asset, value in inputs.items():
        if isinstance(value, Volume):
            images[asset] = value
        elif isinstance(value, MapSet):
            images.update({f"{asset}.{name}": image for name, image in value.items()})
    first = next(iter(images.values()), None)
    return {name: image for name, image in images.items() if first is not None and image.same_grid(first)}


def _inside(found: Mapping[str, Volume]) -> NDArray[np.bool_]:
    """The brain; without a mask the head, or where the first image is not 0."""
    if "brain_mask" in found and found["brain_mask"].array.any():
        return found["brain_mask"].array > 0
    if "mean_b0" in found:
        return foreground(found["mean_b0"].array)
    array = next(iter(found.values())).array
    inside: NDArray[np.bool_] = np.any(array != 0, axis=tuple(range(3, array.ndim)))
    return inside


def _encoded(found: Mapping[str, Volume], inside: NDArray[np.bool_], grid: ViewerGrid, steps: int) -> ViewerVolumes:
    encoders = [*_backgrounds(found, inside)]
    if has_mask := "brain_mask" in found:
        encoders.append(partial(viewer_encoding.mask, mask=found["brain_mask"].array))
    volumes = list(parallel_map(lambda encode: encode(grid, steps), encoders))
    mask = volumes.pop() if has_mask else None
    bundles = viewer_encoding.bundles(grid, found["tract_masks"]) if "tract_masks" in found else None
    return ViewerVolumes(grid, tuple(volumes), mask, bundles)


def _backgrounds(found: Mapping[str, Volume], inside: NDArray[np.bool_]) -> Iterator[_Encoder]:
    if "mean_b0" in found:
        yield partial(viewer_encoding.signal, image=found["mean_b0"].array, inside=inside)
    if "dti.fa" in found:
        fa = found["dti.fa"].array
        yield partial(viewer_encoding.fraction, image=fa, name="fa", label="Fractional anisotropy (FA)", colors="gray")
        if "dti.evecs" in found:
            yield partial(viewer_encoding.directions, vectors=found["dti.evecs"].array[..., :3], fa=fa)
    for asset, name, label, colors in _MAPS:
        if f"{asset}.{name}" in found:
            image = found[f"{asset}.{name}"].array
            yield partial(viewer_encoding.fraction, image=image, name=name, label=label, colors=colors)
