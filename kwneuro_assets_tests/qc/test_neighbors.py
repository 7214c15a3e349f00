from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.imaging import GradientTable
from kwneuro_assets.qc.masked import read_masked
from kwneuro_assets.qc.neighbors import nearest_in_q_space, neighbor_metrics
from kwneuro_assets_tests.qc import plywood


def test_the_overall_value_is_that_of_dipy() -> None:
    from dipy.core.gradients import gradient_table
    from dipy.stats.qc import neighboring_dwi_correlation

    dwi = plywood.block()
    inside = plywood.mask_of(dwi).array > 0
    dipys = neighboring_dwi_correlation(
        dwi.array, gradient_table(dwi.bvals, bvecs=dwi.gradients.bvecs, b0_threshold=50), mask=inside
    )
    # Five digits are stored; float32 products differ in the sixth.
    assert neighbor_metrics(read_masked(dwi, inside))["ndc"] == pytest.approx(dipys, abs=2e-5)


def test_the_value_of_a_shell_is_that_of_dipy_for_this_shell_alone() -> None:
    from dipy.core.gradients import gradient_table
    from dipy.stats.qc import neighboring_dwi_correlation

    dwi = plywood.block()
    inside = plywood.mask_of(dwi).array > 0
    row = neighbor_metrics(read_masked(dwi, inside), "_denoised")
    assert set(row) == {"ndc_denoised", "ndc_denoised_b1000", "ndc_denoised_b2000"}
    for bvalue in (1000, 2000):
        use = (dwi.bvals == bvalue) | (dwi.bvals == 0)
        part = gradient_table(dwi.bvals[use], bvecs=dwi.gradients.bvecs[use], b0_threshold=50)
        expected = neighboring_dwi_correlation(dwi.array[..., use], part, mask=inside)
        assert row[f"ndc_denoised_b{bvalue}"] == pytest.approx(expected, abs=2e-5)


def test_a_shifted_volume_lowers_its_correlation() -> None:
    dwi = plywood.block()
    inside = plywood.mask_of(dwi).array > 0
    array = np.array(dwi.array, order="F")
    array[..., 9] = np.roll(array[..., 9], 3, axis=1)
    before = neighbor_metrics(read_masked(dwi, inside))
    after = neighbor_metrics(read_masked(dwi.with_array(array), inside))
    assert after["ndc_b1000"] < before["ndc_b1000"] - 0.01  # type: ignore[operator]
    assert after["ndc_b2000"] == before["ndc_b2000"]


def test_opposite_b_vectors_are_neighbors() -> None:
    gradients = GradientTable(
        np.array([0.0, 1000, 1000, 1000]), np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [-0.99, 0.14106736, 0]])
    )
    assert nearest_in_q_space(gradients)[1] == 3


def test_a_constant_volume_and_a_single_volume_have_no_correlation() -> None:
    dwi = plywood.block(plywood.table([(1000, 6)], b0=1))
    array = np.array(dwi.array, order="F")
    array[..., 3] = 7
    inside = plywood.mask_of(dwi).array > 0
    assert neighbor_metrics(read_masked(dwi.with_array(array), inside)) == {"ndc": None, "ndc_b1000": None}
    single = plywood.block(GradientTable(np.array([0.0, 1000]), np.array([[0.0, 0, 0], [1, 0, 0]]), "world"))
    assert neighbor_metrics(read_masked(single, inside)) == {"ndc": None}
