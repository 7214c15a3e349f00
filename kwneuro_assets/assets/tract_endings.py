"""Tract endings."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.assets.mni_alignment import aligns_to_mni
from kwneuro_assets.derivations.alignment import aligned, unaligned
from kwneuro_assets.derivations.tracts import segment_endings
from kwneuro_assets.figures.subject import endings_figure
from kwneuro_assets.figures.summaries import endings_summary
from kwneuro_assets.imaging import MapSet, RigidTransform, Volume
from kwneuro_assets.launchers.run_queue import network_pool
from kwneuro_assets.progress import Progress
from kwneuro_assets.resources.step_networks import StepNetworks
from kwneuro_assets.settings import TractEndingSettings


@derivative(
    group="tracts",
    version=1,
    figure=endings_figure,
    summary=endings_summary,
    kinds={"nifti", "pytorch"},
    libraries=("torch", "tractseg"),
    version_relevant=("torch",),
    bids={"Type": "ROI"},
    networks=("tractseg-endings",),
    pool=network_pool,
    reference_grid="denoised_dwi",
    optional_inputs={"mni_alignment": aligns_to_mni},
)
def tract_endings(
    csd_peaks: MapSet,
    settings: TractEndingSettings,
    networks: StepNetworks,
    progress: Progress,
    mni_alignment: RigidTransform | None = None,
) -> Volume:
    """Masks of the start and end regions of the 72 bundles, segmented by TractSeg.

    A voxel belongs to an ending if its probability is at least `tracts.ending_threshold`.

    | content | unit |
    |---|---|
    | 4-D mask, uint8, two volumes per bundle (`<bundle>_b`, `<bundle>_e`); the sidecar has the names | 1 |

    **References**: [Wasserthal 2018](https://doi.org/10.1016/j.neuroimage.2018.07.070) (TractSeg).
    """
    peaks = csd_peaks["peaks"]
    endings = segment_endings(
        aligned(peaks, mni_alignment),
        weights=networks.folder("tractseg-endings"),
        device=networks.device,
        threshold=settings.ending_threshold,
        progress=progress,
    )
    return unaligned(endings, peaks)
