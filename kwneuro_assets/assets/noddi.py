"""NODDI."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.noddi import fit_noddi
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.quality.figures import noddi_figure
from kwneuro_assets.quality.summaries import noddi_summary
from kwneuro_assets.settings import NoddiSettings


@derivative(
    group="microstructure",
    version=2,
    picture=noddi_figure,
    summary=noddi_summary,
    kinds={"nifti", "numba"},
    libraries=("dmri-amico", "numba"),
    decisive=("numpy",),
    bids={"ReferenceFrame": "world (scanner RAS+)"},
)
def noddi(denoised_dwi: Dwi, brain_mask: Volume, settings: NoddiSettings, progress: Progress) -> MapSet | NotApplicable:
    """NODDI as AMICO fits it: neurite density (NDI), orientation dispersion (ODI), free water (FWF) and direction."""
    return fit_noddi(
        denoised_dwi,
        brain_mask,
        settings.dpar,
        settings.diso,
        settings.directions,
        rmse=settings.rmse,
        tissue_weighted=settings.tissue_weighted,
        progress=progress,
    )
