"""The denoised DWI series."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.denoise import denoise
from kwneuro_assets.figures.subject import denoised_figure
from kwneuro_assets.figures.summaries import denoised_summary
from kwneuro_assets.imaging import Dwi
from kwneuro_assets.progress import Progress
from kwneuro_assets.settings import DenoisingSettings


@derivative(
    group="preprocessing",
    version=1,
    figure=denoised_figure,
    summary=denoised_summary,
    kinds={"nifti", "numpy"},
    version_relevant=("numpy",),
    bids={"SkullStripped": False},
)
def denoised_dwi(dwi: Dwi, settings: DenoisingSettings, progress: Progress) -> Dwi:
    """DWI series denoised by Patch2Self, or unchanged if denoising is off or does not suit the data.

    Each diffusion-weighted volume is replaced by its least-squares prediction from all other diffusion-weighted
    volumes, computed in closed form; b=0 volumes are unchanged. Data with fewer than `denoising.min_ratio` foreground
    voxels per diffusion-weighted volume stay unchanged, and with `denoising.method: auto` interpolated data, too: the
    noise of their voxels is not independent.

    | content | unit |
    |---|---|
    | 4-D image on the grid of the raw DWI | signal of the raw DWI |
    | b-values | s/mm^2 |
    | b-vectors in the FSL frame | 1 |

    **References**: [Fadnavis 2020](https://arxiv.org/abs/2011.01355) (Patch2Self).
    """
    return denoise(dwi, settings.method, settings.min_ratio, progress=progress)
