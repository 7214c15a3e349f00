"""Multi-tissue constrained spherical deconvolution: fibre orientations beside grey matter and free water.

Jeurissen et al., NeuroImage 103 (2014) 411; MRtrix3's `dwi2fod msmt_csd`. The signals of all shells are explained
by a white-matter FOD and the amounts of grey matter and free water, in least squares with no negative
amplitude: a constraint that holds exactly, in 300 directions, not a penalty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.derivations.harmonics import coefficient_count, convolution_factors, harmonics
from kwneuro_assets.derivations.peaks import find_peaks
from kwneuro_assets.derivations.response import require_contrast
from kwneuro_assets.derivations.shells import LOWEST_ORDER, MAX_ORDER, SHELLS_WANTED, reachable_order
from kwneuro_assets.derivations.tissue_responses import MEAN_TO_L0
from kwneuro_assets.imaging import (
    Dwi,
    GradientTable,
    InvalidData,
    MapSet,
    NotApplicable,
    TissueResponses,
    Volume,
)
from kwneuro_assets.imaging.gradients import SHELL_WIDTH, count_directions
from kwneuro_assets.imaging.mapset import scatter
from kwneuro_assets.imaging.volume import binary_mask, require_same_grid
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import in_blocks, one_blas_thread

Floats = NDArray[np.float64]

CONSTRAINED_DIRECTIONS = 300  # MRtrix3's number: 600 changed median angles by 0.01 degree
ISOTROPIC = 2  # tissues: grey matter and free water
BEYOND = 4  # orders above what the directions determine: the constraint makes up for them
RIDGE = 1e-6  # of the mean diagonal of the normal matrix: 1e-8 to 1e-4 gave the same angles to 0.02 degree
LEAST_WHITE = 1e-4  # share of white matter below which an FOD is the rounding of the fit
ROUNDING = 1e-8  # share of the signal below which an amount of tissue is the tolerance of the fit
BLOCK = 500  # voxels that are fitted at a time, half a second


@dataclass(frozen=True, eq=False)
class MultiTissueDeconvolution:
    """What all voxels share: the matrices of one acquisition and its responses, as `fit_constrained` takes them.

    The unknowns are the FOD's coefficients, then the amounts of grey matter and free water, 1 for a pure voxel.
    """

    order: int
    inverse: Floats  # (volumes, unknowns): signal to unconstrained solution, transposed
    amplitudes: Floats  # (unknowns, constraints): what must not be negative
    effects: Floats  # (constraints, unknowns): of each constraint's multiplier on the solution
    gram: Floats  # (constraints, constraints): of each constraint's multiplier on the amplitudes

    @classmethod
    def of(cls, gradients: GradientTable, responses: TissueResponses, order: int) -> MultiTissueDeconvolution:
        """The FOD's frame is that of the table. Raises InvalidData for a shell that the responses lack."""
        fod = coefficient_count(order)
        unit = responses.white[0, 0]  # keeps the normal matrix's entries near one
        forward = np.empty((len(gradients), fod + ISOTROPIC))
        for volumes, row in _rows_of_volumes(gradients, responses):
            basis = harmonics(order, gradients.bvecs[volumes])
            forward[volumes, :fod] = basis * convolution_factors(responses.white[row], order)
            forward[volumes, fod] = responses.grey[row] / MEAN_TO_L0
            forward[volumes, fod + 1] = responses.water[row] / MEAN_TO_L0
        forward /= unit
        constraints = np.zeros((CONSTRAINED_DIRECTIONS + ISOTROPIC, fod + ISOTROPIC))
        constraints[:CONSTRAINED_DIRECTIONS, :fod] = harmonics(order, electrostatic_directions(CONSTRAINED_DIRECTIONS))
        constraints[CONSTRAINED_DIRECTIONS:, fod:] = np.eye(ISOTROPIC)
        with one_blas_thread():
            normal = forward.T @ forward
            normal[np.diag_indices_from(normal)] += RIDGE * np.trace(normal) / len(normal)
            inverse = np.linalg.inv(normal)
            inverse = (inverse + inverse.T) / 2
            constraints /= np.sqrt(np.einsum("ij,jk,ik->i", constraints, inverse, constraints))[:, None]
            effects = constraints @ inverse
            gram = effects @ constraints.T
            return cls(
                order, forward @ inverse / unit, np.ascontiguousarray(constraints.T), effects, (gram + gram.T) / 2
            )

    def solve(self, signals: Floats) -> Floats:
        """Solutions (voxels, unknowns) for signals (voxels, volumes); none depends on another voxel."""
        from kwneuro_assets.derivations.compiled import compile_now
        from kwneuro_assets.derivations.nonnegative import fit_constrained

        solutions = np.empty((len(signals), len(self.amplitudes)))
        matrices = (self.inverse, self.amplitudes, self.effects, self.gram)
        arguments = (np.ascontiguousarray(signals), solutions, *matrices)
        compile_now(fit_constrained, *arguments)
        fit_constrained(*arguments)
        return solutions


