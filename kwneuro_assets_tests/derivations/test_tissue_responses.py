from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.tissue_responses import estimate_tissue_responses, otsu_threshold
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, NotApplicable, TissueResponses, Volume
from kwneuro_assets.imaging.tissue_responses import format_tissue_responses, parse_tissue_responses
from kwneuro_assets_tests.derivations.tissues import (
    AFFINE,
    grey_signal,
    noisy,
    random_axes,
    three_shells,
    true_responses,
    water_signal,
    white_signal,
)

Floats = NDArray[np.float64]
GRID = (30, 16, 16)
EVERYWHERE = Volume(np.ones(GRID, np.uint8), AFFINE)


def brain(table: GradientTable, sigma: float = 0, water: float = 1.0) -> Dwi:
    """A third each of fibres, grey matter and free water (a share of it, in grey matter), mixed where they meet."""
    count = GRID[1] * GRID[2]
    fibres = white_signal(table, random_axes(10 * count)).reshape(10, count, -1)
    grey = np.broadcast_to(grey_signal(table), (10, count, len(table)))
    fluid = water * water_signal(table) + (1 - water) * grey
    signals = np.concatenate([fibres, grey, fluid])
    signals[10] = (fibres[9] + grey[0]) / 2
    signals[20] = (grey[0] + fluid[9]) / 2
    array = noisy(signals, sigma) if sigma else signals
    return Dwi(Volume(array.reshape(*GRID, -1).astype(np.float32), AFFINE), table)


def estimated(dwi: Dwi, mask: Volume = EVERYWHERE, **changed: int) -> TissueResponses:
    responses = estimate_tissue_responses(dwi, mask, **changed)
    assert isinstance(responses, TissueResponses), responses
    return responses


@pytest.mark.parametrize(("sigma", "tolerance"), [(0, 2e-3), (10, 0.04)])
def test_the_responses_of_known_tissues_are_found(sigma: float, tolerance: float) -> None:
    # Without noise: harmonics beyond order 8. With it: Rician bias of free water at b=3000, and the choice of extremes.
    found, true = estimated(brain(three_shells(), sigma)), true_responses(8)
    assert found.bvalues.tolist() == [0, 1000, 3000]
    assert np.abs(found.white - true.white).max() < tolerance * true.white[0, 0]
    assert np.abs(found.grey - true.grey).max() < tolerance * true.grey[0]
    assert np.abs(found.water - true.water).max() < tolerance * true.water[0]
    assert found.white_voxels == 300
    assert min(found.grey_voxels, found.water_voxels) >= 100


