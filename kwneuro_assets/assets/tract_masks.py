"""Tract masks."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.assets.mni_alignment import aligns_to_mni
from kwneuro_assets.derivations.alignment import aligned, unaligned
from kwneuro_assets.derivations.tracts import segment_tracts
from kwneuro_assets.figures.subject import tracts_figure
from kwneuro_assets.figures.summaries import tracts_summary
from kwneuro_assets.imaging import MapSet, RigidTransform, Segmentation, Volume
from kwneuro_assets.launchers.run_queue import network_pool
from kwneuro_assets.progress import Progress
from kwneuro_assets.resources.step_networks import StepNetworks
from kwneuro_assets.settings import TractMaskSettings


@derivative(
    group="tracts",
    version=1,
    figure=tracts_figure,
    summary=tracts_summary,
    kinds={"nifti", "pytorch"},
    libraries=("torch", "tractseg"),
    version_relevant=("torch",),
    bids={"Type": "ROI"},
    networks=("tractseg-masks",),
    pool=network_pool,
    reference_grid="denoised_dwi",
    optional_inputs={"mni_alignment": aligns_to_mni},
)
def tract_masks(
    csd_peaks: MapSet,
    settings: TractMaskSettings,
    networks: StepNetworks,
    progress: Progress,
    mni_alignment: RigidTransform | None = None,
) -> Volume | Segmentation:
    """Masks of 72 white matter bundles, segmented by TractSeg from the three strongest peaks.

    A voxel belongs to a bundle if its probability is above `tracts.mask_threshold`, or above the bundle's own threshold
    in `tracts.bundle_thresholds`; bundles may overlap.

    | content | unit |
    |---|---|
    | 4-D mask, uint8, one volume per bundle; the sidecar has the bundle names | 1 |
    | `probseg`, with `tracts.probabilities`: the probabilities, float32, in the same order | 1 |

    **References**: [Wasserthal 2018](https://doi.org/10.1016/j.neuroimage.2018.07.070) (TractSeg).
    """
    peaks = csd_peaks["peaks"]
    masks = segment_tracts(
        aligned(peaks, mni_alignment),
        weights=networks.folder("tractseg-masks"),
        device=networks.device,
        threshold=settings.mask_threshold,
        bundle_thresholds=settings.bundle_thresholds,
        with_probabilities=settings.probabilities,
        progress=progress,
    )
    return unaligned(masks, peaks)
