"""The response functions of three tissues, on known tissues, and their text format."""

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
    gray_signal,
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
    """A third each of WM, GM and CSF (a fraction `water` of it, the rest GM), mixed at their boundaries."""
    count = GRID[1] * GRID[2]
    fibers = white_signal(table, random_axes(10 * count)).reshape(10, count, -1)
    gray = np.broadcast_to(gray_signal(table), (10, count, len(table)))
    fluid = water * water_signal(table) + (1 - water) * gray
    signals = np.concatenate([fibers, gray, fluid])
    signals[10] = (fibers[9] + gray[0]) / 2
    signals[20] = (gray[0] + fluid[9]) / 2
    array = noisy(signals, sigma) if sigma else signals
    return Dwi(Volume(array.reshape(*GRID, -1).astype(np.float32), AFFINE), table)


def estimated(dwi: Dwi, mask: Volume = EVERYWHERE, **changed: int) -> TissueResponses:
    responses = estimate_tissue_responses(dwi, mask, **changed)
    assert isinstance(responses, TissueResponses), responses
    return responses


@pytest.mark.parametrize(("sigma", "tolerance"), [(0, 2e-3), (10, 0.04)])
def test_the_responses_of_known_tissues_are_found(sigma: float, tolerance: float) -> None:
    # Without noise: harmonics beyond order 8. With noise: Rician bias of CSF at b=3000, and selection of extremes.
    found, true = estimated(brain(three_shells(), sigma)), true_responses(8)
    assert found.bvalues.tolist() == [0, 1000, 3000]
    assert np.abs(found.wm - true.wm).max() < tolerance * true.wm[0, 0]
    assert np.abs(found.gm - true.gm).max() < tolerance * true.gm[0]
    assert np.abs(found.csf - true.csf).max() < tolerance * true.csf[0]
    assert found.wm_voxels == 300
    assert min(found.gm_voxels, found.csf_voxels) >= 100


def test_the_estimate_is_reproducible() -> None:
    first, second = (estimated(brain(three_shells(), 20)) for _ in range(2))
    for name in ("wm", "gm", "csf"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_voxels_without_signal_are_excluded() -> None:
    dwi = brain(three_shells())
    array = dwi.array.copy()
    array[::3, ::2] = 0
    found, true = estimated(dwi.with_array(array)), true_responses(8)
    assert np.abs(found.csf - true.csf).max() < 2e-3 * true.csf[0]
    assert np.abs(found.gm - true.gm).max() < 2e-3 * true.gm[0]


def test_a_mask_much_larger_than_the_signal_gives_the_same_responses() -> None:
    dwi = brain(three_shells(), 10)
    wide = np.zeros((44, 28, 26, dwi.array.shape[3]), np.float32)
    wide[7:37, 5:21, 6:22] = dwi.array
    everywhere = np.ones(wide.shape[:3], np.uint8)
    padded = Dwi(Volume(wide, AFFINE), dwi.gradients)
    tight = (wide.max(axis=3) > 0).astype(np.uint8)
    right, found = (estimated(padded, Volume(mask, AFFINE)) for mask in (tight, everywhere))
    for name in ("wm", "gm", "csf"):
        np.testing.assert_array_equal(getattr(found, name), getattr(right, name))


def test_few_voxels_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    inside = np.zeros(GRID, np.uint8)
    inside[:, 5:10, 5:10] = 1
    with caplog.at_level(logging.WARNING):
        estimated(brain(three_shells()), Volume(inside, AFFINE), wm_voxels=50)
    assert "the WM response function is estimated from only 50 voxels" in caplog.text
    assert "the CSF response function is estimated from" in caplog.text


@pytest.mark.parametrize("water", [0, 0.05])
def test_a_brain_without_free_water_is_not_applicable(water: float) -> None:
    found = estimate_tissue_responses(brain(three_shells(), 20, water), EVERYWHERE)
    assert isinstance(found, NotApplicable)
    assert "cannot be separated" in found.reason


def test_isotropic_tissue_is_not_applicable() -> None:
    table = three_shells()
    quarter = int(np.prod(GRID)) // 4
    signals = np.concatenate(
        [np.tile(gray_signal(table), (3 * quarter, 1)), np.tile(water_signal(table), (quarter, 1))]
    )
    dwi = Dwi(Volume(noisy(signals, 20).reshape(*GRID, -1).astype(np.float32), AFFINE), table)
    found = estimate_tissue_responses(dwi, EVERYWHERE)
    assert isinstance(found, NotApplicable)
    assert "show no fiber" in found.reason


def test_one_shell_is_not_applicable() -> None:
    table = three_shells()
    dwi = brain(table)
    one = np.arange(51)
    single = Dwi(Volume(dwi.array[..., one], AFFINE), table.selected(one))
    found = estimate_tissue_responses(single, EVERYWHERE)
    assert isinstance(found, NotApplicable)
    assert "found 1" in found.reason


def test_an_empty_mask_or_one_on_another_grid_raises_an_error() -> None:
    dwi = brain(three_shells())
    with pytest.raises(InvalidData, match="at least one voxel inside"):
        estimate_tissue_responses(dwi, Volume(np.zeros(GRID, np.uint8), AFFINE))
    with pytest.raises(InvalidData, match="grid of mask"):
        estimate_tissue_responses(dwi, Volume(np.ones(GRID, np.uint8), np.eye(4)))


def test_the_otsu_threshold_separates_two_groups() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1, 0.1, 500), rng.normal(3, 0.3, 100)])
    assert 1.3 < otsu_threshold(values) < 2.4
    # Exhaustive search.
    ordered = np.sort(values)
    within = [low.var() * low.size + high.var() * high.size for low, high in _splits(ordered)]
    assert otsu_threshold(values) == ordered[int(np.argmin(within))]


