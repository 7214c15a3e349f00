"""Frames, readers and shells of the gradient table."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kwneuro_assets.imaging import GradientTable, InvalidData
from kwneuro_assets.imaging.gradients import (
    format_bvals,
    format_bvecs,
    fsl_to_world,
    parse_bvals,
    parse_bvecs,
    require_sane_bvalues,
)
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, affine_of, rotation, table, to_fsl

FLOAT64 = 1e-12  # rounding of a few products of unit vectors

angles = st.floats(-180, 180)
affines = st.builds(
    lambda x, y, z, flips, order, zooms: affine_of((rotation(x, y, z) * flips)[:, order], zooms),
    angles,
    angles,
    angles,
    st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    st.permutations(range(3)),
    st.tuples(*[st.floats(0.3, 8)] * 3),
)


def world_axis_by_axis(vector: NDArray[np.float64], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """One FSL vector in the world frame, axis by axis."""
    x, y, z = vector
    if np.linalg.det(affine[:3, :3]) > 0:
        x = -x
    columns = [affine[:3, axis] / np.sqrt((affine[:3, axis] ** 2).sum()) for axis in range(3)]
    return np.asarray(x * columns[0] + y * columns[1] + z * columns[2])


@pytest.mark.parametrize("affine", AFFINES.values(), ids=list(AFFINES))
def test_fsl_vectors_are_converted_to_the_world_frame_axis_by_axis(affine: NDArray[np.float64]) -> None:
    directions = table()
    fsl = to_fsl(directions.world, affine)
    world = GradientTable(directions.bvals, fsl, "fsl").to_frame("world", affine).bvecs
    np.testing.assert_allclose(world, [world_axis_by_axis(vector, affine) for vector in fsl], atol=FLOAT64)
    np.testing.assert_allclose(world, directions.world, atol=FLOAT64)


@pytest.mark.parametrize(
    ("axes", "fsl", "world"),
    [
        # Radiological storage, x to the left: the FSL frame is that of the voxel axes.
        (np.diag([-1.0, 1, 1]), (1, 0, 0), (-1, 0, 0)),
        (np.diag([-1.0, 1, 1]), (0, 1, 0), (0, 1, 0)),
        # Neurological storage, x to the right: in the FSL frame, x still points to the left.
        (np.eye(3), (1, 0, 0), (-1, 0, 0)),
        (np.eye(3), (0, 0, 1), (0, 0, 1)),
        # i points up, j to the right, k to the front: right-handed axes, so the first is negated.
        (np.eye(3)[:, [2, 0, 1]], (1, 0, 0), (0, 0, -1)),
        (np.eye(3)[:, [2, 0, 1]], (0, 1, 0), (1, 0, 0)),
    ],
)
def test_known_axes_have_the_known_world_directions(axes: NDArray[np.float64], fsl: object, world: object) -> None:
    found = GradientTable([1000], [fsl]).to_frame("world", affine_of(axes))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.bvecs[0], world)


@given(affines)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_conversion_is_orthogonal_and_invertible(affine: NDArray[np.float64]) -> None:
    directions = table()
    matrix = fsl_to_world(affine)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=FLOAT64)
    assert np.linalg.det(matrix) < 0, "FSL's frame is left-handed, the world right-handed"
    there = GradientTable(directions.bvals, directions.world, "world").to_frame("fsl", affine)
    back = there.to_frame("world", affine)
    np.testing.assert_allclose(back.bvecs, directions.world, atol=FLOAT64)
    np.testing.assert_allclose(there.bvecs, to_fsl(directions.world, affine), atol=1e-11)


def test_voxel_size_and_origin_do_not_rotate_directions() -> None:
    axes = rotation(10, 20, 30)
    moved = affine_of(axes, (0.5, 7, 1.1))
    moved[:3, 3] = (1000, -3, 5)
    np.testing.assert_allclose(fsl_to_world(moved), fsl_to_world(affine_of(axes)), atol=FLOAT64)


def test_a_sheared_affine_preserves_lengths_and_angles() -> None:
    sheared = affine_of(np.eye(3), (2, 2, 2))
    sheared[0, 1] = 0.4
    matrix = fsl_to_world(sheared)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=FLOAT64)
    # The nearest rotation splits the shear between its two axes: about half its angle each.
    rotated = np.degrees(np.arccos(np.clip(abs(matrix[0, 0]), 0, 1)))
    assert 0 < rotated < np.degrees(np.arctan(0.2))


@pytest.mark.parametrize("text", ["0 1000 2000", "0\n1000\n2000\n", "0, 1000, 2000\r\n", "\n 0\t1e3  2000.0 \n\n"])
def test_bvals_are_read_from_a_row_or_a_column(text: str) -> None:
    np.testing.assert_array_equal(parse_bvals(text), [0, 1000, 2000])


@pytest.mark.parametrize("count", [1, 2, 4, 7, 65])
def test_bvecs_are_read_from_either_orientation(count: int) -> None:
    vectors = np.random.default_rng(count).normal(size=(count, 3))
    rows = "\n".join(" ".join(repr(float(number)) for number in row) for row in vectors)
    columns = "\n".join(" ".join(repr(float(number)) for number in row) for row in vectors.T)
    np.testing.assert_array_equal(parse_bvecs(rows, count), vectors)
    np.testing.assert_array_equal(parse_bvecs(columns, count), vectors)


def test_three_by_three_bvecs_are_three_rows_of_components() -> None:
    found = parse_bvecs("1 2 3\n4 5 6\n7 8 9\n", 3)
    np.testing.assert_array_equal(found, [[1, 4, 7], [2, 5, 8], [3, 6, 9]])


@pytest.mark.parametrize(
    ("text", "count", "found"),
    [
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n", 5, "3 rows of 4"),
        ("1 0 0\n0 1 0\n", 5, "2 rows of 3"),
        ("1 0 0 0\n0 1 0\n0 0 1 0\n", 4, "3 rows of 3 to 4"),
        ("", 4, "an empty file"),
        ("\n \n", 4, "an empty file"),
        ("1 0 0 x\n0 1 0 0\n0 0 1 0\n", 4, "'x'"),
    ],
)
def test_bvecs_of_another_shape_raise_an_error(text: str, count: int, found: str) -> None:
    with pytest.raises(InvalidData, match="b-vectors: expected") as caught:
        parse_bvecs(text, count)
    assert found in caught.value.found


BAD_TABLES: dict[str, tuple[list[float], list[list[float]], str, str]] = {
    "counts differ": ([0, 1000], [[0, 0, 0]], "as many b-vectors as b-values", "2 b-values and 1 b-vectors"),
    "b-value NaN": ([0, np.nan], [[0, 0, 0], [1, 0, 0]], "finite", "nan at volume 1"),
    "b-value infinite": ([np.inf, 0], [[1, 0, 0], [1, 0, 0]], "finite", "inf at volume 0"),
    "b-value negative": ([0, -5], [[0, 0, 0], [1, 0, 0]], "none below zero", "-5 at volume 1"),
    "b-vector NaN": ([0, 1000], [[0, 0, 0], [1, np.nan, 0]], "finite", "at volume 1"),
    "too long": ([0, 1000], [[0, 0, 0], [1.02, 0, 0]], "unit length within 1 %", "length 1.0200 at volume 1"),
    "too short": ([0, 9, 1000], [[0, 0, 0], [1, 0, 0], [0.9, 0, 0]], "unit length", "length 0.9000 at volume 2"),
    "zero with weighting": ([0, 1000, 1000], [[0, 0, 0]] * 3, "a direction for each", "zero at volumes 1, 2"),
    "several": ([1000, 1000, 1000], [[2, 0, 0], [0, 2, 0], [0, 0, 1]], "unit length", "volume 0 and 1 more"),
    "two components": ([0], [[0, 0]], "three components", "shape (1, 2)"),
}


@pytest.mark.parametrize(("bvals", "bvecs", "expected", "found"), BAD_TABLES.values(), ids=list(BAD_TABLES))
def test_an_invalid_gradient_table_raises_an_error(
    bvals: list[float], bvecs: list[list[float]], expected: str, found: str
) -> None:
    with pytest.raises(InvalidData) as caught:
        GradientTable(bvals, bvecs)  # type: ignore[arg-type]
    assert expected in caught.value.expected
    assert found in caught.value.found


def test_vectors_within_one_percent_are_normalized_and_unit_vectors_are_unchanged() -> None:
    almost, exact = np.array([0.6, 0.8, 0]) * 1.009, np.array([0.36, 0.48, 0.8])
    found = GradientTable([1000, 1000], [almost, exact]).bvecs  # type: ignore[arg-type]
    np.testing.assert_allclose(found[0], [0.6, 0.8, 0], atol=FLOAT64)
    assert found[1].tobytes() == exact.tobytes()


def test_vectors_of_b0_volumes_may_be_zero_or_not_of_unit_length() -> None:
    found = GradientTable([0, 5, 50, 1000], [[0, 0, 0], [0.3, 0, 0], [0, 1, 0], [0, 0, 1]])  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.bvecs, [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(found.b0_mask, [True, True, True, False])


def test_a_gradient_table_copies_its_arrays() -> None:
    bvals, bvecs = np.array([0.0, 1000]), np.array([[0.0, 0, 0], [1, 0, 0]])
    gradients = GradientTable(bvals, bvecs)
    bvals[1], bvecs[1] = 5, (0, 1, 0)
    assert gradients.bvals[1] == 1000
    np.testing.assert_array_equal(gradients.bvecs[1], [1, 0, 0])
    with pytest.raises(ValueError, match="read-only"):
        gradients.bvecs[0, 0] = 1


def test_jittered_b_values_form_one_shell_without_b0() -> None:
    bvals = [0, 995, 2005, 1005, 40, 1990, 3000, 1000]
    gradients = GradientTable(bvals, [[1, 0, 0]] * len(bvals))  # type: ignore[arg-type]
    assert [(shell.bvalue, shell.indices) for shell in gradients.shells()] == [
        (1000.0, (1, 3, 7)),
        (1997.5, (2, 5)),
        (3000.0, (6,)),
    ]
    np.testing.assert_array_equal(gradients.snapped_bvals(), [0, 1000, 1997.5, 1000, 0, 1997.5, 3000, 1000])


@given(
    st.lists(st.tuples(st.floats(0, 20000), angles, angles), min_size=1, max_size=12),
    st.floats(0, 200),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_gradient_table_written_as_text_reads_back_bit_for_bit(
    entries: list[tuple[float, float, float]], threshold: float
) -> None:
    bvals = [b for b, _, _ in entries]
    bvecs = [rotation(x, y, 0) @ [0, 0, 1] for _, x, y in entries]
    gradients = GradientTable(bvals, bvecs, b0_threshold=threshold)  # type: ignore[arg-type]
    read_bvals = parse_bvals(format_bvals(gradients))
    read = GradientTable(read_bvals, parse_bvecs(format_bvecs(gradients), len(read_bvals)), b0_threshold=threshold)
    assert read.bvals.tobytes() == gradients.bvals.tobytes()
    assert read.bvecs.tobytes() == gradients.bvecs.tobytes()


@pytest.mark.parametrize("vector", [[np.nan] * 3, [np.nan, 0, 1], [np.inf, 0, 0], [0.5, 0, 0]])
def test_an_invalid_b0_vector_becomes_zero(vector: list[float]) -> None:
    found = GradientTable([5, 1000], [vector, [1, 0, 0]])  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.bvecs, [[0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(found.bvals, [5, 1000])


@pytest.mark.parametrize(
    ("bvals", "unit"),
    [([0, 1e9, 3e9], "s/m^2"), ([0, 3e5], "s/cm^2"), ([0, 0.7, 3], "ms/um^2"), ([0, 5, 49], "ms/um^2")],
)
def test_b_values_in_another_unit_raise_an_error_that_names_the_likely_unit(bvals: list[float], unit: str) -> None:
    with pytest.raises(InvalidData, match=rf"b-values: expected s/mm\^2.* probably in {re.escape(unit)}:"):
        require_sane_bvalues(np.array(bvals))


@pytest.mark.parametrize("bvals", [[0, 50], [0, 1e5], [0, 0], [3000]])
def test_b_values_in_the_right_unit_are_accepted(bvals: list[float]) -> None:
    require_sane_bvalues(np.array(bvals, float))


def test_comments_and_a_byte_order_mark_are_ignored() -> None:
    text = "\ufeff# exported by the scanner\n0 1000 # in s/mm^2\n\n# end\n"
    np.testing.assert_array_equal(parse_bvals(text), [0, 1000])
    np.testing.assert_array_equal(parse_bvecs("# x y z\n0 0 0\n1 0 0#\n", 2), [[0, 0, 0], [1, 0, 0]])
