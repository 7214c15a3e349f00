"""Robust z-scores within a cohort, per scanner or site."""

from __future__ import annotations

import time

import numpy as np
import pytest

from kwneuro_assets.imaging import Table
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.outliers import MAX_Z, MIN_GROUP_SIZE, outliers, robust_z


def table(**columns: list[Cell]) -> Table:
    return Table(columns, {name: "text" if name == "participant_id" else "number" for name in columns})


def with_one_outlier(normal: list[float], value: float) -> list[Cell]:
    return [*normal, value]


def normal_values(count: int, mean: float = 0.0, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).normal(mean, 1, count).tolist()


def slow_robust_z(values: list[float | None]) -> list[float]:
    """The definition, for values whose MAD is not 0: numpy's own medians, one value after the other."""
    present = [value for value in values if value is not None]
    center = float(np.median(present))
    mad = float(np.median([abs(value - center) for value in present]))
    return [np.nan if value is None else 0.6744897501960817 * (value - center) / mad for value in values]


def test_robust_z_is_that_of_the_definition_for_every_column_with_its_own_missing_values() -> None:
    generator = np.random.default_rng(1)
    values = generator.lognormal(3, 1, (37, 8))
    values[generator.random(values.shape) < 0.2] = np.nan
    found = robust_z(values)
    for column in range(8):
        expected = slow_robust_z([None if np.isnan(one) else float(one) for one in values[:, column]])
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-12)  # sums of two numbers: rounding of float64


def test_robust_z_of_normal_values_is_their_z_score() -> None:
    values = np.random.default_rng(2).normal(10, 3, 20_000)
    # The standard error of a MAD of n normal values is 1.17 / sqrt(n) of it, 0.8 %: 4 standard errors.
    np.testing.assert_allclose(np.std(robust_z(values)), 1, atol=0.033)


def test_the_order_of_the_subjects_changes_no_bit() -> None:
    values = np.random.default_rng(3).lognormal(0, 2, (501, 3))
    values[:300, 1] = 0  # MAD is 0
    order = np.random.default_rng(4).permutation(501)
    assert np.array_equal(robust_z(values)[order], robust_z(values[order]))


def test_a_rare_count_among_zeros_is_an_outlier_and_a_frequent_one_is_not() -> None:
    rare, frequent = [0] * 95 + [1] * 5, [0] * 70 + [1] * 30
    assert robust_z(rare)[-1] > MAX_Z
    assert 0 < robust_z(frequent)[-1] < MAX_Z


def test_equal_values_and_differences_of_the_last_digit_have_no_outliers() -> None:
    assert not robust_z([7.0] * 20).any()
    assert not robust_z([0.0] * 20).any()
    assert np.abs(robust_z([0.91234] * 12 + [0.91235] * 12 + [0.91236])).max() < MAX_Z


def test_values_that_cannot_be_compared_give_no_score() -> None:
    assert np.isnan(robust_z([None, None])).all()
    assert robust_z([3.0]).tolist() == [0.0]
    assert robust_z(np.empty((0, 2))).shape == (0, 2)


def test_huge_numbers_do_not_overflow() -> None:
    assert np.isfinite(robust_z([1e307] * 6 + [1.5e307] * 5)).all()


def test_only_the_worse_side_of_a_metric_is_an_outlier() -> None:
    normal = normal_values(30, 100)
    low, high = with_one_outlier(normal, 0), with_one_outlier(normal, 200)
    found = outliers(table(ndc=low, snr_b0=high, dropout_slices=high, raw_max_b=low))
    by_column = dict(zip(found.columns, found.beyond[-1].tolist(), strict=True))
    assert by_column == {"ndc": True, "snr_b0": False, "dropout_slices": True, "raw_max_b": True}
    assert outliers(table(dropout_slices=low)).beyond.sum() == 0


def test_columns_of_other_tools_are_judged_on_both_sides_and_text_not_at_all() -> None:
    normal = normal_values(30)
    names: list[Cell] = [f"sub-{number:02d}" for number in range(31)]
    found = outliers(table(participant_id=names, unknown=with_one_outlier(normal, -50)))
    assert found.columns == ("unknown",)
    assert np.flatnonzero(found.beyond[:, 0]).tolist() == [30]


def test_a_scanner_is_compared_with_itself() -> None:
    values: list[Cell] = [*normal_values(20, 10), *normal_values(20, 50, seed=1), 50.0]
    groups = ["A"] * 20 + ["B"] * 20 + ["A"]  # the last has the value of a B, on scanner A
    together, apart = outliers(table(sigma=values)), outliers(table(sigma=values), groups)
    assert not together.beyond.any()
    assert np.flatnonzero(apart.beyond[:, 0]).tolist() == [40]
    np.testing.assert_array_equal(apart.z[20:40, 0], robust_z(values[20:40]))


def test_a_small_group_is_not_judged_and_missing_values_do_not_count() -> None:
    values: list[Cell] = [*normal_values(MIN_GROUP_SIZE), *normal_values(MIN_GROUP_SIZE - 1), None, 1e6]
    groups = ["A"] * MIN_GROUP_SIZE + ["B"] * MIN_GROUP_SIZE + [None]
    found = outliers(table(sigma=values), groups)
    assert np.isfinite(found.z[:MIN_GROUP_SIZE]).all()
    assert np.isnan(found.z[MIN_GROUP_SIZE:]).all()
    assert not found.beyond[MIN_GROUP_SIZE:].any()


def test_there_is_one_group_for_each_row() -> None:
    with pytest.raises(ValueError, match="expected 3, one for each row, found 2"):
        outliers(table(sigma=[1.0, 2.0, 3.0]), ["A", "B"])


@pytest.mark.parametrize(("count", "expected", "tolerance"), [(10, 0.0169, 0.0011), (20, 0.0066, 0.0007)])
def test_normal_values_of_a_small_group_rarely_exceed_the_limit(count: int, expected: float, tolerance: float) -> None:
    # What MIN_GROUP_SIZE and the documentation say; the tolerance is four standard errors.
    z = robust_z(np.random.default_rng(5).normal(size=(count, 20_000)))
    assert np.mean(np.abs(z) > MAX_Z) == pytest.approx(expected, abs=tolerance)


def test_a_cohort_of_10000_subjects_takes_less_than_half_a_second() -> None:
    generator = np.random.default_rng(6)
    values = generator.lognormal(0, 1, (60, 10_000)).astype(object)
    values[generator.random(values.shape) < 0.05] = None
    cohort = Table(
        {f"metric{index}": row.tolist() for index, row in enumerate(values)},
        {f"metric{index}": "number" for index in range(60)},
    )
    groups = [f"site{index % 40}" for index in range(10_000)]
    seconds = []
    for _ in range(2):
        began = time.process_time()  # not the time of other processes on this machine
        outliers(cohort, groups)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.5, seconds
