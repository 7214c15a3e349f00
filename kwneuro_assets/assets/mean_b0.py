"""The mean b=0 image."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.figures.subject import mean_b0_figure
from kwneuro_assets.figures.summaries import mean_b0_summary
from kwneuro_assets.imaging import Dwi, Volume


@derivative(
    group="preprocessing",
    version=1,
    figure=mean_b0_figure,
    summary=mean_b0_summary,
    kinds={"nifti", "numpy"},
    bids={"SkullStripped": False},
    reference_grid="denoised_dwi",
)
def mean_b0(denoised_dwi: Dwi) -> Volume:
    """Mean of the b=0 volumes: the T2-weighted image in which the brain is segmented.

    A volume counts as b=0 if its b-value is at most `source.b0_threshold`.

    | content | unit |
    |---|---|
    | 3-D image on the grid of the denoised DWI | signal of the raw DWI |
    """
    return denoised_dwi.mean_b0()