def _splits(ordered: Floats) -> list[tuple[Floats, Floats]]:
    return [(ordered[:index], ordered[index:]) for index in range(1, ordered.size)]


def test_texts_read_back_as_the_same_numbers() -> None:
    responses = true_responses()
    texts = format_tissue_responses(responses)
    assert [len(text.splitlines()) for text in texts] == [3, 3, 3]
    read = parse_tissue_responses(responses.bvalues.tolist(), *texts)
    for name in ("bvalues", "wm", "gm", "csf"):
        assert np.array_equal(getattr(read, name), getattr(responses, name))
    commented = parse_tissue_responses([0, 1000, 3000], "# Shells: 0,1000,3000\n" + texts[0], *texts[1:])
    assert np.array_equal(commented.wm, responses.wm)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("1 -1\n1 -1", "1\n1\n1", "1\n1\n1"), "3 lines"),
        (("1 -1\n1 -1\n1", "1\n1\n1", "1\n1\n1"), "same length"),
        (("1 -1\n1 -1\n1 -1", "1 2\n1 2\n1 2", "1\n1\n1"), "one number in each line"),
        (("1 -1\n1 -1\n1 -1", "1\n1\n-1", "1\n1\n1"), "positive at l = 0"),
        (("1 -1\n1 -1\n1 nan", "1\n1\n1", "1\n1\n1"), "finite"),
        (("1 -1\n1 -1\n1 x", "1\n1\n1", "1\n1\n1"), "separated by blanks"),
        (("1 -1\n1 -1\n1 -1", "1\n1", "1\n1\n1"), "GM response function: expected 3 lines, .* found 2"),
    ],
)
def test_an_invalid_text_raises_an_error(texts: tuple[str, str, str], expected: str) -> None:
    with pytest.raises(InvalidData, match=expected):
        parse_tissue_responses([0, 1000, 3000], *texts)


WM = ["900 0 0", "500 -200 30", "400 -190 40", "300 -180 50"]  # on four shells, in MRtrix3's format
GM, CSF = ["1000", "450", "200", "90"], ["2000", "100", "5", "1"]


def texts_of(rows: list[int], *headers: str) -> list[str]:
    """The texts of three tissues with the lines `rows`, each after its header."""
    return [
        header + "".join(tissue[row] + "\n" for row in rows)
        for tissue, header in zip((WM, GM, CSF), headers, strict=True)
    ]


@pytest.mark.parametrize("known", [1, 2, 3])
@pytest.mark.parametrize("bvalues", [[0.0, 1000, 3000], [0.0, 960, 2050, 2990], [0.0, 2000]])
def test_lines_are_matched_to_the_shells_in_the_comment(bvalues: list[float], known: int) -> None:
    header = "# command_history: dwi2response dhollander (version=3.0.4)\n# Shells: 5,995,2000,3005\n"
    read = parse_tissue_responses(bvalues, *texts_of([0, 1, 2, 3], *[header] * known, *[""] * (3 - known)))
    rows = [round(bvalue / 1000) for bvalue in bvalues]
    assert read.wm[:, 0].tolist() == [[900, 500, 400, 300][row] for row in rows]
    assert read.gm.tolist() == [[1000, 450, 200, 90][row] for row in rows]
    assert read.csf.tolist() == [[2000, 100, 5, 1][row] for row in rows]


@pytest.mark.parametrize(
    ("rows", "headers", "expected"),
    [
        ([0, 1, 3], ["# Shells: 0,1000,2000\n"] * 3, "b=0, 1000, 3000, within 100, found lines for b=0, 1000, 2000"),
        ([0, 1, 3], ["# Shells: 0,1000\n"] * 3, "WM response function: expected 2 lines, .* b=0, 1000, found 3"),
        ([1, 2, 3], ["# Shells: 1000,2000,3000\n"] * 3, "found lines for b=1000, 2000, 3000"),
        ([0, 1, 3], ["# Shells: 0,1000,3000\n", "# Shells: 0,1000,2000\n", ""], "same shells .* 2000 of the GM"),
        ([0, 1, 3], ["# Shells: 0,1000,3000\n", "", "# Shells: 0,3000\n"], "same shells .* 3000 of the CSF"),
        ([0, 1, 3], ["# Shells: 0,one,3000\n", "", ""], "with b-values, comma-separated, found '0,one,3000'"),
        ([0, 1], ["", "", ""], "3 lines, one for each shell, b=0, 1000, 3000, found 2"),
        ([0, 1, 2, 3], ["", "", ""], "3 lines, one for each shell, b=0, 1000, 3000, found 4"),
    ],
)
def test_lines_of_other_shells_raise_an_error_that_names_both(
    rows: list[int], headers: list[str], expected: str
) -> None:
    with pytest.raises(InvalidData, match=expected):
        parse_tissue_responses([0, 1000, 3000], *texts_of(rows, *headers))


def test_two_shells_with_the_same_line_raise_an_error() -> None:
    with pytest.raises(InvalidData, match="found lines for b=0, 1000"):
        parse_tissue_responses([0, 930, 1070], *texts_of([0, 1], *["# Shells: 0,1000\n"] * 3))


def test_b_values_start_at_0_and_ascend() -> None:
    for bvalues in ([1000.0, 2000, 3000], [0.0, 3000, 1000], [0.0, 1000]):
        with pytest.raises(InvalidData):
            dataclasses.replace(true_responses(), bvalues=np.array(bvalues))
