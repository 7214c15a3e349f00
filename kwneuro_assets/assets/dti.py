"""The diffusion tensor."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.figures.subject import tensor_figure
from kwneuro_assets.figures.summaries import tensor_summary
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.settings import DtiSettings
from kwneuro_assets.storage.bids_fields import ENCODING, MAPS, SCALARS, TENSOR, UNIT_VECTORS


@derivative(
    group="microstructure",
    version=3,
    figure=tensor_figure,
    summary=tensor_summary,
    kinds={"nifti", "numpy"},
    version_relevant=("numpy",),
    bids={
        "Model": {"Description": "Diffusion tensor", "Parameters": {"FitMethod": "wls"}},
        "Units": {"md": "mm^2/s", "ad": "mm^2/s", "rd": "mm^2/s"},
        "ReferenceFrame": "world (scanner RAS+)",
        MAPS: {
            "tensor": {"Description": "Diffusion tensor", ENCODING: TENSOR, "Units": "mm^2/s"},
            "evals": {"Description": "Eigenvalues, descending", ENCODING: SCALARS, "Units": "mm^2/s"},
            "evecs": {"Description": "Eigenvectors, in the order of the eigenvalues", ENCODING: UNIT_VECTORS},
        },
        "TensorElements": ["Dxx", "Dxy", "Dxz", "Dyy", "Dyz", "Dzz"],
        "EigenvectorElements": [f"v{vector}{axis}" for vector in (1, 2, 3) for axis in "xyz"],
    },
    reference_grid="denoised_dwi",
)
def dti(denoised_dwi: Dwi, brain_mask: Volume, settings: DtiSettings, progress: Progress) -> MapSet | NotApplicable:
    """Diffusion tensor by weighted linear least squares: FA, MD, AD, RD, tensor, eigenvalues and eigenvectors.

    The logarithm of the signal is fitted twice: by ordinary least squares, then weighted with the squared signal that
    the first fit predicts. Volumes up to `dti.max_bvalue` are used, and those of the next shell if these have fewer
    than six non-collinear directions.

    | map | content | unit |
    |---|---|---|
    | `fa` | fractional anisotropy | 1 |
    | `md`, `ad`, `rd` | mean, axial and radial diffusivity | mm^2/s |
    | `tensor` | Dxx, Dxy, Dxz, Dyy, Dyz, Dzz, world frame (RAS+) | mm^2/s |
    | `evals` | three eigenvalues, descending | mm^2/s |
    | `evecs` | three unit eigenvectors (x, y, z each), in the order of `evals`, world frame (RAS+) | 1 |

    **References**: [Basser 1994](https://doi.org/10.1016/S0006-3495%2894%2980775-1) (DTI),
    [Veraart 2013](https://doi.org/10.1016/j.neuroimage.2013.05.028) (weighted least squares).
    """
    return fit_tensor(denoised_dwi, brain_mask, settings.max_bvalue, progress=progress)
