"""The response of a single fibre, or of three tissues."""

from __future__ import annotations

from pathlib import Path

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.response import estimate_response
from kwneuro_assets.derivations.shells import choose_method, choose_shell, series_for
from kwneuro_assets.derivations.tissue_responses import estimate_tissue_responses
from kwneuro_assets.imaging import Dwi, GradientTable, NotApplicable, ResponseFunction, TissueResponses, Volume
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.response import parse_mrtrix_response
from kwneuro_assets.imaging.tissue_responses import parse_tissue_responses
from kwneuro_assets.quality.figures import response_figure
from kwneuro_assets.quality.summaries import response_summary
from kwneuro_assets.settings import ResponseSettings


@derivative(
    group="fibers",
    version=2,
    picture=response_figure,
    summary=response_summary,
    kinds={"json", "numpy"},
)
def fiber_response(
    brain_mask: Volume, settings: ResponseSettings, dwi: Dwi | None = None, denoised_dwi: Dwi | None = None
) -> ResponseFunction | TissueResponses | NotApplicable:
    """Signal of one fibre population, as zonal harmonics, on the shell that is deconvolved; or on all shells, with the
    signals of grey matter and free water, for multi-tissue deconvolution. Estimated, or read from files."""
    gradients = series_for("single-tissue", dwi, denoised_dwi).gradients
    if settings.response is not None:
        return _from_files(gradients, settings)
    method = choose_method(gradients, settings.method, settings.shell)
    series = series_for(method, dwi, denoised_dwi)
    if method == "multi-tissue":
        return estimate_tissue_responses(series, brain_mask, white_voxels=settings.minimum_voxels)
    return estimate_response(
        series,
        brain_mask,
        shell=settings.shell,
        max_order=settings.max_order,
        fa_threshold=settings.fa_threshold,
        minimum_voxels=settings.minimum_voxels,
    )


def _from_files(
    gradients: GradientTable, settings: ResponseSettings
) -> ResponseFunction | TissueResponses | NotApplicable:
    """Of three files those of the tissues on all shells; of one that of a fibre on the shell that is deconvolved."""
    names = (settings.response, settings.grey_response, settings.water_response)
    files = [Path(name).expanduser() for name in names if name]
    if len(files) == 1:
        chosen = choose_shell(gradients, settings.shell, settings.max_order)
        if isinstance(chosen, NotApplicable):
            return chosen
        with located(files[0]):
            return parse_mrtrix_response(files[0].read_text(), chosen.shell.bvalue)
    bvalues = [0.0, *(shell.bvalue for shell in gradients.shells())]
    white, grey, water = (file.read_text() for file in files)
    with located(", ".join(map(str, files))):
        return parse_tissue_responses(bvalues, white, grey, water)
