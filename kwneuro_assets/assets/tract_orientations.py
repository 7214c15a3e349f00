"""Tract orientation maps."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.assets.mni_alignment import aligns_to_mni
from kwneuro_assets.derivations.alignment import aligned, aligned_masks, vectors_unaligned
from kwneuro_assets.derivations.tracts import orientation_maps
from kwneuro_assets.figures.subject import orientations_figure
from kwneuro_assets.figures.summaries import orientations_summary
from kwneuro_assets.imaging import MapSet, RigidTransform, Volume
from kwneuro_assets.launchers.run_queue import network_pool
from kwneuro_assets.progress import Progress
from kwneuro_assets.resources.step_networks import StepNetworks
from kwneuro_assets.settings import TractOrientationSettings
from kwneuro_assets.storage.bids_fields import ENCODING, UNIT_VECTORS


@derivative(
    group="tracts",
    version=2,
    figure=orientations_figure,
    summary=orientations_summary,
    kinds={"nifti", "pytorch"},
    libraries=("torch", "tractseg"),
    version_relevant=("numpy", "torch"),
    bids={"ReferenceFrame": "world (scanner RAS+)", ENCODING: UNIT_VECTORS},
    networks=("tractseg-orientations",),
    pool=network_pool,
    reference_grid="denoised_dwi",
    optional_inputs={"mni_alignment": aligns_to_mni},
)
def tract_orientations(
    csd_peaks: MapSet,
    tract_masks: Volume,
    settings: TractOrientationSettings,
    networks: StepNetworks,
    progress: Progress,
    mni_alignment: RigidTransform | None = None,
) -> Volume:
    """Tract orientation maps (TOM): the local direction of each of the 72 bundles, by TractSeg.

    A map is zero outside its bundle's mask, dilated by `tracts.dilation` voxels. The sign of a direction is arbitrary.

    | content | unit |
    |---|---|
    | 4-D image, three volumes per bundle (x, y, z): unit vectors, world frame (RAS+) | 1 |

    **References**: [Wasserthal 2019](https://doi.org/10.1016/j.media.2019.101559) (tract orientation mapping).
    """
    peaks = csd_peaks["peaks"]
    maps = orientation_maps(
        aligned(peaks, mni_alignment),
        aligned_masks(tract_masks, peaks, mni_alignment),
        weights=networks.folder("tractseg-orientations"),
        device=networks.device,
        dilation=settings.dilation,
        progress=progress,
    )
    return vectors_unaligned(maps, peaks, mni_alignment)
