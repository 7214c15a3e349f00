"""Multi-tissue constrained spherical deconvolution: a fiber orientation distribution (FOD), and GM and CSF fractions.

Jeurissen et al., NeuroImage 103 (2014) 411, doi:10.1016/j.neuroimage.2014.07.061; MRtrix3's `dwi2fod msmt_csd`. The
signals of all shells are fitted with a WM FOD and the amounts of GM and CSF, by least squares without negative
amplitudes. This constraint holds exactly, in 300 directions; it is not a penalty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.b0_signal import with_b0_signal
from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.derivations.harmonics import coefficient_count, convolution_factors, harmonics
from kwneuro_assets.derivations.peaks import find_peaks
from kwneuro_assets.derivations.response import require_contrast
from kwneuro_assets.derivations.shells import LOWEST_ORDER, MAX_LMAX, SHELLS_WANTED, reachable_order
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
from kwneuro_assets.imaging.volume import mask_of
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import in_blocks, one_blas_thread

Floats = NDArray[np.float64]

CONSTRAINED_DIRECTIONS = 300  # MRtrix3's number; with 600, median angles changed by 0.01 degree
ISOTROPIC = 2  # tissues: GM and CSF
BEYOND = 4  # orders above those that the directions determine: the constraint determines them
RIDGE = 1e-6  # of the mean diagonal of the normal matrix; 1e-8 to 1e-4 gave the same angles within 0.02 degree
MIN_WM_FRACTION = 1e-4  # WM fraction below which the FOD is rounding of the fit
ROUNDING = 1e-8  # fraction of the signal below which the amount of tissue is within the tolerance of the fit
BLOCK = 500  # voxels fitted at a time, in about a third of a second


@dataclass(frozen=True, eq=False)
class MultiTissueDeconvolution:
    """The matrices of one acquisition and its response functions, which all voxels share; input of `fit_constrained`.

    The unknowns are the coefficients of the FOD, then the amounts of GM and CSF, which are 1 in a pure voxel.
    """

    order: int
    inverse: Floats  # (volumes, unknowns): from signal to the unconstrained solution, transposed
    amplitudes: Floats  # (unknowns, constraints): from solution to the amplitudes that must not be negative
    effects: Floats  # (constraints, unknowns): the effect of each constraint's multiplier on the solution
    gram: Floats  # (constraints, constraints): the effect of each constraint's multiplier on the amplitudes

    @classmethod
    def of(cls, gradients: GradientTable, responses: TissueResponses, order: int) -> MultiTissueDeconvolution:
        """The matrices for `gradients`, whose frame is that of the FOD.

        Raises InvalidData if the response functions lack a shell.
        """
        fod = coefficient_count(order)
        unit = responses.wm[0, 0]  # scales the entries of the normal matrix to about one
        forward = np.empty((len(gradients), fod + ISOTROPIC))
        for volumes, row in _rows_of_volumes(gradients, responses):
            basis = harmonics(order, gradients.bvecs[volumes])
            forward[volumes, :fod] = basis * convolution_factors(responses.wm[row], order)
            forward[volumes, fod] = responses.gm[row] / MEAN_TO_L0
            forward[volumes, fod + 1] = responses.csf[row] / MEAN_TO_L0
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
        """The solutions (voxels, unknowns) for signals (voxels, volumes); voxels are independent."""
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
    lmax: int = MAX_LMAX,
    max_peaks: int,
    relative_threshold: float,
    min_separation_angle: float,
    save_fod: bool = False,
    progress: Progress = silent,
) -> MapSet | NotApplicable:
    """The peaks of the FOD and the tissue fractions in each voxel of `mask` (x, y, z), from all shells.

    The order of the FOD is that of `multi_tissue_order`; a WM response function of lower order is padded with zeros,
    one of higher order is cut. Each b-value is replaced by that of its shell. `responses` are in the units of the
    image: in a voxel with the same signal as the WM response function, the FOD integrates to one. `relative_threshold`
    and `min_separation_angle` (degrees) are those of `find_peaks`.

    Maps, float32: `peaks` (x, y, z, 3 * max_peaks), vectors in the world frame (scanner RAS+), strongest first, with
    the amplitude of the FOD as their length; `peakvalues` (x, y, z, max_peaks), these amplitudes; `wmfraction`,
    `gmfraction` and `csffraction` (x, y, z), the amount of each tissue divided by the sum of the three, where 1 is a
    voxel with the signal of its response function. With `save_fod`, also `fod` (x, y, z, coefficients) in MRtrix3's
    basis (`harmonics`) and frame. All are zero outside the mask, and in voxels whose mean b=0 is not positive or that
    have no positive amount of any tissue.

    Returns NotApplicable if `multi_tissue_order` does. Raises InvalidData if the mask is empty, not binary or on
    another grid, if the response functions lack a shell, or if the WM response function has as much signal along the
    fiber as across.
    """
    inside = mask_of(dwi.volume, mask)
    order = multi_tissue_order(dwi.gradients, lmax)
    if isinstance(order, NotApplicable):
        return order
    require_contrast(responses.wm[-1], responses.bvalues[-1], "WM response function")
    model = MultiTissueDeconvolution.of(dwi.gradients.to_frame("world", dwi.affine), responses, order)
    signals = dwi.signals(inside.array > 0)
    lit = with_b0_signal(signals[:, dwi.b0_mask].mean(axis=1, dtype=np.float64))
    count, coefficients = len(signals), coefficient_count(order)
    vectors = np.zeros((count, max_peaks, 3), np.float32)
    fractions = np.zeros((count, 1 + ISOTROPIC), np.float32)
    fods = np.zeros((count if save_fod else 0, coefficients), np.float32)

    def fit(block: slice) -> None:
        measured = signals[block].astype(np.float64)
        solution = model.solve(measured)
        solution[~(lit[block] & _explains(solution, measured, coefficients, responses))] = 0
        found, fractions[block] = solution[:, :coefficients], _fractions(solution, coefficients)
        found[fractions[block, 0] < MIN_WM_FRACTION] = 0
        vectors[block] = find_peaks(
            found,
            order,
            max_peaks=max_peaks,
            relative_threshold=relative_threshold,
            min_separation_angle=min_separation_angle,
        )
        if save_fod:
            fods[block] = found

    in_blocks(fit, count, BLOCK, progress)
    values = {"peaks": vectors.reshape(count, -1), "peakvalues": np.linalg.norm(vectors, axis=2)}
    values |= dict(zip(("wmfraction", "gmfraction", "csffraction"), fractions.T, strict=True))
    if save_fod:
        values["fod"] = fods
    return MapSet({name: scatter(array, inside) for name, array in values.items()})


def multi_tissue_order(gradients: GradientTable, lmax: int) -> int | NotApplicable:
    """The spherical harmonic order of the WM FOD: `lmax`, or the highest even order below it that the data support.

    The directions of all shells together determine an order if there are at least as many as coefficients, and if the
    harmonics at these directions have a condition number of at most 10, as for one shell in `choose_shell`. The FOD may
    have four orders more, as long as there are as many distinct measurements as unknowns: because an FOD must not be
    negative, its high orders follow from the low ones (super-resolution, Tournier et al., NeuroImage 35, 2007,
    doi:10.1016/j.neuroimage.2007.02.016).

    On a noisy phantom with known truth and three shells, each additional order reduced angular errors and false peaks.
    Median errors in degrees of the first, second and third fibers: with 64 directions (which determine order 8) 1.6,
    3.1, 5.2 at order 8; 1.3, 2.3, 4.4 at 10; 1.0, 2.0, 3.6 at 12. With 30 (order 6) 2.5, 7.1, 21 at 6; 1.9, 4.0, 6.5
    at 8; 1.6, 3.3, 5.1 at 10. With 20 (order 4) 3.0, 8.7, 18 at 6; 2.3, 4.8, 8.4 at 8. Each step doubles the time of
    the fit.

    Returns NotApplicable if there are fewer than two shells besides b=0, or if the directions do not determine order 4
    (or `lmax`, if lower).
    """
    shells = gradients.shells()
    if len(shells) < SHELLS_WANTED:
        return NotApplicable(f"Multi-tissue deconvolution needs at least two shells besides b=0; found {len(shells)}.")
    directions = gradients.bvecs[~gradients.b0_mask]
    determined = reachable_order(directions, lmax)
    lowest = min(LOWEST_ORDER, lmax)
    if determined < lowest:
        distinct = count_directions(directions)
        uneven = ", but unevenly spread" if distinct >= coefficient_count(lowest) else ""
        return NotApplicable(
            f"Multi-tissue deconvolution of order {lowest} needs {coefficient_count(lowest)} directions, spread over "
            f"the sphere; found {distinct}{uneven}."
        )
    measured = 1 + sum(count_directions(gradients.bvecs[list(shell.indices)]) for shell in shells)
    higher = range(min(determined + BEYOND, lmax), determined, -2)
    return next((order for order in higher if coefficient_count(order) + ISOTROPIC <= measured), determined)


def _explains(solution: Floats, signals: Floats, coefficients: int, responses: TissueResponses) -> NDArray[np.bool_]:
    """(voxels,) True where the amount of tissue exceeds the tolerance of the fit."""
    amounts = _amounts(solution, coefficients).sum(axis=1)
    explained: NDArray[np.bool_] = amounts * responses.csf[0] > ROUNDING * MEAN_TO_L0 * np.abs(signals).max(axis=1)
    return explained


def _amounts(solution: Floats, coefficients: int) -> Floats:
    """(voxels, 3) the amounts of WM, GM and CSF; negative ones, which are rounding, become zero."""
    return np.maximum(np.column_stack([solution[:, 0] * MEAN_TO_L0, solution[:, coefficients:]]), 0)


def _fractions(solution: Floats, coefficients: int) -> Floats:
    """(voxels, 3) the amounts of WM, GM and CSF divided by their sum; zero where that is zero."""
    amounts = _amounts(solution, coefficients)
    total = amounts.sum(axis=1, keepdims=True)
    return amounts / np.where(total > 0, total, 1)


def _rows_of_volumes(gradients: GradientTable, responses: TissueResponses) -> list[tuple[list[int], int]]:
    """The volumes of b=0 and of each shell, with the row of the response functions for them."""
    rows = [(np.flatnonzero(gradients.b0_mask).tolist(), 0)]
    for shell in gradients.shells():
        row = 1 + int(np.abs(responses.bvalues[1:] - shell.bvalue).argmin())
        if abs(responses.bvalues[row] - shell.bvalue) > SHELL_WIDTH:
            raise InvalidData(
                "tissue responses",
                expected=f"one for the shell at b={shell.bvalue:.0f} s/mm^2",
                found="shells at b=" + ", ".join(f"{bvalue:.0f}" for bvalue in responses.bvalues),
                remedy="Estimate the response functions from these data.",
            )
        rows.append((list(shell.indices), row))
    return rows
