"""Fibre directions."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.csd import fit_csd_peaks
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.quality.figures import peaks_figure
from kwneuro_assets.quality.summaries import peaks_summary
from kwneuro_assets.settings import PeakSettings


@derivative(
    group="fibers",
    version=2,
    picture=peaks_figure,
    summary=peaks_summary,
    kinds={"nifti", "numba"},
    libraries=("numba",),
    bids={
        "ReferenceFrame": "world (scanner RAS+)",
        "PeakElements": "x, y, z of each peak, strongest first",
        "FodElements": "even spherical harmonics in MRtrix3's order and normalisation",
    },
)
def csd_peaks(
    denoised_dwi: Dwi, brain_mask: Volume, fiber_response: ResponseFunction, settings: PeakSettings, progress: Progress
) -> MapSet | NotApplicable:
    """Peaks of the fibre orientation distribution by constrained spherical deconvolution of one shell."""
    return fit_csd_peaks(
        denoised_dwi,
        brain_mask,
        fiber_response,
        shell=settings.shell,
        max_order=settings.max_order,
        peaks=settings.peaks,
        relative_threshold=settings.relative_threshold,
        minimum_angle=settings.minimum_angle,
        fod=settings.fod,
        progress=progress,
    )
