"""QC metrics of structure in residuals: noise is independent between voxels, anything else is not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kwneuro_assets.qc.cells import number
from kwneuro_assets.qc.masked import MaskedSeries
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.qc.shell_fit import ShellFit, lag_correlation
from kwneuro_assets.threads import parallel_map

RESIDUAL_METRICS = (
    Metric(
        "residual_lag_correlation",
        "Structure in the residual of the shells",
        "Correlation, over the raw volumes of a shell, of the residuals of spherical harmonics in two adjacent voxels "
        "of a slice; mean over all pairs in the mask and over the shells. 0 for independent noise. b-vectors that do "
        "not belong to their volumes, motion and interpolation raise it.",
        "1",
        "lower",
        "artifacts",
    ),
    Metric(
        "residual_lag_correlation_b{shell}",
        "Structure in the residual, b={shell}",
        "As `residual_lag_correlation`, of one shell.",
        "1",
        "lower",
        "artifacts",
    ),
    Metric(
        "denoising_lag_correlation",
        "Structure that denoising removed",
        "Correlation, over all diffusion-weighted volumes, of the difference between raw and denoised DWI in two "
        "adjacent voxels of a slice; mean over all pairs in the mask. 0 if denoising removed only independent noise.",
        "1",
        "lower",
        "artifacts",
    ),
)  # fmt: skip


def residual_metrics(fits: Mapping[int, ShellFit]) -> dict[str, float | None]:
    """The lag correlation of each shell that is fitted with harmonics of order 2 or more, and of all."""
    lags = {label: fit.lag for label, fit in fits.items() if fit.order and np.isfinite(fit.lag)}
    return {
        "residual_lag_correlation": number(float(np.mean(list(lags.values())))) if lags else None,
        **{f"residual_lag_correlation_b{label}": number(lags.get(label)) for label in fits},
    }


def denoising_metrics(raw: MaskedSeries, denoised: MaskedSeries) -> dict[str, float | None]:
    """The lag correlation of what denoising removed; None if it removed nothing."""
    weighted = np.flatnonzero(~raw.gradients.b0_mask)

    def of_slice(numbered: tuple[int, slice]) -> tuple[float, int]:
        z, part = numbered
        removed = raw.signals[weighted, part] - denoised.signals[weighted, part]
        return lag_correlation(removed, raw.signals[weighted, part].mean(axis=0), *raw.neighbors[z])

    found = list(parallel_map(of_slice, raw.slices))
    pairs = sum(count for _, count in found)
    return {"denoising_lag_correlation": number(sum(total for total, _ in found) / pairs) if pairs else None}
