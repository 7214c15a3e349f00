"""QC metrics of the diffusion tensor."""

from __future__ import annotations

import numpy as np

from kwneuro_assets.derivations.tensor import not_positive
from kwneuro_assets.imaging import MapSet, NotApplicable, Volume
from kwneuro_assets.qc.inputs import maps_on, volume_on
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.qc.summary import PPM, Row, fraction, median
from kwneuro_assets.qc.white_matter import WhiteMatter

# Stored eigenvalues are positive, those below 1e-6 / b raised to it, so FA does not exceed 1: it is 1 - 1e-6 where the
# second and third eigenvalues were raised. In tissue it is below 0.95.
DEGENERATE_FA = 0.999

TENSOR_METRICS = (
    Metric(
        name="tensor_not_positive_ppm",
        label="Tensors that are not positive definite",
        description="Voxels of the brain mask whose fitted tensor has an eigenvalue that is not positive, per million "
        "voxels with a tensor. Such a tensor is impossible: noise, motion or wrong gradients exceed the diffusion "
        "contrast.",
        unit="ppm",
        better="lower",
        check="model",
    ),
    Metric(
        name="fa_degenerate",
        label="Degenerate FA",
        description="Voxels of the brain mask with an FA of 0.999 or more, per million voxels with a tensor. MRIQC "
        "counts FA outside 0 to 1; here negative eigenvalues are raised before FA is computed, which gives an FA of 1 "
        "where two of them were not positive.",
        unit="ppm",
        better="lower",
        check="model",
        reference="https://mriqc.readthedocs.io/en/latest/iqms/dwi.html",
    ),
    Metric(
        name="wm_fa_median",
        label="FA in white matter",
        description="Median fractional anisotropy in white matter.",
        unit="1",
        better="neither",
        check="model",
        reference="https://doi.org/10.1016/S0006-3495%2894%2980775-1",
    ),
    Metric(
        name="wm_md_median",
        label="MD in white matter",
        description="Median mean diffusivity in white matter. It scales with the inverse of the b-values.",
        unit="mm^2/s",
        better="neither",
        check="model",
        reference="https://doi.org/10.1016/S0006-3495%2894%2980775-1",
    ),
)


def tensor_metrics(
    dti: MapSet | NotApplicable | None, brain_mask: Volume | NotApplicable | None, white: WhiteMatter | None
) -> Row:
    """The columns of `TENSOR_METRICS` from the maps `fa`, `md` (x, y, z) and `evals` (x, y, z, 3) in mm^2/s.

    Counts are over the voxels of the brain mask that have a tensor; without a mask, over all voxels that have one.
    Values are None where the maps are missing or no voxel qualifies.
    """
    brain = volume_on(None, brain_mask)
    maps = maps_on(brain, dti)
    if maps is None:
        return dict.fromkeys((metric.name for metric in TENSOR_METRICS), None)
    fa, md = maps["fa"].array, maps["md"].array
    fitted = md > 0 if brain is None else (md > 0) & (brain.array > 0)
    voxels = np.count_nonzero(fitted)
    inside = volume_on(maps["fa"], white.mask if white else None)
    in_white = np.zeros_like(fitted) if inside is None else (inside.array > 0) & fitted
    return {
        "tensor_not_positive_ppm": fraction(np.count_nonzero(not_positive(maps["evals"].array)[fitted]), voxels, PPM),
        "fa_degenerate": fraction(np.count_nonzero(fa[fitted] >= DEGENERATE_FA), voxels, PPM),
        "wm_fa_median": median(fa[in_white]),
        "wm_md_median": median(md[in_white]),
    }
