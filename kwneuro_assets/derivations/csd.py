"""Constrained spherical deconvolution of one shell: fibre orientation distributions and their peaks.

Tournier, Calamante and Connelly, NeuroImage 35 (2007) 1459, in the formulation of MRtrix3's `dwi2fod csd`:
least squares with a penalty on every direction in which the FOD is negative, solved again until the set of
these directions no longer changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.derivations.harmonics import convolution_factors, harmonics, orders_of_coefficients
from kwneuro_assets.derivations.peaks import find_peaks
from kwneuro_assets.derivations.response import require_contrast
from kwneuro_assets.derivations.shells import choose_shell
from kwneuro_assets.imaging import Dwi, InvalidData, MapSet, NotApplicable, ResponseFunction, Shell, Volume
from kwneuro_assets.imaging.gradients import SHELL_WIDTH
from kwneuro_assets.imaging.mapset import scatter
from kwneuro_assets.imaging.volume import binary_mask, require_same_grid
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import in_blocks, one_blas_thread

Floats = NDArray[np.float64]

CONSTRAINED_DIRECTIONS = 300
NEGATIVITY_WEIGHT = 50.0  # MRtrix3: times the response's l=0 coefficient over the number of directions
NORM_WEIGHT = 0.0002  # MRtrix3: times the first diagonal entry of the normal matrix
START_ORDER = 4  # MRtrix3: the unconstrained solution that the iteration starts from
MOST_ROUNDS = 50  # MRtrix3
BLOCK = 1000  # voxels whose peaks are found together: their grids take 8 MB


@dataclass(frozen=True, eq=False)
class Deconvolution:
    """What all voxels share: the matrices of one shell's directions and one response, as `csd_solver` takes them."""

    order: int
    forward: Floats  # (directions, coefficients): FOD to signal
    start: Floats  # (directions, coefficients): transposed inverse of low order
    normal: Floats  # packed: forward' forward and the norm's weight
    amplitudes: Floats  # (coefficients, constrained directions): weighted
    products: Floats  # (constrained directions, packed): outer product of each of these
    every_product: Floats  # packed: their sum

    @classmethod
    def of(cls, directions: Floats, response: ResponseFunction, order: int) -> Deconvolution:
        """For a shell's unit vectors (n, 3); the FOD's frame is theirs."""
        factors = convolution_factors(response.coefficients, order)
        basis = harmonics(order, directions)
        forward = basis * factors
        normal = forward.T @ forward
        normal[np.diag_indices_from(normal)] += NORM_WEIGHT * normal[0, 0]
        low = (orders_of_coefficients(order) <= START_ORDER) & (factors != 0)
        start = np.zeros_like(forward)
        start[:, low] = np.linalg.pinv(basis).T[:, low] / factors[low]
        constraint = harmonics(order, electrostatic_directions(CONSTRAINED_DIRECTIONS))
        constraint = constraint * (NEGATIVITY_WEIGHT * response.coefficients[0] / CONSTRAINED_DIRECTIONS)
        products = _packed(constraint[:, :, None] * constraint[:, None, :])
        return cls(
            order, forward, start, _packed(normal), np.ascontiguousarray(constraint.T), products, products.sum(axis=0)
        )

    def fod(self, signals: Floats) -> Floats:
        """FODs (voxels, coefficients) of signals (voxels, directions), in the basis of `harmonics`."""
        from kwneuro_assets.derivations.compiled import compile_now
        from kwneuro_assets.derivations.csd_solver import deconvolve

        fods = np.empty((len(signals), self.forward.shape[1]))
        matrices = (self.start, self.forward, self.normal, self.amplitudes, self.products, self.every_product)
        arguments = (np.ascontiguousarray(signals), fods, *matrices, MOST_ROUNDS)
        compile_now(deconvolve, *arguments)
        deconvolve(*arguments)
        return fods


def fit_csd_peaks(
    dwi: Dwi,
    mask: Volume,
    response: ResponseFunction,
    *,
    shell: Literal["auto"] | float,
    max_order: int,
    peaks: int,
    relative_threshold: float,
    minimum_angle: float,
    fod: bool = False,
    progress: Progress = silent,
) -> MapSet | NotApplicable:
    """The FOD of every voxel of `mask` on one shell, and its peaks.

    `shell` and `max_order` as in `choose_shell`; a response of lower order than the shell's is padded with zeros, a
    higher one cut. `response` is in the units of the image, which cancel: a voxel like those it comes from
    has an FOD that integrates to one. `relative_threshold` and `minimum_angle` (degrees) as in `find_peaks`.

    Maps, float32, zero outside the mask and where a voxel has fewer peaks: `peaks` (x, y, z, 3 * peaks), vectors in
    the world frame (scanner RAS+), strongest first, as long as the FOD is high there; `peakvalues`
    (x, y, z, peaks), these lengths. With `fod`, also `fod` (x, y, z, coefficients), in MRtrix3's basis and frame.

    NotApplicable where `choose_shell` finds no shell. Raises InvalidData for a shell that does not exist, a mask that
    is empty, not binary or on another grid, and a response of another shell or with as much signal along the
    fibre as across.
    """
    inside = binary_mask(mask)
    require_same_grid(inside, dwi.volume, "mask", "the diffusion-weighted image")
    chosen = choose_shell(dwi.gradients, shell, max_order)
    if isinstance(chosen, NotApplicable):
        return chosen
    _check_response(response, chosen.shell)
    indices = list(chosen.shell.indices)
    with one_blas_thread():
        model = Deconvolution.of(dwi.world_bvecs[indices], response, chosen.order)
    signals = dwi.signals(inside.array > 0, indices)
    count = len(signals)
    vectors = np.zeros((count, peaks, 3), np.float32)
    coefficients = np.zeros((count if fod else 0, model.forward.shape[1]), np.float32)

    def fit(block: slice) -> None:
        solved = model.fod(signals[block].astype(np.float64))
        if fod:
            coefficients[block] = solved
        vectors[block] = find_peaks(
            solved,
            chosen.order,
            peaks=peaks,
            relative_threshold=relative_threshold,
            minimum_angle=minimum_angle,
        )

    in_blocks(fit, count, BLOCK, progress)
    lengths = np.linalg.norm(vectors, axis=2)
    maps = {"peaks": vectors.reshape(count, -1), "peakvalues": lengths, **({"fod": coefficients} if fod else {})}
    return MapSet({name: scatter(values, inside) for name, values in maps.items()})


def _packed(matrices: Floats) -> Floats:
    """Symmetric matrices (..., size, size) as (..., size * (size + 1) / 2): the lower triangles, column by column."""
    column, row = np.triu_indices(matrices.shape[-1])
    return np.ascontiguousarray(matrices[..., row, column])


def _check_response(response: ResponseFunction, shell: Shell) -> None:
    if abs(response.bvalue - shell.bvalue) > SHELL_WIDTH:
        raise InvalidData(
            "response function",
            expected=f"one of the shell that is deconvolved, b={shell.bvalue:.0f} s/mm^2",
            found=f"b={response.bvalue:.0f}",
            remedy="Estimate it again, or name its shell in csd.shell.",
        )
    require_contrast(response.coefficients, response.bvalue, "response function")
