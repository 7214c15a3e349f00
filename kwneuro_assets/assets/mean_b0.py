"""The mean b=0 image."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.imaging import Dwi, Volume
from kwneuro_assets.quality.figures import mean_b0_figure
from kwneuro_assets.quality.summaries import mean_b0_summary


@derivative(
    group="preprocessing",
    version=1,
    picture=mean_b0_figure,
    summary=mean_b0_summary,
    kinds={"nifti", "numpy"},
    bids={"SkullStripped": False},
)
def mean_b0(denoised_dwi: Dwi) -> Volume:
    """Mean of the volumes without diffusion weighting: the T2-weighted image the brain is found on."""
    return denoised_dwi.mean_b0()