def fit_multi_tissue(
    dwi: Dwi,
    mask: Volume,
    responses: TissueResponses,
    *,
    max_order: int = MAX_ORDER,
    peaks: int,
    relative_threshold: float,
    minimum_angle: float,
    fod: bool = False,
    progress: Progress = silent,
) -> MapSet | NotApplicable:
    """The FOD of every voxel of `mask` on all shells, its peaks, and the shares of three tissues.

    The FOD's order is that of `multi_tissue_order`; a response of lower order is padded with zeros, a higher one cut.
    Each b-value counts as its shell. `responses` are in the units of the image, which cancel: a voxel like those of
    the white response has an FOD that integrates to one. `relative_threshold` and `minimum_angle` (degrees) as in
    `find_peaks`.

    Maps, float32, zero outside the mask and where a voxel has fewer peaks: `peaks` (x, y, z, 3 * peaks), vectors in
    the world frame (scanner RAS+), strongest first, as long as the FOD is high there; `peakvalues` (x, y, z, peaks),
    these lengths; `wmfraction`, `gmfraction` and `csffraction` (x, y, z), each tissue's amount over the sum of the
    three, where pure tissue like that of its response is 1. With `fod` also the FOD, (x, y, z, coefficients) in
    MRtrix3's basis (`harmonics`). A voxel in which no amount is positive is zero in every map.

    NotApplicable where `multi_tissue_order` is. Raises InvalidData for a mask that is empty, not binary or on another
    grid, a shell that the responses lack, and a white response with as much signal along the fibre as across.
    """
    inside = binary_mask(mask)
    require_same_grid(inside, dwi.volume, "mask", "the diffusion-weighted image")
    order = multi_tissue_order(dwi.gradients, max_order)
    if isinstance(order, NotApplicable):
        return order
    require_contrast(responses.white[-1], responses.bvalues[-1], "white-matter response")
    model = MultiTissueDeconvolution.of(dwi.gradients.to_frame("world", dwi.affine), responses, order)
    signals = dwi.signals(inside.array > 0)
    count, coefficients = len(signals), coefficient_count(order)
    vectors = np.zeros((count, peaks, 3), np.float32)
    shares = np.zeros((count, 1 + ISOTROPIC), np.float32)
    fods = np.zeros((count if fod else 0, coefficients), np.float32)

    def fit(block: slice) -> None:
        measured = signals[block].astype(np.float64)
        solution = model.solve(measured)
        solution[~_explains(solution, measured, coefficients, responses)] = 0
        found, shares[block] = solution[:, :coefficients], _shares(solution, coefficients)
        found[shares[block, 0] < LEAST_WHITE] = 0
        vectors[block] = find_peaks(
            found, order, peaks=peaks, relative_threshold=relative_threshold, minimum_angle=minimum_angle
        )
        if fod:
            fods[block] = found

    in_blocks(fit, count, BLOCK, progress)
    values = {"peaks": vectors.reshape(count, -1), "peakvalues": np.linalg.norm(vectors, axis=2)}
    values |= dict(zip(("wmfraction", "gmfraction", "csffraction"), shares.T, strict=True))
    if fod:
        values["fod"] = fods
    return MapSet({name: scatter(array, inside) for name, array in values.items()})


