"""The choice of shell and order for single-tissue CSD."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.derivations.shells import CsdShell, choose_shell
from kwneuro_assets.imaging import GradientTable, InvalidData, NotApplicable


def _table(*shells: tuple[float, NDArray[np.float64]]) -> GradientTable:
    """One b=0 volume and shells of (b-value, directions)."""
    bvals = np.concatenate([[0.0], *(np.full(len(vectors), bvalue) for bvalue, vectors in shells)])
    return GradientTable(bvals, np.concatenate([np.zeros((1, 3)), *(vectors for _, vectors in shells)]))


def _chosen(table: GradientTable, wanted: object = "auto", lmax: int = 8) -> tuple[float, int]:
    chosen = choose_shell(table, wanted, lmax)  # type: ignore[arg-type]
    assert isinstance(chosen, CsdShell)
    return chosen.shell.bvalue, chosen.determined


@pytest.mark.parametrize(("directions", "order"), [(60, 8), (45, 8), (44, 6), (30, 6), (20, 4), (15, 4)])
def test_the_number_of_directions_determines_the_order(directions: int, order: int) -> None:
    assert _chosen(_table((1000, electrostatic_directions(directions)))) == (1000, order)


@pytest.mark.parametrize(
    ("directions", "lmax", "order"),
    [(64, 12, 10), (64, 10, 10), (64, 8, 8), (30, 12, 8), (15, 12, 6), (92, 12, 12)],
)
def test_the_order_of_the_fods_is_two_higher(directions: int, lmax: int, order: int) -> None:
    chosen = choose_shell(_table((1000, electrostatic_directions(directions))), "auto", lmax)
    assert isinstance(chosen, CsdShell)
    assert chosen.order == order


def test_the_order_is_at_most_lmax() -> None:
    assert _chosen(_table((1000, electrostatic_directions(60))), lmax=6) == (1000, 6)
    assert _chosen(_table((1000, electrostatic_directions(60))), lmax=2) == (1000, 2)


def test_auto_selects_the_highest_b_value_of_equal_order() -> None:
    table = _table((1000, electrostatic_directions(60)), (2000, electrostatic_directions(50)))
    assert _chosen(table) == (2000, 8)


def test_auto_prefers_a_lower_shell_with_more_directions() -> None:
    table = _table((1000, electrostatic_directions(60)), (3000, electrostatic_directions(30)))
    assert _chosen(table) == (1000, 8)
    # Both determine order 6, so the one with more contrast is chosen.
    assert _chosen(table, lmax=6) == (3000, 6)


def test_order_8_is_enough_for_auto_to_select_a_higher_shell() -> None:
    table = _table((1000, electrostatic_directions(92)), (3000, electrostatic_directions(60)))
    assert _chosen(table, lmax=12) == (3000, 8)
    assert _chosen(table, 1000.0, lmax=12) == (1000, 10)


def test_a_shell_is_found_by_a_b_value_within_its_width() -> None:
    table = _table((995, electrostatic_directions(60)), (2000, electrostatic_directions(60)))
    assert _chosen(table, 1000.0) == (995, 8)


def test_a_missing_shell_raises_an_error_that_lists_the_shells() -> None:
    table = _table((1000, electrostatic_directions(60)), (2000, electrostatic_directions(60)))
    with pytest.raises(InvalidData, match=r"b=1500 .* b=1000, 2000"):
        choose_shell(table, 1500.0, 8)


def test_repeated_and_opposite_directions_count_once() -> None:
    half = electrostatic_directions(20)
    assert _chosen(_table((1000, np.concatenate([half, half, -half])))) == (1000, 4)


def test_fewer_than_fifteen_directions_are_not_applicable() -> None:
    chosen = choose_shell(_table((1000, electrostatic_directions(6)), (2000, electrostatic_directions(12))), "auto", 8)
    assert isinstance(chosen, NotApplicable)
    assert "15 directions" in chosen.reason
    assert "6 at b=1000; 12 at b=2000" in chosen.reason


def test_directions_in_a_plane_are_not_applicable() -> None:
    angle = np.linspace(0, np.pi, 60, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(60)], axis=1)
    chosen = choose_shell(_table((1000, ring)), "auto", 8)
    assert isinstance(chosen, NotApplicable)
    assert "unevenly spread" in chosen.reason


def test_directions_in_a_cone_lower_the_order() -> None:
    # 60 directions within 60 degrees of z: enough for order 8 by number, not by their condition.
    sphere = electrostatic_directions(120)
    cone = sphere[sphere[:, 2] > 0.5]
    assert len(cone) >= 45
    chosen = choose_shell(_table((1000, cone)), "auto", 8)
    assert not (isinstance(chosen, CsdShell) and chosen.order == 8)


@pytest.mark.parametrize("wanted", ["auto", 1000.0])
def test_a_dataset_of_b0_alone_is_not_applicable(wanted: object) -> None:
    chosen = choose_shell(GradientTable(np.zeros(5), np.zeros((5, 3))), wanted, 8)  # type: ignore[arg-type]
    assert isinstance(chosen, NotApplicable)
    assert "No volume is diffusion-weighted" in chosen.reason
