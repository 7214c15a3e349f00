"""Constrained spherical deconvolution of one shell: fiber orientation distributions (FODs) and their peaks.

Tournier, Calamante and Connelly, NeuroImage 35 (2007) 1459, doi:10.1016/j.neuroimage.2007.02.016, in the formulation of
MRtrix3's `dwi2fod csd`: least squares with a penalty on each direction in which the FOD is negative, repeated until the
set of these directions no longer changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.b0_signal import with_b0_signal
from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.derivations.harmonics import convolution_factors, harmonics
from kwneuro_assets.derivations.peaks import find_peaks
from kwneuro_assets.derivations.response import require_contrast
from kwneuro_assets.derivations.shells import MAX_LMAX, choose_shell
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.imaging.mapset import scatter
from kwneuro_assets.imaging.volume import mask_of
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import in_blocks, one_blas_thread

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

CONSTRAINED_DIRECTIONS = 300
NEGATIVITY_WEIGHT = 50.0  # MRtrix3's: times the response's l=0 coefficient over the number of directions
NORM_WEIGHT = 0.0002  # MRtrix3's: times the first diagonal entry of the normal matrix
MAX_ROUNDS = 50  # MRtrix3's
STEPS = 12  # to the first set, in which about two of 300 directions are wrong; with 8 to 20 the fit takes as long
BLOCK = 1000  # voxels at a time: their amplitudes on the peak grid take 4 MB


@dataclass(frozen=True, eq=False)
class Deconvolution:
    """The matrices of one shell and one response function, which all voxels share, padded for `csd_solver`.

    A first set of negative directions is found in float32, for many voxels at once. The penalty is on the negative part
    of the amplitudes C x, min(C x, 0) = (C x - |C x|) / 2. The equations are then H x = right side + C' |C x| / 2,
    where H is the normal matrix with half of every constraint. The iteration x = H^-1 (...) always converges (the
    modulus iteration of van Bokhoven, 1981), although slowly, and soon finds most of the set. The Newton rounds of the
    formulation, in `csd_solver`, start from this set. The penalty is convex: the result does not depend on the start.
    """

    coefficients: int
    forward: Floats  # (directions, size): from FOD to signal
    unconstrained: Floats  # (size, size): forward' forward, with the norm's weight on the diagonal
    constrained: Floats  # (size, size): the same with the constraint of every direction
    rows: Floats  # (constrained directions, size): from FOD to weighted amplitudes
    columns: Floats  # (size, constrained directions): the transpose of `rows`
    start: Singles  # (directions, coefficients): from signal to the first FOD
    step: Singles  # (constrained directions, coefficients): from |amplitudes| to the change of the first FOD

    @classmethod
    def of(cls, directions: Floats, response: ResponseFunction, order: int) -> Deconvolution:
        """The matrices for the unit vectors (n, 3) of a shell; the FODs are in the frame of these vectors."""
        from kwneuro_assets.derivations.csd_solver import TOGETHER

        forward = harmonics(order, directions) * convolution_factors(response.coefficients, order)
        rows = harmonics(order, electrostatic_directions(CONSTRAINED_DIRECTIONS))
        rows *= NEGATIVITY_WEIGHT * response.coefficients[0] / CONSTRAINED_DIRECTIONS
        normal = forward.T @ forward
        normal[np.diag_indices_from(normal)] += NORM_WEIGHT * normal[0, 0]
        half = normal + rows.T @ rows / 2
        start, step = np.linalg.solve(half, forward.T).T, np.linalg.solve(half, rows.T).T / 2
        count = len(normal)
        padding = -count % TOGETHER
        forward, rows = (np.pad(matrix, ((0, 0), (0, padding))) for matrix in (forward, rows))
        unconstrained = np.eye(count + padding)
        unconstrained[:count, :count] = normal
        columns = np.ascontiguousarray(rows.T)
        constrained = unconstrained + columns @ rows
        return cls(
            count, forward, unconstrained, constrained, rows, columns, start.astype(np.float32), step.astype(np.float32)
        )

    def fod(self, signals: Floats) -> Floats:
        """The FODs (voxels, coefficients) of signals (voxels, directions), in the basis of `harmonics`."""
        from kwneuro_assets.derivations.compiled import compile_now
        from kwneuro_assets.derivations.csd_solver import deconvolve

        fods = np.empty((len(signals), self.coefficients))
        matrices = (self.unconstrained, self.constrained, self.rows, self.columns)
        arguments = (signals @ self.forward, self._probably_negative(signals), fods, *matrices, MAX_ROUNDS)
        compile_now(deconvolve, *arguments)
        deconvolve(*arguments)
        return fods

    def _probably_negative(self, signals: Floats) -> NDArray[np.bool_]:
        """(voxels, constrained directions) True where an FOD is negative; a few directions are wrong."""
        to_amplitudes = self.columns[: self.coefficients].astype(np.float32)
        first = signals.astype(np.float32) @ self.start
        amplitudes = first @ to_amplitudes
        for _ in range(STEPS):
            np.abs(amplitudes, out=amplitudes)
            np.matmul(amplitudes @ self.step + first, to_amplitudes, out=amplitudes)
        return amplitudes < 0


def fit_csd_peaks(
    dwi: Dwi,
    mask: Volume,
    response: ResponseFunction,
    *,
    lmax: int = MAX_LMAX,
    max_peaks: int,
    relative_threshold: float,
    min_separation_angle: float,
    save_fod: bool = False,
    progress: Progress = silent,
) -> MapSet | NotApplicable:
    """The peaks of the FOD in each voxel of `mask` (x, y, z), from the shell of `response`.

    `choose_shell` determines the order of the FODs from `lmax`. Above the order that the directions determine, it is
    limited to that of the response function; below, a response function of lower order is padded with zeros.
    `response` is in the units of the image: in a voxel with the same signal, the FOD integrates to one.
    `relative_threshold` and `min_separation_angle` (degrees) are those of `find_peaks`.

    Maps, float32: `peaks` (x, y, z, 3 * max_peaks), vectors in the world frame (scanner RAS+), strongest first, with
    the amplitude of the FOD as their length; `peakvalues` (x, y, z, max_peaks), these amplitudes. With `save_fod`,
    also `fod` (x, y, z, coefficients), in MRtrix3's basis and frame. All are zero outside the mask, where the mean b=0
    is not positive, and for the peaks that a voxel lacks.

    Returns NotApplicable if `choose_shell` does. Raises InvalidData if the mask is empty, not binary or on another
    grid, if the DWI has no shell at the b-value of the response function, or if the response function has as much
    signal along the fiber as across.
    """
    inside = mask_of(dwi.volume, mask)
    chosen = choose_shell(dwi.gradients, response.bvalue, lmax)
    if isinstance(chosen, NotApplicable):
        return chosen
    require_contrast(response.coefficients, response.bvalue, "response function")
    order = max(chosen.determined, min(chosen.order, response.order))
    indices = list(chosen.shell.indices)
    with one_blas_thread():
        model = Deconvolution.of(dwi.world_bvecs[indices], response, order)
    unweighted = np.flatnonzero(dwi.b0_mask).tolist()
    both = dwi.signals(inside.array > 0, unweighted + indices)  # in one pass over a streamed DWI series
    b0_signals, signals = both[:, : len(unweighted)], both[:, len(unweighted) :]
    lit = with_b0_signal(b0_signals.mean(axis=1, dtype=np.float64))
    count = len(signals)
    vectors = np.zeros((count, max_peaks, 3), np.float32)
    coefficients = np.zeros((count if save_fod else 0, model.coefficients), np.float32)

    def fit(block: slice) -> None:
        solved = model.fod(signals[block].astype(np.float64))
        solved[~lit[block]] = 0
        if save_fod:
            coefficients[block] = solved
        vectors[block] = find_peaks(
            solved,
            order,
            max_peaks=max_peaks,
            relative_threshold=relative_threshold,
            min_separation_angle=min_separation_angle,
        )

    in_blocks(fit, count, BLOCK, progress)
    lengths = np.linalg.norm(vectors, axis=2)
    maps = {"peaks": vectors.reshape(count, -1), "peakvalues": lengths, **({"fod": coefficients} if save_fod else {})}
    return MapSet({name: scatter(values, inside) for name, values in maps.items()})
