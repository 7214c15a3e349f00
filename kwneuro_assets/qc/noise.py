"""QC metrics of noise and contrast, from the residuals of the fits to each shell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.qc.cells import number
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.qc.shell_fit import MIN_NOISE, ShellFit

EDDY_QUAD = "https://doi.org/10.1016/j.neuroimage.2018.09.073"

NOISE_METRICS = (
    Metric(
        "sigma",
        "Noise level of b=0",
        "Standard deviation of the noise: the square root of the median over the mask of the variance of the raw b=0 "
        "volumes, divided by the median of a chi-squared distribution per degree of freedom. Needs two b=0 volumes.",
        "signal",
        "lower",
        "acquisition",
    ),
    Metric(
        "sigma_b{shell}",
        "Noise level, b={shell}",
        "As `sigma`, from the residual of spherical harmonics fitted to the raw volumes of the shell. Needs seven "
        "volumes for order 2, and includes whatever is not a smooth function of the direction.",
        "signal",
        "lower",
        "acquisition",
    ),
    Metric(
        "snr_b0",
        "SNR of b=0",
        "Median over the mask of the mean raw b=0 signal, divided by `sigma`.",
        "1",
        "higher",
        "acquisition",
    ),
    Metric(
        "snr_b0_wm", "SNR of b=0 in white matter", "As `snr_b0`, in white matter.", "1", "higher", "acquisition"
    ),
    Metric(
        "cnr_b{shell}",
        "Angular CNR, b={shell}",
        "Angular contrast to noise, sqrt(V / `sigma_b{shell}`^2 - 1): V is the median over the mask of the variance of "
        "the raw signal over the directions of the shell. As in eddy QUAD, signal by direction over residual.",
        "1",
        "higher",
        "acquisition",
        EDDY_QUAD,
    ),
    Metric(
        "cnr_b{shell}_wm",
        "Angular CNR in white matter, b={shell}",
        "As `cnr_b{shell}`, in white matter.",
        "1",
        "higher",
        "acquisition",
        EDDY_QUAD,
    ),
    Metric(
        "residual_to_noise_b{shell}",
        "Residual over noise, b={shell}",
        "`sigma_b{shell}` divided by `sigma`: about 1 if noise is all that the fit to the shell leaves. Above it, "
        "b-vectors do not belong to their volumes, or the head moved; Rician noise at low signal is below it.",
        "1",
        "lower",
        "artifacts",
    ),
)  # fmt: skip


def noise_metrics(
    b0: ShellFit | None, shells: Mapping[int, ShellFit], white_matter: NDArray[np.bool_] | None
) -> dict[str, float | None]:
    """The columns of NOISE_METRICS; `shells` are by label, `white_matter` (voxels,) is of the mask."""
    sigma = noise_level(b0)
    row: dict[str, float | None] = {"sigma": sigma}
    for suffix, where in _places(white_matter):
        mean = _median(b0.mean, where) if b0 is not None else None
        row[f"snr_b0{suffix}"] = mean / sigma if mean is not None and sigma else None
    for label, fit in shells.items():
        of_shell = noise_level(fit) if fit.order else None  # at order 0, the residual is the contrast
        row[f"sigma_b{label}"] = of_shell
        for suffix, where in _places(white_matter):
            row[f"cnr_b{label}{suffix}"] = _contrast(fit, of_shell, where)
        row[f"residual_to_noise_b{label}"] = of_shell / sigma if of_shell and sigma else None
    return {name: number(value) for name, value in row.items()}


def noise_level(fit: ShellFit | None) -> float | None:
    """The standard deviation of the noise from the residuals of a fit; None without one, or without any noise."""
    if fit is None:
        return None
    level = float(np.sqrt(np.median(fit.noise) / _median_of_chi_squared(fit.freedom)))
    return level if level > MIN_NOISE * abs(np.median(fit.mean)) else None


def _contrast(fit: ShellFit, sigma: float | None, where: NDArray[np.bool_] | slice) -> float | None:
    total = _median(fit.contrast, where)
    if sigma is None or total is None:
        return None
    total /= _median_of_chi_squared(fit.indices.size - 1)
    return float(np.sqrt(max(total / sigma**2 - 1, 0)))


def _median_of_chi_squared(freedom: int) -> float:
    """The median of a chi-squared distribution, divided by its degrees of freedom."""
    from scipy.special import gammaincinv

    return float(2 * gammaincinv(freedom / 2, 0.5) / freedom)


def _places(white_matter: NDArray[np.bool_] | None) -> list[tuple[str, NDArray[np.bool_] | slice]]:
    return [("", slice(None)), *([("_wm", white_matter)] if white_matter is not None else [])]


def _median(values: NDArray[np.float32], where: NDArray[np.bool_] | slice) -> float | None:
    chosen = values[where]
    return float(np.median(chosen)) if chosen.size else None
