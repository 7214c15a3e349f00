"""Which shell spherical deconvolution works on, and to which harmonic order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.harmonics import coefficient_count, harmonics
from kwneuro_assets.imaging import GradientTable, InvalidData, NotApplicable, Shell
from kwneuro_assets.imaging.gradients import SHELL_WIDTH, count_directions

LOWEST_ORDER = 4  # a function of order 2 is a quadratic form and has one maximum only
WORST_CONDITION = 10.0  # of the harmonics at the directions: MRtrix3's limit in lmax_for_directions


@dataclass(frozen=True)
class CsdShell:
    """The shell that is deconvolved, and the highest harmonic order its directions determine."""

    shell: Shell
    order: int


def choose_shell(gradients: GradientTable, wanted: Literal["auto"] | float, max_order: int) -> CsdShell | NotApplicable:
    """The shell for single-tissue CSD: the one at b-value `wanted` (s/mm^2), or the one that tells most of angles.

    The order of a shell is `max_order` or the highest even one below it for which it has as many non-collinear
    directions as there are coefficients (15, 28, 45 for 4, 6, 8) and for which the harmonics at these directions
    have a condition number of at most 10. "auto" takes the highest b-value, where fibres have the most contrast
    (Tournier 2013), among the shells that reach the highest order that any reaches.

    NotApplicable where no volume is diffusion-weighted, or where the shell does not reach order 4 (or `max_order`,
    if lower). Raises InvalidData where no shell lies within 100 s/mm^2 of `wanted`.
    """
    shells = gradients.shells()
    if not shells:
        return NotApplicable("No volume is diffusion-weighted, so there is no shell to deconvolve.")
    if wanted != "auto":
        shells = (_nearest(shells, float(wanted)),)
    # Angles between vectors do not depend on the frame, so the table's own serves.
    orders = {shell: reachable_order(_directions(gradients, shell), max_order) for shell in shells}
    best = max(orders.values())
    lowest = min(LOWEST_ORDER, max_order)
    if best < lowest:
        found = "; ".join(_described(gradients, shell, coefficient_count(lowest)) for shell in shells)
        return NotApplicable(
            f"Spherical deconvolution of order {lowest} needs {coefficient_count(lowest)} directions on one shell, "
            f"spread over the sphere; found {found}."
        )
    return CsdShell(max((s for s in shells if orders[s] == best), key=lambda shell: shell.bvalue), best)


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
            "shell to deconvolve (csd.shell)",
            expected=f"a shell within {SHELL_WIDTH:g} of b={wanted:g} s/mm^2",
            found="shells at b=" + ", ".join(f"{shell.bvalue:.0f}" for shell in shells),
            remedy='Name one of these, or "auto".',
        )
    return nearest


def reachable_order(directions: NDArray[np.float64], max_order: int) -> int:
    """The highest order that these directions determine, 0 for none."""
    distinct = count_directions(directions)
    for order in range(max_order, 0, -2):
        if coefficient_count(order) <= distinct and np.linalg.cond(harmonics(order, directions)) <= WORST_CONDITION:
            return order
    return 0
