"""The denoised series."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.denoise import denoise
from kwneuro_assets.imaging import Dwi
from kwneuro_assets.progress import Progress
from kwneuro_assets.quality.figures import denoised_figure
from kwneuro_assets.quality.summaries import denoised_summary
from kwneuro_assets.settings import DenoisingSettings


@derivative(
    group="preprocessing",
    version=1,
    picture=denoised_figure,
    summary=denoised_summary,
    kinds={"nifti", "numpy"},
    decisive=("numpy",),
    bids={"SkullStripped": False},
)
def denoised_dwi(dwi: Dwi, settings: DenoisingSettings, progress: Progress) -> Dwi:
    """Diffusion-weighted series after Patch2Self: each volume predicted from all others, exactly and in closed form.

    Left as it is where the settings or the data ask for it (interpolated data, too few voxels).
    """
    return denoise(dwi, settings.method, settings.minimum_ratio, progress=progress)
