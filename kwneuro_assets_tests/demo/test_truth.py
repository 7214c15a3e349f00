from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kwneuro_assets.demo.truth import Score, angles_to_nearest, dice, score
from kwneuro_assets.imaging import InvalidData, MapSet, NotApplicable, Volume
from kwneuro_assets_tests.demo.conftest import read_dwi, read_truth


@pytest.fixture(scope="module")
def perfect(coarse_phantom: Path) -> dict[str, object]:
    """Derivatives that are the truth itself."""
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
    }


def results(rows: list[Score]) -> dict[str, str]:
    return {f"{asset}: {measure}": result for asset, measure, result in rows}


def number(text: str) -> float:
    return float(text.split()[0])


def test_the_truth_is_perfect_against_itself(perfect: dict[str, object], coarse_phantom: Path) -> None:
    rows = score(perfect, coarse_phantom / "truth/sub-01")
    assert [row.asset for row in rows] == ["brain_mask", "denoised_dwi", "dti", *["noddi"] * 5, *["csd_peaks"] * 2]
    for row in rows:
        best = 1.0 if "Dice" in row.measure or "correlation" in row.measure else 0.0
        assert number(row.result) == pytest.approx(best, abs=0.05), row


def test_the_raw_image_scores_the_noise_that_was_added(perfect: dict[str, object], coarse_phantom: Path) -> None:
    (row,) = score({"denoised_dwi": read_dwi(coarse_phantom)}, coarse_phantom / "truth/sub-01")
    after, before = number(row.result), number(row.result.split("(")[1])
    assert after == pytest.approx(before, abs=0.11)
    assert before > 15


def test_peaks_mirrored_in_x_are_found_to_be_wrong(perfect: dict[str, object], coarse_phantom: Path) -> None:
    peaks = read_truth(coarse_phantom, "peaks_world")
    mirrored = Volume(peaks.array * np.tile(np.array([-1, 1, 1], np.float32), 3), peaks.affine)
    found = results(score({"csd_peaks": MapSet({"peaks": mirrored})}, coarse_phantom / "truth/sub-01"))
    assert all(number(text) > 10 for text in found.values())


def test_the_number_of_peaks_and_their_lengths_and_signs_play_no_part(coarse_phantom: Path) -> None:
    peaks = read_truth(coarse_phantom, "peaks_world")
    more = np.concatenate([np.zeros_like(peaks.array[..., :3]), -7 * peaks.array], axis=-1)
    found = results(
        score({"csd_peaks": MapSet({"peaks": Volume(more, peaks.affine)})}, coarse_phantom / "truth/sub-01")
    )
    assert all(number(text) == 0 for text in found.values())


def test_a_mask_that_is_too_small_counts_once_and_not_in_the_maps(
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


def test_what_is_absent_or_not_applicable_has_no_lines(coarse_phantom: Path) -> None:
    assert score({"noddi": NotApplicable("one shell"), "dwi": 3}, coarse_phantom / "truth/sub-01") == []


def test_nothing_computed_is_said_in_words(coarse_phantom: Path) -> None:
    mask = read_truth(coarse_phantom, "mask")
    nothing = Volume(np.zeros_like(mask.array, np.float32), mask.affine)
    maps = MapSet({"ndi": nothing, "fwf": nothing, "direction": Volume(np.zeros((*mask.grid, 3)), mask.affine)})
    found = results(score({"noddi": maps}, coarse_phantom / "truth/sub-01"))
    assert found["noddi: FWF in the brain, correlation"].startswith("undefined")
    assert number(found["noddi: direction to the only fibre, median"]) == 90


def test_another_grid_is_refused(coarse_phantom: Path) -> None:
    moved = read_truth(coarse_phantom, "mask")
    affine = moved.affine.copy()
    affine[0, 3] += 5
    with pytest.raises(InvalidData, match="the truth"):
        score({"brain_mask": Volume(moved.array, affine)}, coarse_phantom / "truth/sub-01")


def test_dice_is_the_share_of_common_voxels() -> None:
    first, second = np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool)
    assert dice(first, second) == pytest.approx(2 / 3)


def test_the_angle_is_to_the_nearest_axis_and_ninety_without_one() -> None:
    peaks = np.array([[[0, 0, 0], [0, -3, 0], [1, 0, 0.0]], [[0, 0, 0]] * 3])
    angles = angles_to_nearest(np.array([[0.5, 0.5 * np.sqrt(3), 0], [1, 0, 0]]), peaks)
    np.testing.assert_allclose(angles, [30, 90], atol=1e-9)
