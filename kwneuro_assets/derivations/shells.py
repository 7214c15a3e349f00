"""The shell, the spherical harmonic order and the method of spherical deconvolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.harmonics import coefficient_count, harmonics
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, NotApplicable, Shell
from kwneuro_assets.imaging.gradients import SHELL_WIDTH, count_directions

MAX_LMAX = 10  # of FODs
ENOUGH = 8  # order that suffices: among shells that determine it, the b-value decides
BEYOND = 2  # orders above those that the directions determine: the constraint determines them
LOWEST_ORDER = 4  # a function of order 2 is a quadratic form with a single maximum
SHELLS_WANTED = 2  # besides b=0, for multi-tissue deconvolution: three b-values separate three tissues
WORST_CONDITION = 10.0  # of the harmonics at the directions: MRtrix3's limit in lmax_for_directions

Method = Literal["single-tissue", "multi-tissue"]


@dataclass(frozen=True)
class CsdShell:
    """The shell for CSD, the highest harmonic order that its directions determine, and the order of the FODs."""

    shell: Shell
    determined: int
    order: int


def choose_method(gradients: GradientTable, wanted: Literal["auto"] | Method, shell: Literal["auto"] | float) -> Method:
    """The method of spherical deconvolution.

    "auto" is multi-tissue if there are at least two shells besides b=0 and `shell` is "auto", else single-tissue.

    >>> two_shells = GradientTable([0, 1000, 2000], [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> choose_method(two_shells, "auto", "auto"), choose_method(two_shells, "auto", 2000)
    ('multi-tissue', 'single-tissue')
    """
    if wanted != "auto":
        return wanted
    return "multi-tissue" if shell == "auto" and len(gradients.shells()) >= SHELLS_WANTED else "single-tissue"


def dwi_for(method: Method, raw: Dwi | None, denoised: Dwi | None) -> Dwi:
    """The raw or the denoised DWI, whichever is better for `method`, or the only one given.

    Measured on a phantom with known truth: denoising increases the angular errors of multi-tissue deconvolution (median
    of third fibers: 6.0 degrees instead of 4.9), and reduces those of single-tissue deconvolution (3.3 instead of 3.8).
    """
    first, second = (raw, denoised) if method == "multi-tissue" else (denoised, raw)
    chosen = second if first is None else first
    assert chosen is not None
    return chosen


def choose_shell(gradients: GradientTable, wanted: Literal["auto"] | float, lmax: int) -> CsdShell | NotApplicable:
    """The shell for single-tissue CSD: the one at b-value `wanted` (s/mm^2), or for "auto" the one of best resolution.

    A shell determines the highest even order, up to `lmax`, for which it has at least as many non-collinear directions
    as there are coefficients (15, 28, 45, 66 for 4, 6, 8, 10) and the harmonics at these directions have a condition
    number of at most 10. "auto" selects, among the shells that determine the highest order (or at least order 8), the
    one with the highest b-value, where fibers have the most contrast (Tournier et al., NMR in Biomedicine 26, 2013,
    doi:10.1002/nbm.3017).

    The order of the FODs is two more, up to `lmax`: because an FOD must not be negative, its high orders follow from
    the low ones (super-resolution, Tournier et al., NeuroImage 35, 2007, doi:10.1016/j.neuroimage.2007.02.016). On a
    noisy phantom with known truth and 64 directions, denoised, median/mean errors in degrees of the first, second and
    third fibers were 0.97/1.48, 2.35/4.08 and 3.46/6.98 at order 8, and 0.84/1.24, 2.00/3.09 and 3.25/5.27 at order 10,
    with a third of the false peaks. Two more orders improved them by 0.1.

    Returns NotApplicable if no volume is diffusion-weighted, or if the shell does not determine order 4 (or `lmax`, if
    lower). Raises InvalidData if no shell is within 100 s/mm^2 of `wanted`.
    """
    shells = gradients.shells()
    if not shells:
        return NotApplicable("No volume is diffusion-weighted, so there is no shell to deconvolve.")
    if wanted != "auto":
        shells = (_nearest(shells, float(wanted)),)
    # Angles do not depend on the frame, so the b-vectors are used in the frame of the table.
    orders = {shell: reachable_order(_directions(gradients, shell), lmax) for shell in shells}
    best = min(max(orders.values()), ENOUGH)
    lowest = min(LOWEST_ORDER, lmax)
    if best < lowest:
        found = "; ".join(_described(gradients, shell, coefficient_count(lowest)) for shell in shells)
        return NotApplicable(
            f"Spherical deconvolution of order {lowest} needs {coefficient_count(lowest)} directions on one shell, "
            f"spread over the sphere; found {found}."
        )
    chosen = max((one for one in shells if orders[one] >= best), key=lambda shell: shell.bvalue)
    return CsdShell(chosen, orders[chosen], min(orders[chosen] + BEYOND, lmax))


def _directions(gradients: GradientTable, shell: Shell) -> NDArray[np.float64]:
    return gradients.bvecs[list(shell.indices)]


def _described(gradients: GradientTable, shell: Shell, needed: int) -> str:
    distinct = count_directions(_directions(gradients, shell))
    uneven = ", but unevenly spread" if distinct >= needed else ""
    return f"{distinct} at b={shell.bvalue:.0f}{uneven}"


def _nearest(shells: tuple[Shell, ...], wanted: float) -> Shell:
    nearest = min(shells, key=lambda shell: abs(shell.bvalue - wanted))
    if abs(nearest.bvalue - wanted) > SHELL_WIDTH:
        raise InvalidData(
            "shell to deconvolve",
            expected=f"a shell within {SHELL_WIDTH:g} of b={wanted:g} s/mm^2",
            found="shells at b=" + ", ".join(f"{shell.bvalue:.0f}" for shell in shells),
            remedy='Set csd.shell to one of them or to "auto", or use a response function of one of them.',
        )
    return nearest


def reachable_order(directions: NDArray[np.float64], lmax: int) -> int:
    """The highest even order, up to `lmax`, that the unit vectors (n, 3) determine; 0 for none."""
    distinct = count_directions(directions)
    for order in range(lmax, 0, -2):
        if coefficient_count(order) <= distinct and np.linalg.cond(harmonics(order, directions)) <= WORST_CONDITION:
            return order
    return 0
