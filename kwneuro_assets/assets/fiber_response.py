"""The single-fibre response."""

from __future__ import annotations

from pathlib import Path

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.response import estimate_response
from kwneuro_assets.derivations.shells import choose_shell
from kwneuro_assets.imaging import Dwi, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.response import parse_mrtrix_response
from kwneuro_assets.quality.figures import response_figure
from kwneuro_assets.quality.summaries import response_summary
from kwneuro_assets.settings import ResponseSettings


@derivative(
    group="fibers",
    version=1,
    picture=response_figure,
    summary=response_summary,
    kinds={"json", "numpy"},
)
def fiber_response(
    denoised_dwi: Dwi, brain_mask: Volume, settings: ResponseSettings
) -> ResponseFunction | NotApplicable:
    """Signal of one fibre population on the shell that is deconvolved, as zonal harmonics; or one from a file."""
    if settings.response is None:
        return estimate_response(
            denoised_dwi,
            brain_mask,
            shell=settings.shell,
            max_order=settings.max_order,
            fa_threshold=settings.fa_threshold,
            minimum_voxels=settings.minimum_voxels,
        )
    chosen = choose_shell(denoised_dwi.gradients, settings.shell, settings.max_order)
    if isinstance(chosen, NotApplicable):
        return chosen
    file = Path(settings.response).expanduser()
    with located(file):
        return parse_mrtrix_response(file.read_text(), chosen.shell.bvalue)
