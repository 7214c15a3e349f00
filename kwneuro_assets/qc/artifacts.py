"""QC metrics of artifacts of single slices, volumes and voxels, from the leave-one-out residuals of the shells.

Each quantity is compared with the other volumes of its shell by robust z: the distance from their median in units of
1.4826 times the median absolute deviation (MAD). A limit on the effect itself, in percent, is needed besides: averages
over thousands of voxels vary so little that a harmless effect of a percent may be far from the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.cells import number
from kwneuro_assets.qc.masked import MaskedSeries
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.qc.shell_fit import ShellFit, fit_shell

MIN_VOLUMES = 5  # of a shell: with fewer, median and MAD are determined by the outliers themselves
MIN_SLICE = 0.02  # of the plane in the mask: smaller slices are not judged, as their averages are noisy
MAX_Z = 8.0  # robust z of an outlier; 7.0 occurs in clean phantoms, where one bundle dominates a small slice
SUSPECT_Z = 4.0  # robust z of a volume that is left out of the fit, to see whether it is an outlier
REFITS = 3  # of a shell, without its worst volumes
MAX_EXCLUDED = 0.25  # of the volumes of a shell: if more are bad, it is not known which are good
DROPOUT = 0.95  # of the expected signal of the slice: a slice x0.9 is found, drift and anisotropy are not
COARSE_DROPOUT = 0.8  # the same where the shell has too few directions to predict its anisotropy
MIN_MAD = 1e-3  # of the expected signal: rounding of clean integer data
MIN_SPREAD = 1e-4  # of the mean signal: the lowest root mean square of a residual that is judged
EXCESS = 1.3  # times the residual of the other volumes
MIN_EXCESS_MAD = 0.01

ARTIFACT_METRICS = (
    Metric(
        "dropout_slices",
        "Slices with signal dropout",
        "Number of slices of single raw volumes whose signal is below 95 % of that expected from all other volumes of "
        "the shell (spherical harmonics, leave-one-out), with a robust z below -8 among them. Below 80 % if the shell "
        "has fewer than 8 directions. Slices are those of the third voxel axis with 2 % of the plane in the mask; "
        "without those of `outlier_volumes`.",
        "1",
        "lower",
        "artifacts",
        kind="integer",
    ),
    Metric(
        "dropout_volumes",
        "Volumes with signal dropout",
        "Number of volumes with at least one slice of `dropout_slices`.",
        "1",
        "lower",
        "artifacts",
        kind="integer",
    ),
    Metric(
        "dropout_min_ratio",
        "Lowest signal ratio of a slice",
        "Lowest signal of a slice of one volume, relative to that expected from all other volumes of the shell.",
        "1",
        "higher",
        "artifacts",
    ),
    Metric(
        "outlier_volumes",
        "Outlier volumes",
        "Number of raw volumes whose residual (median over the slices of its root mean square, leave-one-out) is "
        "above 1.3 times the median of the shell, with a robust z above 8: motion, or an artifact of all slices.",
        "1",
        "lower",
        "artifacts",
        kind="integer",
    ),
    Metric(
        "outlier_volume_max_ratio",
        "Highest residual of a volume",
        "Highest residual of a volume, as in `outlier_volumes`, relative to the median of its shell.",
        "1",
        "lower",
        "artifacts",
    ),
    Metric(
        "outlier_slices",
        "Outlier slices",
        "Number of slices of single raw volumes whose residual (root mean square) is above 1.3 times that of the slice "
        "in the other volumes of the shell, after division by the volume's own ratio, with a robust z above 8; without "
        "`dropout_slices` and `outlier_volumes`. Stripes from spikes in k-space, and motion during a slice.",
        "1",
        "lower",
        "artifacts",
        kind="integer",
    ),
    Metric(
        "spikes_ppm",
        "Spikes",
        "Signals of the raw DWI in the mask, in ppm of all, that exceed their prediction by 6 standard deviations of "
        "the noise: of that voxel without this volume, and of the slice. Without the volumes of `outlier_volumes`.",
        "ppm",
        "lower",
        "artifacts",
        "https://mriqc.readthedocs.io/en/latest/iqms/dwi.html",
    ),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ShellArtifacts:
    """What is wrong with the n volumes of one shell, in the s slices that are judged.

    `signal` (n, s) is the signal of each slice relative to that expected, `signal_z` its robust z and `limit` its lower
    limit. `residual` (n,) is the residual of each volume relative to the median of the shell, and `residual_z` its
    robust z. `odd_slices` (n, s) is True for outlier slices.
    """

    signal: NDArray[np.float64]
    signal_z: NDArray[np.float64]
    limit: float
    residual: NDArray[np.float64]
    residual_z: NDArray[np.float64]
    odd_slices: NDArray[np.bool_]

    @property
    def dropouts(self) -> NDArray[np.bool_]:
        """(n, s) where the signal of a slice has dropped."""
        return self._dropouts(MAX_Z)

    @property
    def outliers(self) -> NDArray[np.bool_]:
        """(n,) the outlier volumes."""
        return self._outliers(MAX_Z)

    @property
    def worst(self) -> NDArray[np.bool_]:
        """(n,) the suspect volumes with an artifact at least half as strong as the strongest of its kind."""
        dropout = np.where(self._dropouts(SUSPECT_Z), 1 - self.signal, 0).max(axis=1)
        residual = np.where(self._outliers(SUSPECT_Z), self.residual - 1, 0)
        return np.any([(one > 0) & (one >= one.max() / 2) for one in (dropout, residual)], axis=0)

    def _dropouts(self, z: float) -> NDArray[np.bool_]:
        return (self.signal < self.limit) & (self.signal_z < -z)

    def _outliers(self, z: float) -> NDArray[np.bool_]:
        return (self.residual > EXCESS) & (self.residual_z > z)


def find_artifacts(series: MaskedSeries, fit: ShellFit) -> tuple[ShellFit, ShellArtifacts] | None:
    """The artifacts of a shell, and the fit that they are measured with: without the worst volumes.

    A bad volume distorts the prediction of the others, which hides it. So the suspect volumes that are at
    least half as bad as the worst are left out and the rest is fitted again, up to three times, as long as a quarter of
    the volumes or less is left out.

    None if the shell has fewer than five volumes, or no slice with 2 % of the plane in the mask and a signal.
    """
    plane = series.grid[0] * series.grid[1]
    found = shell_artifacts(fit, plane)
    excluded = np.zeros(fit.indices.size, np.bool_)
    for _ in range(REFITS):
        if found is None or not (found.worst & ~excluded).any():
            break
        excluded |= found.worst
        again = fit_shell(series, fit.indices.tolist(), is_b0=fit.is_b0, excluded=excluded)
        if again is None or np.count_nonzero(excluded) > MAX_EXCLUDED * excluded.size:
            break
        fit, found = again, shell_artifacts(again, plane)
    return None if found is None else (fit, found)


def shell_artifacts(fit: ShellFit, plane: int) -> ShellArtifacts | None:
    """The artifacts of a shell by one fit; `plane` is the number of voxels of a slice of the grid.

    None if the shell has fewer than five volumes, or no slice with 2 % of the plane in the mask and a signal.
    """
    judged = (fit.counts >= max(MIN_SLICE * plane, 1)) & (np.median(fit.expected, axis=0) > 0)
    if fit.indices.size < MIN_VOLUMES or not judged.any():
        return None
    expected = fit.expected[:, judged]
    excess = fit.errors[:, judged] / np.where(expected > 0, expected, np.inf)
    excess = excess - np.median(excess, axis=0)
    # Images without noise have residuals of rounding, which differ between volumes for no reason.
    floor = MIN_SPREAD * np.median(expected, axis=0) / fit.counts[judged]
    spread = np.maximum(np.sqrt(fit.squares[:, judged] / fit.counts[judged]), floor)
    ratio = _relative(spread)
    residual = _relative(np.median(ratio, axis=1, keepdims=True))
    of_slice = _relative(ratio / np.maximum(residual, 1))
    found = ShellArtifacts(
        signal=1 + excess,
        signal_z=_robust_z(excess, MIN_MAD),
        limit=DROPOUT if fit.order or fit.is_b0 else COARSE_DROPOUT,
        residual=residual[:, 0],
        residual_z=_robust_z(residual, MIN_EXCESS_MAD)[:, 0],
        odd_slices=(of_slice > EXCESS) & (_robust_z(of_slice, MIN_EXCESS_MAD) > MAX_Z),
    )
    return replace(found, odd_slices=found.odd_slices & ~found.dropouts)


def artifact_metrics(series: MaskedSeries, fits: Iterable[ShellFit]) -> dict[str, Cell]:
    """The columns of ARTIFACT_METRICS from the fits to b=0 and to all shells."""
    row: dict[str, Cell] = dict.fromkeys(metric.name for metric in ARTIFACT_METRICS)
    results = [one for one in (find_artifacts(series, fit) for fit in fits) if one is not None]
    found = [artifacts for _, artifacts in results]
    if found:
        dropouts = [one.dropouts[~one.outliers] for one in found]
        row["dropout_slices"] = sum(int(np.count_nonzero(one)) for one in dropouts)
        row["dropout_volumes"] = sum(int(np.count_nonzero(one.any(axis=1))) for one in dropouts)
        row["dropout_min_ratio"] = number(min(float(one.signal.min()) for one in found))
        row["outlier_volumes"] = sum(int(np.count_nonzero(one.outliers)) for one in found)
        row["outlier_volume_max_ratio"] = number(max(float(one.residual.max()) for one in found))
        row["outlier_slices"] = sum(int(np.count_nonzero(one.odd_slices[~one.outliers])) for one in found)
        row["spikes_ppm"] = _spikes_ppm(results)
    return row


def _spikes_ppm(results: Iterable[tuple[ShellFit, ShellArtifacts]]) -> float | None:
    """Spikes of the volumes that are no outliers: the edges of a head that moved are not spikes."""
    spikes = total = 0
    for fit, found in results:
        if fit.freedom > 1:
            spikes += int(fit.spikes[~found.outliers].sum())
            total += int(fit.counts.sum()) * int(np.count_nonzero(~found.outliers))
    return number(spikes / total * 1e6) if total else None


def _relative(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` (n, s) divided by their median over n; zero where that is zero."""
    usual = np.median(values, axis=0)
    return values / np.where(usual > 0, usual, np.inf)


def _robust_z(values: NDArray[np.float64], min_mad: float) -> NDArray[np.float64]:
    """(n, s) the distance from the median over n, in units of the MAD plus `min_mad`."""
    distance = values - np.median(values, axis=0)
    return distance / (1.4826 * np.median(np.abs(distance), axis=0) + min_mad)
