"""QC metrics of the b-values: the apparent diffusivity that each shell implies.

A wrong b-value changes no fit to its shell, only the diffusivity. Free water at 37 degrees C diffuses with 3.0e-3
mm^2/s (Mills, Journal of Physical Chemistry 77, 1973, 685, doi:10.1021/j100624a025), which is a physical maximum. In
tissue, the apparent diffusivity decreases from shell to shell (kurtosis; Jensen et al., Magnetic Resonance in Medicine
53, 2005, 1432, doi:10.1002/mrm.20508): in white matter of phantoms (sticks and zeppelins, with and without dispersion)
by a factor of 0.83 to 0.84 per 1000 s/mm^2, between any two of b=1000, 2000, 3000 and 3500.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.qc.cells import number
from kwneuro_assets.qc.masked import MaskedSeries
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.qc.shell_fit import ShellFit

WATER_SHELLS = (500.0, 1500.0)  # s/mm^2: below, blood flow adds to diffusion; above, noise covers the signal of water
BRIGHT = 95.0  # percentile of b=0: fluid is brightest in T2-weighted images
WATER = 90.0  # percentile of the diffusivity among the brightest voxels: those without tissue
STEP = 1000.0  # s/mm^2, between shells, to which ratios refer

_PHYSICS = "https://doi.org/10.1021/j100624a025"
_KURTOSIS = "https://doi.org/10.1002/mrm.20508"


def _in(place: str, suffix: str) -> tuple[Metric, ...]:
    return (
        Metric(
            f"diffusivity_b{{shell}}{suffix}",
            f"Apparent diffusivity{place}, b={{shell}}",
            f"Median{place or ' over the mask'} of -ln(S / S0) / (b - b0), in 1e-3 mm^2/s: S and S0 are the mean raw "
            "signals of the shell and of b=0 in a voxel.",
            "1e-3 mm^2/s",
            "neither",
            "acquisition",
        ),
        Metric(
            f"diffusivity_ratio_b{{shell}}{suffix}",
            f"Apparent diffusivity{place}, b={{shell}} over the shell below",
            f"Median{place or ' over the mask'} of the apparent diffusivity of the shell, relative to that of the next "
            "lower shell, to the power 1000 / (difference of their b-values). A wrong b-value changes it.",
            "1",
            "neither",
            "acquisition",
            _KURTOSIS,
        ),
    )


DIFFUSIVITY_METRICS = (
    Metric(
        "csf_diffusivity",
        "Diffusivity of CSF",
        "Diffusivity of the fluid in the mask, from the lowest shell between b=500 and b=1500: the 90th percentile of "
        "the apparent diffusivity among the brightest 5 % at b=0. Free water at 37 degrees C has 3.0.",
        "1e-3 mm^2/s",
        "neither",
        "acquisition",
        _PHYSICS,
    ),
    *_in("", ""),
    *_in(" in white matter", "_wm"),
)


def diffusivity_metrics(
    series: MaskedSeries, fits: Mapping[int, ShellFit], white_matter: NDArray[np.bool_] | None
) -> dict[str, float | None]:
    """The columns of DIFFUSIVITY_METRICS; `fits` are those of the shells, by label, in ascending order."""
    b0 = np.flatnonzero(series.gradients.b0_mask)
    reference = series.signals[b0].mean(axis=0, dtype=np.float64)
    gaps = {label: float(fit.bvalue - series.gradients.bvals[b0].mean()) for label, fit in fits.items()}
    maps = {label: apparent_diffusivity(reference, fit.mean, gaps[label]) for label, fit in fits.items()}
    row: dict[str, float | None] = {"csf_diffusivity": _of_water(reference, maps)}
    everywhere = np.ones(reference.size, np.bool_)
    places = [("", everywhere), *([("_wm", white_matter)] if white_matter is not None else [])]
    for suffix, where in places:
        for label, values in maps.items():
            row[f"diffusivity_b{label}{suffix}"] = _median(values[where])
        for lower, upper in itertools.pairwise(maps):
            ratio = _median(maps[upper][where] / maps[lower][where])
            power = STEP / (gaps[upper] - gaps[lower])
            row[f"diffusivity_ratio_b{upper}{suffix}"] = ratio**power if ratio is not None and ratio > 0 else None
    return {name: number(value) for name, value in row.items()}


def apparent_diffusivity(
    reference: NDArray[np.float64], signal: NDArray[np.float32], gap: float
) -> NDArray[np.float64]:
    """(voxels,) -ln(S / S0) / gap in 1e-3 mm^2/s, for S0 `reference`, S `signal` and a difference of b-values `gap`.

    NaN where a signal is not positive, or where S is S0 or above, which is no diffusion.
    """
    valid = (signal > 0) & (reference > signal)
    ratio = np.where(valid, signal, 1) / np.where(valid, reference, 1)
    return np.where(valid, -np.log(ratio) / gap * 1000, np.nan)


def _of_water(reference: NDArray[np.float64], maps: Mapping[int, NDArray[np.float64]]) -> float | None:
    suitable = [values for label, values in maps.items() if WATER_SHELLS[0] <= label <= WATER_SHELLS[1]]
    if not suitable or not reference.size:
        return None
    bright = suitable[0][reference >= np.percentile(reference, BRIGHT)]
    bright = bright[np.isfinite(bright)]
    return float(np.percentile(bright, WATER)) if bright.size else None


def _median(values: NDArray[np.float64]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None
