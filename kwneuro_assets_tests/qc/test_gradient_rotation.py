from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Matrix

from kwneuro_assets.imaging import Dwi, GradientTable
from kwneuro_assets.qc.gradient_rotation import estimate_rotation
from kwneuro_assets.qc.masked import MaskedSeries, read_masked
from kwneuro_assets_tests.qc import plywood
from kwneuro_assets_tests.testkit.small_dataset import AFFINES

TOLERANCE = 1.5  # degrees: three standard errors of this small block
AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0), "oblique": (0.6, -0.64, 0.48)}


def series_of(dwi: Dwi) -> MaskedSeries:
    return read_masked(dwi, plywood.mask_of(dwi).array > 0)


def with_rotated_b_vectors(series: MaskedSeries, vector: NDArray[np.float64]) -> MaskedSeries:
    """The series with its b-vectors rotated by `vector` in degrees, FSL frame."""
    table = series.gradients
    moved = table.bvecs @ Matrix.from_rotvec(np.radians(vector)).as_matrix().T
    return replace(series, gradients=GradientTable(table.bvals, moved, "fsl"))


@pytest.fixture(scope="module")
def series() -> MaskedSeries:
    return series_of(plywood.block(plywood.table([(1000, 32)])))


def test_the_right_table_has_no_rotation(series: MaskedSeries) -> None:
    found = estimate_rotation(series)
    assert found is not None
    assert found.angle < TOLERANCE
    assert 0 < found.angle_error < TOLERANCE


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("degrees", [10, -25])
def test_the_rotation_that_corrects_the_b_vectors_is_found(series: MaskedSeries, axis: str, degrees: float) -> None:
    vector = degrees * np.array(AXES[axis])
    found = estimate_rotation(with_rotated_b_vectors(series, vector))
    assert found is not None
    assert found.vector == pytest.approx(-vector, abs=TOLERANCE)


@pytest.mark.parametrize("name", AFFINES)
def test_it_is_found_on_any_grid_with_thick_slices(name: str) -> None:
    series = series_of(plywood.block(plywood.table([(1000, 32)]), AFFINES[name]))
    vector = np.array([0.0, 8.0, 6.0])
    found = estimate_rotation(with_rotated_b_vectors(series, vector))
    assert found is not None
    assert found.vector == pytest.approx(-vector, abs=TOLERANCE)


def test_too_few_directions_or_fibers_determine_no_rotation(series: MaskedSeries) -> None:
    assert estimate_rotation(series_of(plywood.block(plywood.table([(1000, 5)])))) is None
    assert estimate_rotation(series_of(plywood.block(plywood.table([(1000, 32)]), grid=(9, 9, 9)))) is None
    isotropic = plywood.block(plywood.table([(1000, 32)]), parallel=plywood.PERPENDICULAR)
    assert estimate_rotation(series_of(isotropic)) is None
