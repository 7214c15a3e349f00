"""Validation of volumes, DWI series, map sets and response functions."""

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
from kwneuro_assets.imaging.volume import binary_mask, on_grid_of, require_same_grid, without_voxels
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, GRID, affine_of, head, rotation, signal, table

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


@pytest.mark.parametrize(("construct", "expected", "found"), REFUSED.values(), ids=list(REFUSED))
def test_invalid_data_raise_an_error_with_what_was_expected_and_found(
    construct: Callable[[], object], expected: str, found: str
) -> None:
    with pytest.raises(InvalidData) as caught:
        construct()
    assert expected in caught.value.expected
    assert found in caught.value.found


def test_an_error_message_is_one_line_and_can_be_pickled() -> None:
    error = InvalidData("b-values", expected="2", found="3", remedy="Export again.").at("sub-01.bval").at("elsewhere")
    assert str(error) == "sub-01.bval: b-values: expected 2, found 3. Export again."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("given", "stored"),
    [("bool", "uint8"), ("uint8", "uint8"), ("int16", "float32"), ("uint16", "float32"), ("float64", "float32")],
)
def test_arrays_are_converted_to_uint8_or_float32(given: str, stored: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(given)
    volume = Volume(array, OBLIQUE)
    assert volume.array.dtype == stored
    np.testing.assert_array_equal(volume.array, array)


def test_values_are_read_only() -> None:
    volume = Volume(ONES.copy(), OBLIQUE)
    for array in (volume.array, volume.affine):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 5
    with pytest.raises(AttributeError):
        volume.names = ("a",)  # type: ignore[misc]
    maps = MapSet({"fa": volume})
    with pytest.raises(TypeError):
        maps.maps["md"] = volume  # type: ignore[index]


def test_a_grid_of_micrometers_is_not_singular() -> None:
    assert Volume(ONES, affine_of(rotation(1, 2, 3), (1e-3, 1e-3, 2e-3))).voxel_size == pytest.approx(
        (1e-3, 1e-3, 2e-3), rel=1e-6
    )


def test_subsampled_voxels_keep_their_world_coordinates() -> None:
    array = np.arange(8 * 7 * 6, dtype=np.float32).reshape(GRID)
    full = Volume(array, OBLIQUE)
    part = full.subsampled(3)
    assert part.grid == (3, 3, 2)
    for voxel in np.ndindex(part.grid):
        before = np.array(voxel) * 3
        assert part.array[voxel] == array[tuple(before)]
        np.testing.assert_allclose(part.affine @ [*voxel, 1], full.affine @ [*before, 1], atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 5e-4])
def test_grids_equal_up_to_rounding_are_the_same(shift: float) -> None:
    moved = OBLIQUE.copy()
    moved[0, 3] += shift
    require_same_grid(Volume(ONES, moved), Volume(ONES, OBLIQUE), "mask", "series")


@pytest.mark.parametrize(
    ("edges", "other", "same"),
    [
        ((0.05, 0.05, 0.05), (0.0509, 0.0509, 0.0509), False),  # 3.6 voxels off at the far corner
        ((2.0, 2.0, 2.0), (2.0004, 2.0004, 2.0004), True),  # 0.035 voxels
        ((2.0, 2.0, 2.0), (2.001, 2.001, 2.001), False),  # 0.09 voxels
        ((1.0, 1.0, 10.0), (1.0, 1.0, 10.02), False),  # 0.1 voxels along the slices
    ],
)
def test_the_same_grid_means_corners_within_a_twentieth_of_a_voxel(
    edges: tuple[float, ...], other: tuple[float, ...], same: bool
) -> None:
    grid = without_voxels((101, 101, 51), affine_of(rotation(12, -20, 33), edges))
    assert without_voxels((101, 101, 51), affine_of(rotation(12, -20, 33), other)).same_grid(grid) == same


@pytest.mark.parametrize("scale", [0.02, 1.0, 30.0])
def test_the_tolerance_is_in_voxels_and_not_in_millimeters(scale: float) -> None:
    affine = affine_of(rotation(12, -20, 33), (2 * scale,) * 3)
    for shift, same in ((0.049, True), (0.051, False)):
        moved = affine.copy()
        moved[1, 3] += shift * 2 * scale
        assert Volume(ONES, moved).same_grid(Volume(ONES, affine)) == same


def test_a_volume_on_the_same_grid_up_to_rounding_gets_its_affine() -> None:
    rounded = np.round(OBLIQUE, 2)
    aligned = on_grid_of(Volume(ONES, OBLIQUE), Volume(ONES, rounded), "mask", "series")
    np.testing.assert_array_equal(aligned.affine, Volume(ONES, OBLIQUE).affine)
    with pytest.raises(InvalidData, match="voxels away"):
        on_grid_of(Volume(ONES, OBLIQUE), Volume(ONES, np.round(OBLIQUE, 0)), "mask", "series")


def test_a_mask_half_a_millimeter_off_is_on_another_grid() -> None:
    moved = OBLIQUE.copy()
    moved[2, 3] += 0.5
    with pytest.raises(InvalidData, match=r"grid of mask: expected that of series, 2 x 3 x 4 .* found 2 x 3 x 4 "):
        require_same_grid(Volume(ONES, moved), Volume(ONES, OBLIQUE), "mask", "series")


@pytest.mark.parametrize("affine", AFFINES.values(), ids=list(AFFINES))
@pytest.mark.parametrize("frame", ["fsl", "world"])
def test_world_directions_do_not_depend_on_the_frame_of_the_gradient_table(
    affine: NDArray[np.float64], frame: Any
) -> None:
    directions = table()
    given = GradientTable(directions.bvals, directions.world, "world").to_frame(frame, affine)
    dwi = Dwi(Volume(signal(directions), affine), given)
    assert dwi.gradients.frame == "fsl"
    # The affine is rounded to float32, 6e-8 of each component.
    np.testing.assert_allclose(dwi.world_bvecs, directions.world, atol=1e-6)


def test_the_mean_b0_averages_the_b0_volumes_alone() -> None:
    array = signal(table())
    array[..., 1] *= 3
    dwi = Dwi(Volume(array, OBLIQUE), GradientTable(table().bvals, table().world, "world"))
    np.testing.assert_allclose(dwi.mean_b0().array, (array[..., 0] + array[..., 1]) / 2, rtol=1e-6)


def test_scattered_values_are_in_their_voxels_and_zero_elsewhere() -> None:
    mask = Volume(head(), OBLIQUE)
    values = np.random.default_rng(0).normal(size=(int(head().sum()), 3)).astype(np.float32)
    full = scatter(values, mask).array
    for row, voxel in zip(values, zip(*np.nonzero(head()), strict=True), strict=True):
        np.testing.assert_array_equal(full[voxel], row)
    assert not full[~head()].any()


def test_the_line_of_the_highest_shell_is_read_from_mrtrix_text() -> None:
    response = parse_mrtrix_response("# Shells: 0,3000\n1500 0 0\n800 -300 60\n", 3000)
    np.testing.assert_array_equal(response.coefficients, [800, -300, 60])
    assert (response.order, response.bvalue, response.voxels) == (4, 3000, 0)
