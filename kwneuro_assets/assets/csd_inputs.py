"""Which DWI spherical deconvolution takes as an input, by `csd.series`.

With `auto` both are inputs: which of them is deconvolved depends on the method, and so on the subject's shells.
"""

from __future__ import annotations

from kwneuro_assets.settings import PipelineSettings


def uses_raw_dwi(settings: PipelineSettings) -> bool:
    """Whether the raw DWI is an input."""
    return settings.csd.series != "denoised"


def uses_denoised_dwi(settings: PipelineSettings) -> bool:
    """Whether the denoised DWI is an input."""
    return settings.csd.series != "source"
