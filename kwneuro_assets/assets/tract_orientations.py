"""Tract orientation maps."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.tracts import orientation_maps
from kwneuro_assets.imaging import MapSet, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.quality.figures import orientations_figure
from kwneuro_assets.quality.summaries import orientations_summary
from kwneuro_assets.run_queue import NETWORK_POOL
from kwneuro_assets.settings import TractOrientationSettings
from kwneuro_assets.weights.resource import UsedWeights


@derivative(
    group="tracts",
    version=1,
    picture=orientations_figure,
    summary=orientations_summary,
    kinds={"nifti", "pytorch"},
    libraries=("torch", "tractseg"),
    decisive=("numpy", "torch"),
    bids={"ReferenceFrame": "world (scanner RAS+)"},
    pool=NETWORK_POOL,
)
def tract_orientations(
    csd_peaks: MapSet,
    tract_masks: Volume,
    settings: TractOrientationSettings,
    weights: UsedWeights,
    progress: Progress,
) -> Volume:
    """The main direction of each of the 72 bundles in each voxel (TOM) by TractSeg."""
    return orientation_maps(
        csd_peaks["peaks"],
        tract_masks,
        weights=weights.require("tractseg-orientations"),
        dilation=settings.dilation,
        progress=progress,
    )
