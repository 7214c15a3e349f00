"""QC metrics of the DWI signal, from one pass over the raw and one over the denoised series."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, InvalidData, Volume
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.imaging.volume import require_same_grid
from kwneuro_assets.qc.acquisition import ACQUISITION_METRICS, acquisition_metrics
from kwneuro_assets.qc.artifacts import ARTIFACT_METRICS, artifact_metrics
from kwneuro_assets.qc.bad_slices import BAD_SLICE_METRICS, BadSlices
from kwneuro_assets.qc.diffusivity import DIFFUSIVITY_METRICS, diffusivity_metrics
from kwneuro_assets.qc.gradients import GRADIENT_METRICS, GradientObserver, rotation_metrics
from kwneuro_assets.qc.masked import MaskedSeries, read_masked
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.qc.neighbors import NEIGHBOR_METRICS, neighbor_metrics
from kwneuro_assets.qc.noise import NOISE_METRICS, noise_metrics
from kwneuro_assets.qc.residuals import RESIDUAL_METRICS, denoising_metrics, residual_metrics
from kwneuro_assets.qc.shell_fit import fit_b0, fit_shells

SIGNAL_METRICS: tuple[Metric, ...] = (
    *ACQUISITION_METRICS,
    *GRADIENT_METRICS,
    *DIFFUSIVITY_METRICS,
    *NOISE_METRICS,
    *NEIGHBOR_METRICS,
    *ARTIFACT_METRICS,
    *BAD_SLICE_METRICS,
    *RESIDUAL_METRICS,
)


def signal_metrics(
    raw: Dwi, denoised: Dwi | None, mask: Volume | None, white_matter: NDArray[np.bool_] | None = None
) -> dict[str, Cell]:
    """The QC metrics of a DWI series, by column of SIGNAL_METRICS; None where a column has no value.

    Each series is read once, and its signals in the mask are held as float32. Without a mask, or with an empty one,
    there are only the columns of the acquisition; without a denoised DWI, none of its own. `white_matter` (x, y, z)
    adds columns for it.

    With one b=0 volume, `sigma`, `snr_b0` and `residual_to_noise_b*` are None: `sigma_b*` has the noise of each shell.
    Shells of fewer than six volumes have no columns. Below eight volumes, harmonics of order 2 leave too little
    residual: `sigma_b*`, `cnr_b*` and `residual_lag_correlation_b*` are None.

    Raises InvalidData if the mask, the white matter or the denoised DWI is on another grid than the raw DWI, or the
    denoised DWI has another number of volumes.
    """
    row = acquisition_metrics(raw)
    if mask is not None:
        require_same_grid(mask, raw.volume, "mask", "the raw DWI")
    if mask is None or not mask.array.any():
        return row
    inside = mask.array > 0
    gradients, bad_slices = GradientObserver(raw), BadSlices(raw.gradients, raw.volume.grid)
    series = read_masked(raw, inside, [gradients, bad_slices])
    row |= gradients.metrics() | rotation_metrics(series)
    row |= _raw_metrics(series, None if white_matter is None else series.at(_on_grid(white_matter, raw)))
    row["raw_num_bad_slices"] = bad_slices.count(inside)
    if denoised is not None:
        row |= _denoised_metrics(series, raw, denoised, inside)
    return row


def _raw_metrics(series: MaskedSeries, white_matter: NDArray[np.bool_] | None) -> dict[str, Cell]:
    b0, shells = fit_b0(series), fit_shells(series)
    fits = [*([b0] if b0 else []), *shells.values()]
    return {
        **diffusivity_metrics(series, shells, white_matter),
        **noise_metrics(b0, shells, white_matter),
        **neighbor_metrics(series),
        **artifact_metrics(series, fits),
        **residual_metrics(shells),
    }


def _denoised_metrics(series: MaskedSeries, raw: Dwi, denoised: Dwi, inside: NDArray[np.bool_]) -> dict[str, Cell]:
    require_same_grid(denoised.volume, raw.volume, "denoised DWI", "the raw DWI")
    if len(denoised.gradients) != len(raw.gradients):
        raise InvalidData(
            "denoised DWI", expected=f"{len(raw.gradients)} volumes as the raw DWI", found=f"{len(denoised.gradients)}"
        )
    other = read_masked(denoised, inside)
    return {**neighbor_metrics(other, "_denoised"), **denoising_metrics(series, other)}


def _on_grid(white_matter: NDArray[np.bool_], raw: Dwi) -> NDArray[np.bool_]:
    if white_matter.shape != raw.volume.grid:
        raise InvalidData("white matter", expected=f"shape {raw.volume.grid}", found=f"shape {white_matter.shape}")
    return white_matter
