"""What a volume, a series, a map set and a response accept at the door."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, MapSet, ResponseFunction, Volume
from kwneuro_assets.imaging.mapset import scatter
from kwneuro_assets.imaging.response import parse_mrtrix_response
from kwneuro_assets.imaging.volume import binary_mask, require_same_grid
from kwneuro_assets_tests.small_dataset import AFFINES, GRID, affine_of, head, rotation, signal, table

OBLIQUE = AFFINES["oblique"]
ONES = np.ones((2, 3, 4), np.float32)


def with_bad(value: float) -> NDArray[np.float32]:
    array = ONES.copy()
    array[1, 2, 3] = value
    return array


def flat_affine() -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, 2] = affine[:3, 0]
    return affine


REFUSED: dict[str, tuple[Callable[[], object], str, str]] = {
    "two dimensions": (lambda: Volume(np.ones((2, 3)), OBLIQUE), "3 to 5 dimensions", "(2, 3)"),
    "six dimensions": (lambda: Volume(np.ones((1,) * 6), OBLIQUE), "3 to 5 dimensions", "(1, 1, 1, 1, 1, 1)"),
    "no voxels": (lambda: Volume(np.ones((2, 0, 3)), OBLIQUE), "none of them empty", "(2, 0, 3)"),
    "NaN": (lambda: Volume(with_bad(np.nan), OBLIQUE), "finite numbers", "1 NaN or infinite of 24"),
    "infinite": (lambda: Volume(with_bad(-np.inf), OBLIQUE), "finite numbers", "1 NaN or infinite of 24"),
    "beyond float32": (lambda: Volume(np.full((2, 2, 2), 1e39), OBLIQUE), "finite numbers", "8 NaN or infinite of 8"),
    "complex": (lambda: Volume(ONES * 1j, OBLIQUE), "real numbers", "complex64"),
    "affine 3 x 3": (lambda: Volume(ONES, np.eye(3)), "4 x 4", "(3, 3)"),
    "affine NaN": (lambda: Volume(ONES, OBLIQUE * np.nan), "finite", "nan"),
    "affine of zeros": (lambda: Volume(ONES, np.diag([0.0, 0, 0, 1])), "determinant other than zero", "0.0"),
    "affine with two like axes": (lambda: Volume(ONES, flat_affine()), "determinant other than zero", "1.0"),
    "names without an axis": (lambda: Volume(ONES, OBLIQUE, ("a",)), "one for each of its 0 entries", "1"),
    "names too few": (lambda: Volume(np.ones((1, 1, 1, 3)), OBLIQUE, ("a",)), "one for each of its 3 entries", "1"),
    "mask of probabilities": (lambda: binary_mask(Volume(ONES / 2, OBLIQUE)), "the values 0 and 1", "0.5"),
    "mask of labels": (lambda: binary_mask(Volume(ONES * 3, OBLIQUE)), "the values 0 and 1", "3.0"),
    "mask that is empty": (lambda: binary_mask(Volume(ONES * 0, OBLIQUE)), "at least one voxel inside", "empty"),
    "mask in 4-D": (lambda: binary_mask(Volume(ONES[None], OBLIQUE)), "three dimensions", "(1, 2, 3, 4)"),
    "series in 3-D": (
        lambda: Dwi(Volume(ONES, OBLIQUE), GradientTable(np.zeros(1), np.zeros((1, 3)))),
        "4 dimensions",
        "2, 3",
    ),
    "series and table": (
        lambda: Dwi(Volume(np.ones((2, 2, 2, 3)), OBLIQUE), GradientTable(np.zeros(2), np.zeros((2, 3)))),
        "3 entries, one for each volume",
        "2",
    ),
    "series without b=0": (
        lambda: Dwi(Volume(np.ones((2, 2, 2, 2)), OBLIQUE), GradientTable(np.array([990.0, 700]), np.eye(3)[:2])),
        "b <= 50",
        "the lowest at 700",
    ),
    "series of zeros": (
        lambda: Dwi(Volume(np.zeros((2, 2, 2, 1)), OBLIQUE), GradientTable(np.zeros(1), np.zeros((1, 3)))),
        "a signal somewhere",
        "zero in every voxel",
    ),
    "no map": (lambda: MapSet({}), "at least one map", "none"),
    "map name": (lambda: MapSet({"FA": Volume(ONES, OBLIQUE)}), "lower-case letters and digits", "'FA'"),
    "maps on two grids": (
        lambda: MapSet({"fa": Volume(ONES, OBLIQUE), "md": Volume(ONES, AFFINES["permuted"])}),
        "that of fa, 2 x 3 x 4 voxels",
        "2 x 3 x 4 voxels of",
    ),
    "response of one number": (lambda: ResponseFunction(np.ones(1), 1000), "at least two", "[1.0]"),
    "response that is negative": (lambda: ResponseFunction(np.array([-1.0, 2]), 1000), "first positive", "-1.0"),
    "response with NaN": (lambda: ResponseFunction(np.array([1, np.nan]), 1000), "finite", "nan"),
    "response text empty": (lambda: parse_mrtrix_response("# only a comment\n", 1000), "lines of numbers", "no line"),
    "response text of words": (lambda: parse_mrtrix_response("1 two 3\n", 1000), "numbers", "two"),
}


@pytest.mark.parametrize(("make", "expected", "found"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_trusted_is_refused_with_what_was_expected_and_found(
    make: Callable[[], object], expected: str, found: str
) -> None:
    with pytest.raises(InvalidData) as caught:
        make()
    assert expected in caught.value.expected
    assert found in caught.value.found


def test_an_error_is_one_sentence_that_survives_another_process() -> None:
    error = InvalidData("b-values", expected="2", found="3", remedy="Export again.").at("sub-01.bval").at("elsewhere")
    assert str(error) == "sub-01.bval: b-values: expected 2, found 3. Export again."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("bool", "uint8"), ("uint8", "uint8"), ("int16", "float32"), ("uint16", "float32"), ("float64", "float32")],
)
def test_arrays_are_kept_as_masks_or_single_precision(given: str, kept: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(given)
    volume = Volume(array, OBLIQUE)
    assert volume.array.dtype == kept
    np.testing.assert_array_equal(volume.array, array)


def test_values_cannot_be_changed() -> None:
    volume = Volume(ONES.copy(), OBLIQUE)
    for array in (volume.array, volume.affine):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 5
    with pytest.raises(AttributeError):
        volume.names = ("a",)  # type: ignore[misc]
    maps = MapSet({"fa": volume})
    with pytest.raises(TypeError):
        maps.maps["md"] = volume  # type: ignore[index]


def test_a_grid_of_micrometres_is_no_singular_one() -> None:
    assert Volume(ONES, affine_of(rotation(1, 2, 3), (1e-3, 1e-3, 2e-3))).voxel_size == pytest.approx(
        (1e-3, 1e-3, 2e-3), rel=1e-6
    )


def test_subsampled_voxels_stay_where_they_were_in_the_world() -> None:
    array = np.arange(8 * 7 * 6, dtype=np.float32).reshape(GRID)
    whole = Volume(array, OBLIQUE)
    part = whole.subsampled(3)
    assert part.grid == (3, 3, 2)
    for voxel in np.ndindex(part.grid):
        before = np.array(voxel) * 3
        assert part.array[voxel] == array[tuple(before)]
        np.testing.assert_allclose(part.affine @ [*voxel, 1], whole.affine @ [*before, 1], atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 5e-4])
def test_grids_equal_but_for_rounding_are_one(shift: float) -> None:
    moved = OBLIQUE.copy()
    moved[0, 3] += shift
    require_same_grid(Volume(ONES, moved), Volume(ONES, OBLIQUE), "mask", "series")


def test_a_mask_half_a_millimetre_off_is_on_another_grid() -> None:
    moved = OBLIQUE.copy()
    moved[2, 3] += 0.5
    with pytest.raises(InvalidData, match=r"grid of mask: expected that of series, 2 x 3 x 4 .* found 2 x 3 x 4 "):
        require_same_grid(Volume(ONES, moved), Volume(ONES, OBLIQUE), "mask", "series")


@pytest.mark.parametrize("affine", AFFINES.values(), ids=list(AFFINES))
@pytest.mark.parametrize("frame", ["fsl", "world"])
def test_a_series_tells_world_directions_whatever_frame_they_came_in(affine: NDArray[np.float64], frame: Any) -> None:
    directions = table()
    given = GradientTable(directions.bvals, directions.world, "world").to_frame(frame, affine)
    dwi = Dwi(Volume(signal(directions), affine), given)
    assert dwi.gradients.frame == "fsl"
    # The affine is kept at float32 precision, 6e-8 of each component.
    np.testing.assert_allclose(dwi.world_bvecs, directions.world, atol=1e-6)


def test_the_mean_b0_is_that_of_the_unweighted_volumes_alone() -> None:
    array = signal(table())
    array[..., 1] *= 3
    dwi = Dwi(Volume(array, OBLIQUE), GradientTable(table().bvals, table().world, "world"))
    np.testing.assert_allclose(dwi.mean_b0().array, (array[..., 0] + array[..., 1]) / 2, rtol=1e-6)


def test_scattered_values_return_to_their_voxels_and_nowhere_else() -> None:
    mask = Volume(head(), OBLIQUE)
    values = np.random.default_rng(0).normal(size=(int(head().sum()), 3)).astype(np.float32)
    full = scatter(values, mask).array
    for row, voxel in zip(values, zip(*np.nonzero(head()), strict=True), strict=True):
        np.testing.assert_array_equal(full[voxel], row)
    assert not full[~head()].any()


def test_mrtrix_text_gives_the_last_line_which_is_the_highest_shell() -> None:
    response = parse_mrtrix_response("# Shells: 0,3000\n1500 0 0\n800 -300 60\n", 3000)
    np.testing.assert_array_equal(response.coefficients, [800, -300, 60])
    assert (response.order, response.bvalue, response.voxels) == (4, 3000, 0)
