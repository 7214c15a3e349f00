"""Scores against the ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.demo.measures import angles_to_nearest, dice
from kwneuro_assets.demo.truth import Score, score
from kwneuro_assets.imaging import InvalidData, MapSet, NotApplicable, Volume
from kwneuro_assets_tests.demo.conftest import read_dwi, read_truth


@pytest.fixture(scope="module")
def perfect(coarse_phantom: Path) -> dict[str, object]:
    """Derivatives that equal the ground truth."""
    peaks = read_truth(coarse_phantom, "peaks_world")
    first = Volume(peaks.array[..., :3], peaks.affine)
    dwi = read_dwi(coarse_phantom)
    ndi, fwf = read_truth(coarse_phantom, "ndi"), read_truth(coarse_phantom, "fwf")
    return {
        "brain_mask": read_truth(coarse_phantom, "mask"),
        "denoised_dwi": dwi.with_array(read_truth(coarse_phantom, "noise_free_dwi").array),
        "dti": MapSet({"fa": fwf, "evecs": peaks}),
        "noddi": MapSet({"ndi": ndi, "fwf": fwf, "direction": first}),
        "csd_peaks": MapSet({"peaks": peaks}),
        **{f"tract_{what}": with_absent_bundle(read_truth(coarse_phantom, f"tract_{what}"), what)
           for what in ("masks", "endings", "orientations")},
    }  # fmt: skip


def with_absent_bundle(stack: Volume, what: str, voxels: int = 0) -> Volume:
    """The stack with a bundle, in front, that the head does not have, and that has this many voxels."""
    names = {"masks": ("UF_left",), "endings": ("UF_left_b", "UF_left_e")}.get(
        what, ("UF_left_x", "UF_left_y", "UF_left_z")
    )
    more = np.zeros((*stack.grid, len(names)), stack.array.dtype)
    more[..., 0].flat[:voxels] = 1
    return Volume(np.concatenate([more, stack.array], axis=3), stack.affine, names + stack.names)


def replaced(stack: Volume, name: str, values: NDArray[np.generic]) -> Volume:
    """The stack with other values of one of its volumes."""
    array = stack.array.copy()
    array[..., stack.names.index(name)] = values
    return Volume(array, stack.affine, stack.names)


def results(rows: list[Score]) -> dict[str, str]:
    return {f"{row.asset}: {row.measure}": row.result for row in rows}


def number(text: str) -> float:
    return float(text.split()[0])


def test_the_ground_truth_has_perfect_scores(perfect: dict[str, object], coarse_phantom: Path) -> None:
    rows = score(perfect, coarse_phantom / "truth/sub-01")
    assert [row.asset for row in rows] == [
        "brain_mask", "denoised_dwi", "dti", *["noddi"] * 5, *["csd_peaks"] * 2,
        *["tract_masks"] * 2, *["tract_endings"] * 2, "tract_orientations",
    ]  # fmt: skip
    main = [row.asset for row in rows if row.short]
    assert main == list(dict.fromkeys(row.asset for row in rows)), "each derivative has one main measure"
    for row in rows:
        best = 1.0 if "Dice" in row.measure or "correlation" in row.measure else 0.0
        assert number(row.result) == pytest.approx(best, abs=0.05), row
        assert row.value == pytest.approx(number(row.result), abs=0.051)


def test_the_score_of_the_raw_image_is_the_added_noise(perfect: dict[str, object], coarse_phantom: Path) -> None:
    (row,) = score({"denoised_dwi": read_dwi(coarse_phantom)}, coarse_phantom / "truth/sub-01")
    after, before = number(row.result), number(row.result.split("(")[1])
    assert after == pytest.approx(before, abs=0.11)
    assert before > 15


def test_peaks_mirrored_in_x_have_large_angles(perfect: dict[str, object], coarse_phantom: Path) -> None:
    peaks = read_truth(coarse_phantom, "peaks_world")
    mirrored = Volume(peaks.array * np.tile(np.array([-1, 1, 1], np.float32), 3), peaks.affine)
    found = results(score({"csd_peaks": MapSet({"peaks": mirrored})}, coarse_phantom / "truth/sub-01"))
    assert all(number(text) > 10 for text in found.values())


def test_number_length_and_sign_of_peaks_have_no_effect(coarse_phantom: Path) -> None:
    peaks = read_truth(coarse_phantom, "peaks_world")
    more = np.concatenate([np.zeros_like(peaks.array[..., :3]), -7 * peaks.array], axis=-1)
    found = results(
        score({"csd_peaks": MapSet({"peaks": Volume(more, peaks.affine)})}, coarse_phantom / "truth/sub-01")
    )
    assert all(number(text) == 0 for text in found.values())


def test_a_small_mask_lowers_its_own_score_and_not_those_of_maps(
    perfect: dict[str, object], coarse_phantom: Path
) -> None:
    mask = read_truth(coarse_phantom, "mask")
    half = mask.array.copy()
    half[:13] = 0
    noddi = perfect["noddi"]
    assert isinstance(noddi, MapSet)
    cut = MapSet({name: Volume(maps.array * (half[..., None] if maps.array.ndim > 3 else half), maps.affine)
                  for name, maps in noddi.items()})  # fmt: skip
    values = {"brain_mask": Volume(half, mask.affine), "noddi": cut}
    found = results(score(values, coarse_phantom / "truth/sub-01"))
    assert number(found["brain_mask: Dice with the true brain"]) == pytest.approx(2 / 3, abs=0.03)
    assert number(found["noddi: NDI in white matter, mean absolute error"]) == 0


def test_absent_and_not_applicable_derivatives_have_no_rows(coarse_phantom: Path) -> None:
    assert score({"noddi": NotApplicable("one shell"), "dwi": 3}, coarse_phantom / "truth/sub-01") == []


def test_constant_maps_have_an_undefined_correlation(coarse_phantom: Path) -> None:
    mask = read_truth(coarse_phantom, "mask")
    nothing = Volume(np.zeros_like(mask.array, np.float32), mask.affine)
    maps = MapSet({"ndi": nothing, "fwf": nothing, "direction": Volume(np.zeros((*mask.grid, 3)), mask.affine)})
    found = results(score({"noddi": maps}, coarse_phantom / "truth/sub-01"))
    assert found["noddi: FWF in the brain, correlation"].startswith("undefined")
    assert number(found["noddi: direction to the single fiber, median"]) == 90


def test_a_missed_bundle_lowers_the_mean_and_is_named(perfect: dict[str, object], coarse_phantom: Path) -> None:
    masks = perfect["tract_masks"]
    assert isinstance(masks, Volume)
    without = replaced(masks, "ILF_left", np.zeros(masks.grid))
    found = results(score({"tract_masks": without}, coarse_phantom / "truth/sub-01"))
    known = len(masks.names) - 1
    assert found[f"tract_masks: Dice with the {known} known bundles, mean"] == (
        f"{(known - 1) / known:.3f} (lowest 0.000, ILF_left)"
    )


def test_swapped_sides_have_no_overlap(perfect: dict[str, object], coarse_phantom: Path) -> None:
    masks = perfect["tract_masks"]
    assert isinstance(masks, Volume)
    names = [name.replace("left", "#").replace("right", "left").replace("#", "right") for name in masks.names]
    (row, _) = score({"tract_masks": Volume(masks.array, masks.affine, tuple(names))}, coarse_phantom / "truth/sub-01")
    paired = [name for name in names[1:] if name.endswith(("left", "right"))]
    assert row.value == pytest.approx(1 - len(paired) / (len(names) - 1))


def test_voxels_of_a_bundle_that_the_head_does_not_have_are_counted(coarse_phantom: Path) -> None:
    more = with_absent_bundle(read_truth(coarse_phantom, "tract_endings"), "endings", voxels=7)
    found = results(score({"tract_endings": more}, coarse_phantom / "truth/sub-01"))
    assert found["tract_endings: voxels in endings that the head does not have"] == "7 in 1 of 2"


def test_orientations_are_scored_where_the_map_has_a_direction(
    perfect: dict[str, object], coarse_phantom: Path
) -> None:
    maps = perfect["tract_orientations"]
    assert isinstance(maps, Volume)
    half = maps.array.copy()
    half[:13] = 0
    (complete,), (cut,), (mirrored,) = (
        score({"tract_orientations": Volume(array, maps.affine, maps.names)}, coarse_phantom / "truth/sub-01")
        for array in (maps.array, -half, maps.array * np.tile(np.array([-1, 1, 1], np.float32), len(maps.names) // 3))
    )
    assert complete.value == pytest.approx(0, abs=0.05)
    assert cut.value == pytest.approx(0, abs=0.05), "the sign has no effect"
    assert int(cut.result.split()[3]) < 0.7 * int(complete.result.split()[3])
    assert mirrored.value > 10


def test_a_derivative_on_another_grid_is_an_error(coarse_phantom: Path) -> None:
    moved = read_truth(coarse_phantom, "mask")
    affine = moved.affine.copy()
    affine[0, 3] += 5
    with pytest.raises(InvalidData, match="the truth"):
        score({"brain_mask": Volume(moved.array, affine)}, coarse_phantom / "truth/sub-01")


def test_dice_is_the_overlap_of_two_masks() -> None:
    first, second = np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool)
    assert dice(first, second) == pytest.approx(2 / 3)


def test_the_angle_to_no_axis_is_ninety() -> None:
    peaks = np.array([[[0, 0, 0], [0, -3, 0], [1, 0, 0.0]], [[0, 0, 0]] * 3])
    angles = angles_to_nearest(np.array([[0.5, 0.5 * np.sqrt(3), 0], [1, 0, 0]]), peaks)
    np.testing.assert_allclose(angles, [30, 90], atol=1e-9)
