"""The response function of a single fiber population, or of three tissues."""

from __future__ import annotations

from pathlib import Path

from kwneuro_assets.assets.csd_inputs import uses_denoised_dwi, uses_raw_dwi
from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.response import estimate_response
from kwneuro_assets.derivations.shells import choose_method, choose_shell, dwi_for
from kwneuro_assets.derivations.tissue_responses import estimate_tissue_responses
from kwneuro_assets.figures.subject import response_figure
from kwneuro_assets.figures.summaries import response_summary
from kwneuro_assets.imaging import Dwi, GradientTable, NotApplicable, ResponseFunction, TissueResponses, Volume
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.response import parse_mrtrix_response
from kwneuro_assets.imaging.tissue_responses import parse_tissue_responses
from kwneuro_assets.settings import ResponseSettings


@derivative(
    group="fibers",
    version=3,
    figure=response_figure,
    summary=response_summary,
    kinds={"json", "numpy"},
    optional_inputs={"dwi": uses_raw_dwi, "denoised_dwi": uses_denoised_dwi},
)
def fiber_response(
    brain_mask: Volume, settings: ResponseSettings, dwi: Dwi | None = None, denoised_dwi: Dwi | None = None
) -> ResponseFunction | TissueResponses | NotApplicable:
    """Response function for spherical deconvolution: of a single fiber population, or of WM, GM and CSF.

    For single-tissue deconvolution: the signal of voxels with one fiber population, on the deconvolved shell. For
    multi-tissue deconvolution: the signals of white matter, gray matter and CSF on all shells, from voxels selected by
    FA and signal decay (as MRtrix3's `dwi2response dhollander`). `csd.wm_response`, `csd.gm_response` and
    `csd.csf_response` name files in MRtrix3's text format that are used in place of an estimate.

    | content | unit |
    |---|---|
    | zonal spherical harmonic coefficients per tissue and shell, in MRtrix3's normalization | signal of the raw DWI |

    **References**: [Tournier 2007](https://doi.org/10.1016/j.neuroimage.2007.02.016) (CSD),
    [Jeurissen 2014](https://doi.org/10.1016/j.neuroimage.2014.07.061) (multi-tissue CSD).
    """
    gradients = dwi_for("single-tissue", dwi, denoised_dwi).gradients
    if settings.wm_response is not None:
        return _from_files(gradients, settings)
    method = choose_method(gradients, settings.method, settings.shell)
    series = dwi_for(method, dwi, denoised_dwi)
    if method == "multi-tissue":
        return estimate_tissue_responses(series, brain_mask, wm_voxels=settings.min_voxels)
    return estimate_response(
        series,
        brain_mask,
        shell=settings.shell,
        lmax=settings.lmax,
        fa_threshold=settings.fa_threshold,
        min_voxels=settings.min_voxels,
    )


def _from_files(
    gradients: GradientTable, settings: ResponseSettings
) -> ResponseFunction | TissueResponses | NotApplicable:
    """Three files give the responses of three tissues on all shells, one that of a fiber on the deconvolved shell."""
    names = (settings.wm_response, settings.gm_response, settings.csf_response)
    files = [Path(name).expanduser() for name in names if name]
    shells = [shell.bvalue for shell in gradients.shells()]
    if len(files) == 1:
        chosen = choose_shell(gradients, settings.shell, settings.lmax)
        if isinstance(chosen, NotApplicable):
            return chosen
        with located(files[0]):
            return parse_mrtrix_response(files[0].read_text(), chosen.shell.bvalue, shells)
    wm, gm, csf = (file.read_text() for file in files)
    with located(", ".join(map(str, files))):
        return parse_tissue_responses([0.0, *shells], wm, gm, csf)
