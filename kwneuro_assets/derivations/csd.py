"""Constrained spherical deconvolution of one shell: fibre orientation distributions and their peaks.

Tournier, Calamante and Connelly, NeuroImage 35 (2007) 1459, in the formulation of MRtrix3's `dwi2fod csd`:
least squares with a penalty on every direction in which the FOD is negative, solved again until the set of
these directions no longer changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.derivations.harmonics import convolution_factors, harmonics
from kwneuro_assets.derivations.peaks import find_peaks
from kwneuro_assets.derivations.response import require_contrast
from kwneuro_assets.derivations.shells import MAX_ORDER, choose_shell
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.imaging.mapset import scatter
from kwneuro_assets.imaging.volume import binary_mask, require_same_grid
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import in_blocks, one_blas_thread

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

CONSTRAINED_DIRECTIONS = 300
NEGATIVITY_WEIGHT = 50.0  # MRtrix3: times the response's l=0 coefficient over the number of directions
NORM_WEIGHT = 0.0002  # MRtrix3: times the first diagonal entry of the normal matrix
MOST_ROUNDS = 50  # MRtrix3
STEPS = 12  # towards the first set, after which some two of 300 directions are wrong; 8 to 20 take as long
BLOCK = 1000  # voxels whose peaks are found together: their grids take 4 MB


@dataclass(frozen=True, eq=False)
class Deconvolution:
    """What all voxels share: the matrices of one shell's directions and one response, padded as `csd_solver` has them.

    The set of negative directions is first sought in float32, for many voxels at once. With the amplitudes C x, of
    which min(C x, 0) = (C x - |C x|) / 2 is penalised, the equations read H x = right side + C' |C x| / 2, where H
    is the normal matrix with half of every constraint. Steps x = H^-1 (...) of this always converge (the modulus
    iteration of van Bokhoven, 1981), if slowly, and most of the set is soon known. Newton's rounds in `csd_solver`, the
    formulation's own, start there: as the penalty is convex, they end where they would from anywhere else.
    """

    coefficients: int
    forward: Floats  # (directions, size): FOD to signal
    unconstrained: Floats  # (size, size): forward' forward and the norm's weight
    constrained: Floats  # (size, size): and every direction's constraint
    rows: Floats  # (constrained directions, size): FOD to weighted amplitudes
    columns: Floats  # its transpose
    start: Singles  # (directions, coefficients): signal to first FOD
    step: Singles  # (constrained directions, coefficients): amplitudes' absolute values to what they add to it

    @classmethod
    def of(cls, directions: Floats, response: ResponseFunction, order: int) -> Deconvolution:
        """For a shell's unit vectors (n, 3); the FOD's frame is theirs."""
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
        """FODs (voxels, coefficients) of signals (voxels, directions), in the basis of `harmonics`."""
        from kwneuro_assets.derivations.compiled import compile_now
        from kwneuro_assets.derivations.csd_solver import deconvolve

        fods = np.empty((len(signals), self.coefficients))
        matrices = (self.unconstrained, self.constrained, self.rows, self.columns)
        arguments = (signals @ self.forward, self._probably_negative(signals), fods, *matrices, MOST_ROUNDS)
        compile_now(deconvolve, *arguments)
        deconvolve(*arguments)
        return fods

    def _probably_negative(self, signals: Floats) -> NDArray[np.bool_]:
        """(voxels, constrained directions) where the FODs are negative, but for a few directions."""
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
    max_order: int = MAX_ORDER,
    peaks: int,
    relative_threshold: float,
    minimum_angle: float,
    fod: bool = False,
    progress: Progress = silent,
) -> MapSet | NotApplicable:
    """The FOD of every voxel of `mask` on the shell of `response`, and its peaks.

    `max_order` as in `choose_shell`; the FODs' order is the one there, but beyond what the directions determine only as
    far as the response goes. Up to there a response of lower order is padded with zeros. `response` is in the units of
    the image, which cancel: a voxel like those it comes from has an FOD that integrates to one. `relative_threshold`
    and `minimum_angle` (degrees) as in `find_peaks`.

    Maps, float32, zero outside the mask and where a voxel has fewer peaks: `peaks` (x, y, z, 3 * peaks), vectors in
    the world frame (scanner RAS+), strongest first, as long as the FOD is high there; `peakvalues`
    (x, y, z, peaks), these lengths. With `fod`, also `fod` (x, y, z, coefficients), in MRtrix3's basis and frame.

    NotApplicable where `choose_shell` finds no shell. Raises InvalidData for a mask that is empty, not binary or on
    another grid, and a response of a shell that does not exist or with as much signal along the fibre as across.
    """
    inside = binary_mask(mask)
    require_same_grid(inside, dwi.volume, "mask", "the diffusion-weighted image")
    chosen = choose_shell(dwi.gradients, response.bvalue, max_order)
    if isinstance(chosen, NotApplicable):
        return chosen
    require_contrast(response.coefficients, response.bvalue, "response function")
    order = max(chosen.determined, min(chosen.order, response.order))
    indices = list(chosen.shell.indices)
    with one_blas_thread():
        model = Deconvolution.of(dwi.world_bvecs[indices], response, order)
    signals = dwi.signals(inside.array > 0, indices)
    count = len(signals)
    vectors = np.zeros((count, peaks, 3), np.float32)
    coefficients = np.zeros((count if fod else 0, model.coefficients), np.float32)

    def fit(block: slice) -> None:
        solved = model.fod(signals[block].astype(np.float64))
        if fod:
            coefficients[block] = solved
        vectors[block] = find_peaks(
            solved,
            order,
            peaks=peaks,
            relative_threshold=relative_threshold,
            minimum_angle=minimum_angle,
        )

    in_blocks(fit, count, BLOCK, progress)
    lengths = np.linalg.norm(vectors, axis=2)
    maps = {"peaks": vectors.reshape(count, -1), "peakvalues": lengths, **({"fod": coefficients} if fod else {})}
    return MapSet({name: scatter(values, inside) for name, values in maps.items()})