def multi_tissue_order(gradients: GradientTable, max_order: int) -> int | NotApplicable:
    """The harmonic order of the white-matter FOD: `max_order`, or the highest even one below it that the data carry.

    The directions of all shells together determine an order when there are as many as coefficients and the
    harmonics at them have a condition number of at most 10, as for one shell in `choose_shell`. The FOD may go four
    orders further, as long as there are as many different measurements as unknowns: where an FOD must not be negative,
    its high orders follow from the low ones (super-resolution, Tournier et al., NeuroImage 35, 2007).

    On a noisy phantom of known truth every such step made angles and false peaks smaller. Median angles in degrees of
    first, second and third fibres, three shells: of 64 directions (which determine order 8) 1.6, 3.1, 5.2 at order 8,
    1.3, 2.3, 4.4 at 10, 1.0, 2.0, 3.6 at 12; of 30 (order 6) 2.5, 7.1, 21 at 6, 1.9, 4.0, 6.5 at 8, 1.6, 3.3, 5.1
    at 10; of 20 (order 4) 3.0, 8.7, 18 at 6, 2.3, 4.8, 8.4 at 8. Each step doubles the time of the fit.

    NotApplicable with fewer than two shells besides b=0, or where the directions do not determine order 4 (or
    `max_order`, if lower).
    """
    shells = gradients.shells()
    if len(shells) < SHELLS_WANTED:
        return NotApplicable(
            "Multi-tissue deconvolution tells three tissues apart by at least two shells besides b=0; "
            f"found {len(shells)}."
        )
    directions = gradients.bvecs[~gradients.b0_mask]
    determined = reachable_order(directions, max_order)
    lowest = min(LOWEST_ORDER, max_order)
    if determined < lowest:
        distinct = count_directions(directions)
        uneven = ", but unevenly spread" if distinct >= coefficient_count(lowest) else ""
        return NotApplicable(
            f"Multi-tissue deconvolution of order {lowest} needs {coefficient_count(lowest)} directions, spread over "
            f"the sphere; found {distinct}{uneven}."
        )
    measured = 1 + sum(count_directions(gradients.bvecs[list(shell.indices)]) for shell in shells)
    further = range(min(determined + BEYOND, max_order), determined, -2)
    return next((order for order in further if coefficient_count(order) + ISOTROPIC <= measured), determined)


def _explains(solution: Floats, signals: Floats, coefficients: int, responses: TissueResponses) -> NDArray[np.bool_]:
    """(voxels,) whether there is any tissue, beyond the tolerance of a fit to signals that none gives."""
    amounts = _amounts(solution, coefficients).sum(axis=1)
    explained: NDArray[np.bool_] = amounts * responses.water[0] > ROUNDING * MEAN_TO_L0 * np.abs(signals).max(axis=1)
    return explained


def _amounts(solution: Floats, coefficients: int) -> Floats:
    """(voxels, 3) of white matter, grey matter and free water; one that is negative is so by rounding, and none."""
    return np.maximum(np.column_stack([solution[:, 0] * MEAN_TO_L0, solution[:, coefficients:]]), 0)


def _shares(solution: Floats, coefficients: int) -> Floats:
    """(voxels, 3) white matter, grey matter and free water as shares of their sum; zero where that is."""
    amounts = _amounts(solution, coefficients)
    total = amounts.sum(axis=1, keepdims=True)
    return amounts / np.where(total > 0, total, 1)


def _rows_of_volumes(gradients: GradientTable, responses: TissueResponses) -> list[tuple[list[int], int]]:
    """The volumes of b=0 and of each shell, and the row of the responses that is theirs."""
    rows = [(np.flatnonzero(gradients.b0_mask).tolist(), 0)]
    for shell in gradients.shells():
        row = 1 + int(np.abs(responses.bvalues[1:] - shell.bvalue).argmin())
        if abs(responses.bvalues[row] - shell.bvalue) > SHELL_WIDTH:
            raise InvalidData(
                "tissue responses",
                expected=f"one for the shell at b={shell.bvalue:.0f} s/mm^2",
                found="shells at b=" + ", ".join(f"{bvalue:.0f}" for bvalue in responses.bvalues),
                remedy="Estimate them again from these data.",
            )
        rows.append((list(shell.indices), row))
    return rows