def test_the_estimate_is_the_same_to_the_bit_twice() -> None:
    first, second = (estimated(brain(three_shells(), 20)) for _ in range(2))
    for name in ("white", "grey", "water"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_voxels_without_signal_are_not_taken() -> None:
    dwi = brain(three_shells())
    array = dwi.array.copy()
    array[::3, ::2] = 0
    found, true = estimated(dwi.with_array(array)), true_responses(8)
    assert np.abs(found.water - true.water).max() < 2e-3 * true.water[0]
    assert np.abs(found.grey - true.grey).max() < 2e-3 * true.grey[0]


def test_few_voxels_are_a_warning_that_counts_them(caplog: pytest.LogCaptureFixture) -> None:
    inside = np.zeros(GRID, np.uint8)
    inside[:, 5:10, 5:10] = 1
    with caplog.at_level(logging.WARNING):
        estimated(brain(three_shells()), Volume(inside, AFFINE), white_voxels=50)
    assert "the white response comes from 50 voxels only" in caplog.text
    assert "the water response comes from" in caplog.text


@pytest.mark.parametrize("water", [0, 0.05])
def test_a_brain_without_free_water_is_not_applicable(water: float) -> None:
    found = estimate_tissue_responses(brain(three_shells(), 20, water), EVERYWHERE)
    assert isinstance(found, NotApplicable)
    assert "cannot be told apart" in found.reason


def test_isotropic_tissue_is_not_applicable() -> None:
    table = three_shells()
    quarter = int(np.prod(GRID)) // 4
    signals = np.concatenate(
        [np.tile(grey_signal(table), (3 * quarter, 1)), np.tile(water_signal(table), (quarter, 1))]
    )
    dwi = Dwi(Volume(noisy(signals, 20).reshape(*GRID, -1).astype(np.float32), AFFINE), table)
    found = estimate_tissue_responses(dwi, EVERYWHERE)
    assert isinstance(found, NotApplicable)
    assert "show no fibre" in found.reason


def test_one_shell_is_not_applicable() -> None:
    table = three_shells()
    dwi = brain(table)
    one = np.arange(51)
    single = Dwi(Volume(dwi.array[..., one], AFFINE), table.selected(one))
    found = estimate_tissue_responses(single, EVERYWHERE)
    assert isinstance(found, NotApplicable)
    assert "found 1" in found.reason


def test_a_mask_that_is_empty_or_elsewhere_is_an_error() -> None:
    dwi = brain(three_shells())
    with pytest.raises(InvalidData, match="at least one voxel inside"):
        estimate_tissue_responses(dwi, Volume(np.zeros(GRID, np.uint8), AFFINE))
    with pytest.raises(InvalidData, match="grid of mask"):
        estimate_tissue_responses(dwi, Volume(np.ones(GRID, np.uint8), np.eye(4)))


def test_otsu_parts_two_groups_between_them() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1, 0.1, 500), rng.normal(3, 0.3, 100)])
    assert 1.3 < otsu_threshold(values) < 2.4
    # By the obvious route: every way to part them.
    ordered = np.sort(values)
    within = [low.var() * low.size + high.var() * high.size for low, high in _parted(ordered)]
    assert otsu_threshold(values) == ordered[int(np.argmin(within))]


def _parted(ordered: Floats) -> list[tuple[Floats, Floats]]:
    return [(ordered[:place], ordered[place:]) for place in range(1, ordered.size)]


def test_the_text_form_reads_back_as_the_same_numbers() -> None:
    responses = true_responses()
    texts = format_tissue_responses(responses)
    assert [len(text.splitlines()) for text in texts] == [3, 3, 3]
    read = parse_tissue_responses(responses.bvalues.tolist(), *texts)
    for name in ("bvalues", "white", "grey", "water"):
        assert np.array_equal(getattr(read, name), getattr(responses, name))
    commented = parse_tissue_responses([0, 1000, 3000], "# Shells: 0,1000,3000\n" + texts[0], *texts[1:])
    assert np.array_equal(commented.white, responses.white)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("1 -1\n1 -1", "1\n1\n1", "1\n1\n1"), "3 lines"),
        (("1 -1\n1 -1\n1", "1\n1\n1", "1\n1\n1"), "same length"),
        (("1 -1\n1 -1\n1 -1", "1 2\n1 2\n1 2", "1\n1\n1"), "one number in each line"),
        (("1 -1\n1 -1\n1 -1", "1\n1\n-1", "1\n1\n1"), "positive at l = 0"),
        (("1 -1\n1 -1\n1 nan", "1\n1\n1", "1\n1\n1"), "finite"),
        (("1 -1\n1 -1\n1 x", "1\n1\n1", "1\n1\n1"), "separated by blanks"),
        (("1 -1\n1 -1\n1 -1", "1\n1", "1\n1\n1"), "3 numbers"),
    ],
)
def test_a_text_that_is_none_is_an_error(texts: tuple[str, str, str], expected: str) -> None:
    with pytest.raises(InvalidData, match=expected):
        parse_tissue_responses([0, 1000, 3000], *texts)


def test_b_values_start_at_0_and_rise() -> None:
    for bvalues in ([1000.0, 2000, 3000], [0.0, 3000, 1000], [0.0, 1000]):
        with pytest.raises(InvalidData):
            dataclasses.replace(true_responses(), bvalues=np.array(bvalues))
