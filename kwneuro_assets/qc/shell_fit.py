"""The fit of spherical harmonics to each shell, and what its residual says about volumes, slices and voxels.

The signal of one shell is a smooth, even function on the sphere. Spherical harmonics of low order describe it, whatever
the tissue is; what they do not describe is noise, or an artifact of one volume. The residual of a volume is taken from
the fit to all other volumes (leave-one-out), which follows from one fit and the leverage h of the volume: e / (1 - h)
(Cook and Weisberg, Residuals and Influence in Regression, 1982, section 2.2). A bad volume then does not hide itself.

b=0 volumes are fitted by their mean, as a shell of order 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.harmonics import coefficient_count, harmonics
from kwneuro_assets.derivations.shells import reachable_order
from kwneuro_assets.qc.acquisition import MIN_SHELL, labeled_shells
from kwneuro_assets.qc.masked import MaskedSeries
from kwneuro_assets.threads import parallel_map

MAX_ORDER = 6  # white matter at b=3000 s/mm^2 has little above it (Tournier et al. 2013, doi:10.1002/nbm.3017)
MAX_FRACTION = 0.5  # coefficients per volume: more let a bad volume distort the prediction of all others
MIN_ORDER_2 = 8  # volumes for order 2, which has 6 coefficients; fewer are fitted by their mean
SPIKE = 6.0  # standard deviations of the noise: 1e-9 of Gaussian noise is above
MIN_REMAINDER = 1e-3  # 1 - h of a volume that alone determines a coefficient: its residual is rounding
MIN_NOISE = 1e-6  # of the mean signal: smaller residuals are rounding of float32


@dataclass(frozen=True, eq=False)
class ShellFit:
    """The fit of the volumes `indices` (n,) of one shell, in the s slices that contain voxels of the mask.

    Attributes:
        bvalue: The mean b-value of the volumes, in s/mm^2.
        order: The order of the harmonics.
        freedom: The degrees of freedom of the residual of a voxel.
        is_b0: Whether these are the b=0 volumes.
        counts: (s,) the voxels of each slice.
        errors: (n, s) the sum of the leave-one-out residual over each slice.
        expected: (n, s) the sum of the leave-one-out prediction.
        squares: (n, s) the sum of the squared residual, weighted so that its mean is the variance of the noise.
        spikes: (n, s) the number of voxels whose residual is a spike.
        mean: (voxels,) the mean signal.
        noise: (voxels,) the variance of the residual, an unbiased estimate of that of the noise.
        contrast: (voxels,) the variance of the signal over the volumes, noise included.
        lag: the correlation of the residuals of adjacent voxels of a slice, mean over all pairs; NaN without pairs.
    """

    indices: NDArray[np.intp]
    bvalue: float
    order: int
    freedom: int
    is_b0: bool
    counts: NDArray[np.int64]
    errors: NDArray[np.float64]
    expected: NDArray[np.float64]
    squares: NDArray[np.float64]
    spikes: NDArray[np.int64]
    mean: NDArray[np.float32]
    noise: NDArray[np.float32]
    contrast: NDArray[np.float32]
    lag: float


def fit_b0(series: MaskedSeries) -> ShellFit | None:
    """The fit of the b=0 volumes by their mean; None if there is only one, or no voxel."""
    return fit_shell(series, np.flatnonzero(series.gradients.b0_mask).tolist(), is_b0=True)


def fit_shells(series: MaskedSeries) -> dict[int, ShellFit]:
    """The fits of the shells with at least six volumes, by label, in ascending order of the b-value."""
    shells = labeled_shells(series.gradients, MIN_SHELL)
    fits = {label: fit_shell(series, shell.indices) for label, shell in shells.items()}
    return {label: fit for label, fit in fits.items() if fit is not None}


def fit_shell(
    series: MaskedSeries, indices: Sequence[int], *, is_b0: bool = False, excluded: NDArray[np.bool_] | None = None
) -> ShellFit | None:
    """The fit to the volumes `indices` of one shell; None if there are too few to measure a residual, or no voxels.

    The order is that of `shell_order`, and 0 for b=0 volumes, of which two are enough. The volumes that are `excluded`
    (n,) are predicted by the fit, and do not contribute to it.
    """
    chosen = np.asarray(indices, np.intp)
    used = np.ones(chosen.size, np.bool_) if excluded is None else ~excluded
    # The order of all volumes, if those used determine it: a fit without a few volumes is to be as good.
    order = 0 if is_b0 else shell_order(series.gradients.bvecs[chosen])
    order = reachable_order(series.gradients.bvecs[chosen[used]], order)
    freedom = int(np.count_nonzero(used)) - coefficient_count(order)
    if freedom < 1 or not series.positions.size:
        return None
    basis = harmonics(order, series.gradients.bvecs[chosen]) if order else np.ones((chosen.size, 1))
    kernel = _Kernel.of(basis, used)
    found = list(parallel_map(lambda one: kernel.slice_fit(series, chosen, *one), series.slices))
    pairs = sum(one.pairs for one in found)
    return ShellFit(
        indices=chosen,
        bvalue=float(series.gradients.bvals[chosen].mean()),
        order=order,
        freedom=freedom,
        is_b0=is_b0,
        counts=np.array([part.stop - part.start for _, part in series.slices], np.int64),
        errors=np.stack([one.errors for one in found], axis=1),
        expected=np.stack([one.expected for one in found], axis=1),
        squares=np.stack([one.squares for one in found], axis=1),
        spikes=np.stack([one.spikes for one in found], axis=1),
        mean=np.concatenate([one.mean for one in found]),
        noise=np.concatenate([one.noise for one in found]),
        contrast=np.concatenate([one.contrast for one in found]),
        lag=sum(one.lag for one in found) / pairs if pairs else np.nan,
    )


def shell_order(directions: NDArray[np.float64]) -> int:
    """The order of the fit to unit vectors (n, 3): the highest of 6, 4 and 2 that they determine with twice as many
    volumes as coefficients, or with 8 volumes for order 2; else 0.

    >>> from kwneuro_assets.derivations.directions import fibonacci_directions
    >>> [shell_order(fibonacci_directions(count)) for count in (6, 8, 30, 64)]
    [0, 2, 4, 6]
    """
    affordable = 2 if len(directions) >= MIN_ORDER_2 else 0
    for order in range(4, MAX_ORDER + 1, 2):
        if coefficient_count(order) <= MAX_FRACTION * len(directions):
            affordable = order
    return reachable_order(directions, affordable)


@dataclass(frozen=True, eq=False)
class _SliceFit:
    """What `ShellFit` has, for one slice; `lag` is a sum over `pairs` pairs of voxels."""

    errors: NDArray[np.float64]
    expected: NDArray[np.float64]
    squares: NDArray[np.float64]
    spikes: NDArray[np.int64]
    mean: NDArray[np.float32]
    noise: NDArray[np.float32]
    contrast: NDArray[np.float32]
    lag: float
    pairs: int


@dataclass(frozen=True, eq=False)
class _Kernel:
    """The projection (n, n) onto the residual and, by volume, factors of it (n, 1), and whether the fit uses it (n,).

    `gain` times the residual is its leave-one-out value: 1 / (1 - h), or 1 for a volume that is not used. `weight`
    times the squared residual is of the variance of the noise: 1 / (1 - h), or 1 / (1 + h) for one not used, because
    the prediction is noisy, too.
    """

    projection: NDArray[np.float32]
    gain: NDArray[np.float32]
    weight: NDArray[np.float32]
    used: NDArray[np.bool_]
    freedom: int

    @classmethod
    def of(cls, basis: NDArray[np.float64], used: NDArray[np.bool_]) -> _Kernel:
        inverse = np.linalg.pinv(basis[used])
        projection = np.eye(len(basis))
        projection[:, used] -= basis @ inverse
        leverage = ((basis @ inverse) ** 2).sum(axis=1)  # of a prediction; of a used volume, also the diagonal
        gain = np.where(used, 1 / np.maximum(1 - leverage, MIN_REMAINDER), 1)
        weight = np.where(used, gain, 1 / (1 + leverage))
        freedom = int(np.count_nonzero(used)) - basis.shape[1]
        factors = (gain[:, None].astype(np.float32), weight[:, None].astype(np.float32))
        return cls(projection.astype(np.float32), *factors, used, freedom)

    def slice_fit(self, series: MaskedSeries, chosen: NDArray[np.intp], z: int, part: slice) -> _SliceFit:
        signal = series.signals[chosen, part]
        residual = self.projection @ signal
        error = residual * self.gain
        square = residual * residual * self.weight
        mean = signal[self.used].mean(axis=0, dtype=np.float64).astype(np.float32)
        inside = residual[self.used]
        total = np.einsum("nv,nv->v", inside, inside)
        lag, pairs = lag_correlation(inside, mean, *series.neighbors[z])
        return _SliceFit(
            errors=error.sum(axis=1, dtype=np.float64),
            expected=(signal - error).sum(axis=1, dtype=np.float64),
            squares=square.sum(axis=1, dtype=np.float64),
            spikes=self._spikes(residual > 0, square, total, mean),
            mean=mean,
            noise=total / np.float32(self.freedom),
            contrast=signal[self.used].var(axis=0, ddof=1),
            lag=lag,
            pairs=pairs,
        )

    def _spikes(
        self,
        is_positive: NDArray[np.bool_],
        square: NDArray[np.float32],
        total: NDArray[np.float32],
        mean: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """(n,) voxels with a positive residual above 6 sigma, both of the voxel (without this volume) and of the slice.

        The noise of the voxel spares voxels with pulsation; that of the slice spares voxels with small noise by chance.
        """
        if self.freedom < 2:
            return np.zeros(len(square), np.int64)
        own = square * self.used[:, None]
        of_others = np.maximum(total - own, 0) / (self.freedom - self.used[:, None]).astype(np.float32)
        of_slice = np.median(total) / np.float32(self.freedom)
        limit = np.maximum(of_others, np.maximum(of_slice, (MIN_NOISE * mean) ** 2))
        return np.count_nonzero(is_positive & (square > np.float32(SPIKE**2) * limit), axis=1)


def lag_correlation(
    residual: NDArray[np.float32], mean: NDArray[np.float32], first: NDArray[np.intp], second: NDArray[np.intp]
) -> tuple[float, int]:
    """The correlation of the residuals (n, voxels) of pairs of voxels over the n volumes: the sum over pairs, and their
    number.

    Residuals are not centered: they have mean zero, or should. A pair is left out if one of its voxels has no residual
    beyond the rounding of its signal, `mean` (voxels,).
    """
    total = np.einsum("nv,nv->v", residual, residual)
    varying = total > len(residual) * (MIN_NOISE * mean) ** 2
    use = varying[first] & varying[second]
    first, second = first[use], second[use]
    unit = residual / np.sqrt(np.where(varying, total, 1))
    return float(np.einsum("nv,nv->", unit[:, first], unit[:, second], dtype=np.float64)), first.size
