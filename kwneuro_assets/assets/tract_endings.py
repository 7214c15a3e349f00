"""Bundle endings."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.tracts import segment_endings
from kwneuro_assets.imaging import MapSet, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.quality.figures import endings_figure
from kwneuro_assets.quality.summaries import endings_summary
from kwneuro_assets.run_queue import NETWORK_POOL
from kwneuro_assets.settings import TractEndingSettings
from kwneuro_assets.weights.resource import UsedWeights


@derivative(
    group="tracts",
    version=1,
    picture=endings_figure,
    summary=endings_summary,
    kinds={"nifti", "pytorch"},
    libraries=("torch", "tractseg"),
    decisive=("torch",),
    bids={"Type": "ROI"},
    pool=NETWORK_POOL,
)
def tract_endings(csd_peaks: MapSet, settings: TractEndingSettings, weights: UsedWeights, progress: Progress) -> Volume:
    """Start and end regions of the 72 bundles by TractSeg."""
    return segment_endings(
        csd_peaks["peaks"],
        weights=weights.require("tractseg-endings"),
        threshold=settings.ending_threshold,
        progress=progress,
    )
