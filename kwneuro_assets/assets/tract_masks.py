"""Bundle masks."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.tracts import segment_tracts
from kwneuro_assets.imaging import MapSet, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.quality.figures import tracts_figure
from kwneuro_assets.quality.summaries import tracts_summary
from kwneuro_assets.run_queue import NETWORK_POOL
from kwneuro_assets.settings import TractMaskSettings
from kwneuro_assets.weights.resource import UsedWeights


@derivative(
    group="tracts",
    version=1,
    picture=tracts_figure,
    summary=tracts_summary,
    kinds={"nifti", "pytorch"},
    libraries=("torch", "tractseg"),
    decisive=("torch",),
    bids={"Type": "ROI"},
    pool=NETWORK_POOL,
)
def tract_masks(csd_peaks: MapSet, settings: TractMaskSettings, weights: UsedWeights, progress: Progress) -> Volume:
    """Masks of 72 white-matter bundles by TractSeg, from the three strongest peaks."""
    return segment_tracts(
        csd_peaks["peaks"],
        weights=weights.require("tractseg-masks"),
        threshold=settings.mask_threshold,
        progress=progress,
    )
