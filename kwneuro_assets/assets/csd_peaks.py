"""Fibre directions."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.csd import fit_csd_peaks
from kwneuro_assets.derivations.group_response import scaled_to
from kwneuro_assets.derivations.multi_tissue import fit_multi_tissue
from kwneuro_assets.derivations.shells import series_for
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, ResponseFunction, TissueResponses, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.quality.figures import peaks_figure
from kwneuro_assets.quality.summaries import peaks_summary
from kwneuro_assets.settings import PeakSettings


@derivative(
    group="fibers",
    version=3,
    picture=peaks_figure,
    summary=peaks_summary,
    kinds={"nifti", "numba"},
    libraries=("numba",),
    bids={
        "ReferenceFrame": "world (scanner RAS+)",
        "PeakElements": "x, y, z of each peak, strongest first",
        "FodElements": "even spherical harmonics in MRtrix3's order and normalisation",
        "FractionUnits": "share of the sum of white matter, grey matter and free water",
    },
)
def csd_peaks(
    brain_mask: Volume,
    fiber_response: ResponseFunction | TissueResponses,
    settings: PeakSettings,
    progress: Progress,
    dwi: Dwi | None = None,
    denoised_dwi: Dwi | None = None,
    group_response: ResponseFunction | TissueResponses | None = None,
) -> MapSet | NotApplicable:
    """Peaks of the fibre orientation distribution by constrained spherical deconvolution: of one shell, or of all with
    the shares of white matter, grey matter and free water, as the response is one of a fibre or of three tissues."""
    response = scaled_to(group_response, fiber_response) if group_response else fiber_response
    chosen = settings.model_dump(exclude={"series", "group_response"})
    if isinstance(response, TissueResponses):
        series = series_for("multi-tissue", dwi, denoised_dwi)
        return fit_multi_tissue(series, brain_mask, response, **chosen, progress=progress)
    series = series_for("single-tissue", dwi, denoised_dwi)
    return fit_csd_peaks(series, brain_mask, response, **chosen, progress=progress)
