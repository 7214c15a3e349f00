"""Neighboring DWI correlation (NDC): how similar each volume is to the one nearest to it in q-space.

Yeh et al., NeuroImage 202 (2019) 116131, doi:10.1016/j.neuroimage.2019.116131; the definition is that of DIPY's
`neighboring_dwi_correlation`: the distance in q-space is that of sqrt(b) times the b-vector, up to its sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import GradientTable
from kwneuro_assets.qc.acquisition import MIN_SHELL, labeled_shells
from kwneuro_assets.qc.cells import number
from kwneuro_assets.qc.masked import MaskedSeries
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.threads import parallel_map

REFERENCE = "https://doi.org/10.1016/j.neuroimage.2019.116131"
_DESCRIPTION = (
    "Mean, over the diffusion-weighted volumes{where}, of Pearson's correlation over the voxels of the mask with the "
    "volume that is nearest in q-space{among}, at the distance |sqrt(b1) g1 +- sqrt(b2) g2|. {series} DWI."
)


def _metrics(suffix: str, series: str) -> tuple[Metric, ...]:
    label = f"Neighboring DWI correlation, {series}"
    return (
        Metric(
            f"ndc{suffix}",
            label,
            _DESCRIPTION.format(where="", among="", series=series.capitalize()),
            "1",
            "higher",
            "artifacts",
            REFERENCE,
        ),
        Metric(
            f"ndc{suffix}_b{{shell}}",
            f"{label}, b={{shell}}",
            _DESCRIPTION.format(where=" of this shell", among=" within the shell", series=series.capitalize()),
            "1",
            "higher",
            "artifacts",
            REFERENCE,
        ),
    )


NEIGHBOR_METRICS = (*_metrics("", "raw"), *_metrics("_denoised", "denoised"))


def neighbor_metrics(series: MaskedSeries, suffix: str = "") -> dict[str, float | None]:
    """The neighboring DWI correlation of a series, `ndc`, and of its shells with at least six volumes, `ndc_b1000`.

    `suffix` follows `ndc`, as in `ndc_denoised_b1000`. None where there are no two volumes to correlate, or where a
    volume is constant in the mask, so that no correlation exists.
    """
    shells = {label: shell.indices for label, shell in labeled_shells(series.gradients, MIN_SHELL).items()}
    overall = nearest_in_q_space(series.gradients)
    within = {label: nearest_in_q_space(series.gradients, indices) for label, indices in shells.items()}
    correlations = _correlations(series.signals, {*overall.items()}.union(*(one.items() for one in within.values())))
    return {
        f"ndc{suffix}": _mean(correlations, overall),
        **{f"ndc{suffix}_b{label}": _mean(correlations, pairs) for label, pairs in within.items()},
    }


def nearest_in_q_space(gradients: GradientTable, among: Iterable[int] | None = None) -> dict[int, int]:
    """By the index of a diffusion-weighted volume, the index of the nearest other one; of those `among`, or of all.

    Empty if there are fewer than two.

    >>> table = GradientTable([0, 1000, 1000, 2000], [[1, 0, 0], [1, 0, 0], [0, 1, 0], [-1, 0, 0]])
    >>> nearest_in_q_space(table)
    {1: 3, 2: 1, 3: 1}
    """
    chosen = np.flatnonzero(~gradients.b0_mask) if among is None else np.array(sorted(among), np.intp)
    if chosen.size < 2:
        return {}
    q = np.sqrt(gradients.bvals[chosen])[:, None] * gradients.bvecs[chosen]
    distance = np.minimum(np.linalg.norm(q[:, None] - q[None], axis=2), np.linalg.norm(q[:, None] + q[None], axis=2))
    np.fill_diagonal(distance, np.inf)
    nearest = chosen[distance.argmin(axis=1)]
    return dict(zip(chosen.tolist(), nearest.tolist(), strict=True))


def _correlations(signals: NDArray[np.float32], pairs: set[tuple[int, int]]) -> Mapping[tuple[int, int], float]:
    """Pearson's correlation of each pair of volumes; NaN if one is constant."""

    def correlation(pair: tuple[int, int]) -> float:
        one, other = (_centered(signals[index]) for index in pair)
        norm = float(np.sqrt(np.dot(one, one)) * np.sqrt(np.dot(other, other)))
        return float(np.dot(one, other)) / norm if norm > 0 else np.nan

    ordered = sorted(pairs)
    return dict(zip(ordered, parallel_map(correlation, ordered), strict=True))


def _centered(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    if not signal.size:
        return signal
    return signal - np.float32(signal.mean(dtype=np.float64))


def _mean(correlations: Mapping[tuple[int, int], float], pairs: Mapping[int, int]) -> float | None:
    return number(float(np.mean([correlations[pair] for pair in pairs.items()]))) if pairs else None
