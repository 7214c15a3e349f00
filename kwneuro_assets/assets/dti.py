"""The diffusion tensor."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.quality.figures import tensor_figure
from kwneuro_assets.quality.summaries import tensor_summary
from kwneuro_assets.settings import DtiSettings


@derivative(
    group="microstructure",
    version=1,
    picture=tensor_figure,
    summary=tensor_summary,
    kinds={"nifti", "numpy"},
    decisive=("numpy",),
    bids={
        "Units": {"md": "mm^2/s", "ad": "mm^2/s", "rd": "mm^2/s", "tensor": "mm^2/s", "evals": "mm^2/s"},
        "ReferenceFrame": "world (scanner RAS+)",
        "TensorElements": ["Dxx", "Dxy", "Dyy", "Dxz", "Dyz", "Dzz"],
        "EigenvectorElements": [f"v{vector}{axis}" for vector in (1, 2, 3) for axis in "xyz"],
    },
)
def dti(denoised_dwi: Dwi, brain_mask: Volume, settings: DtiSettings, progress: Progress) -> MapSet | NotApplicable:
    """Diffusion tensor by weighted least squares: FA, MD, AD, RD, tensor, eigenvalues [mm^2/s] and eigenvectors."""
    return fit_tensor(denoised_dwi, brain_mask, settings.max_bvalue, progress=progress)
