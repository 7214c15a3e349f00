"""Fiber orientations by constrained spherical deconvolution."""

from __future__ import annotations

from kwneuro_assets.assets.csd_inputs import uses_denoised_dwi, uses_raw_dwi
from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.csd import fit_csd_peaks
from kwneuro_assets.derivations.group_response import scaled_to
from kwneuro_assets.derivations.multi_tissue import fit_multi_tissue
from kwneuro_assets.derivations.shells import dwi_for
from kwneuro_assets.figures.subject import peaks_figure
from kwneuro_assets.figures.summaries import peaks_summary
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, ResponseFunction, TissueResponses, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.settings import PeakSettings
from kwneuro_assets.storage.bids_fields import ENCODING, MAPS, SCALARS, SPHERICAL_HARMONICS, VECTORS


@derivative(
    group="fibers",
    version=5,
    figure=peaks_figure,
    summary=peaks_summary,
    kinds={"nifti", "numba"},
    libraries=("numba",),
    bids={
        "Model": {"Description": "Constrained spherical deconvolution"},
        "ReferenceFrame": "world (scanner RAS+)",
        MAPS: {
            "peaks": {"Description": "Peaks of the FOD, strongest first; length = amplitude", ENCODING: VECTORS},
            "peakvalues": {"Description": "Amplitudes of the peaks", ENCODING: {**SCALARS, "FillValue": 0.0}},
            "fod": {"Description": "Fiber orientation distribution", ENCODING: SPHERICAL_HARMONICS},
        },
        "FractionUnits": "fraction of the sum of WM, GM and CSF",
    },
    reference_grid="denoised_dwi",
    optional_inputs={
        "dwi": uses_raw_dwi,
        "denoised_dwi": uses_denoised_dwi,
        "group_response": lambda settings: settings.csd.group_response,
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
    """Peaks of the fiber orientation distribution (FOD) by constrained spherical deconvolution.

    Multi-tissue deconvolution of all shells if the response function has three tissues, else single-tissue
    deconvolution of one shell. With `csd.group_response`, the group's mean response function is used, scaled to the
    subject's own signal.

    | map | content | unit |
    |---|---|---|
    | `peaks` | peaks (x, y, z each), strongest first, world frame (RAS+); the length is the amplitude | 1 |
    | `peakvalues` | amplitude of each peak | 1 |
    | `wmfraction`, `gmfraction`, `csffraction` | fractions of WM, GM and CSF (multi-tissue) | 1 |
    | `fod` | even spherical harmonic coefficients in MRtrix3's order and normalization (with `csd.save_fod`) | 1 |

    **References**: [Tournier 2007](https://doi.org/10.1016/j.neuroimage.2007.02.016) (CSD),
    [Jeurissen 2014](https://doi.org/10.1016/j.neuroimage.2014.07.061) (multi-tissue CSD).
    """
    response = scaled_to(group_response, fiber_response) if group_response else fiber_response
    chosen = settings.model_dump(exclude={"series", "group_response"})
    if isinstance(response, TissueResponses):
        series = dwi_for("multi-tissue", dwi, denoised_dwi)
        return fit_multi_tissue(series, brain_mask, response, **chosen, progress=progress)
    series = dwi_for("single-tissue", dwi, denoised_dwi)
    return fit_csd_peaks(series, brain_mask, response, **chosen, progress=progress)
