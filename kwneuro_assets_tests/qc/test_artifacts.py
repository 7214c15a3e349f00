from __future__ import annotations

import numpy as np
import pytest

from kwneuro_assets.imaging import Dwi
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.artifacts import artifact_metrics
from kwneuro_assets.qc.masked import read_masked
from kwneuro_assets.qc.shell_fit import fit_b0, fit_shells
from kwneuro_assets_tests.qc import plywood

NONE = {"dropout_slices": 0, "dropout_volumes": 0, "outlier_volumes": 0, "outlier_slices": 0, "spikes_ppm": 0.0}


@pytest.fixture(scope="module")
def clean() -> Dwi:
    return plywood.block(plywood.table(b0=6))


def found(dwi: Dwi) -> dict[str, Cell]:
    series = read_masked(dwi, plywood.mask_of(dwi).array > 0)
    b0 = fit_b0(series)
    return artifact_metrics(series, [*([b0] if b0 else []), *fit_shells(series).values()])


def counts(row: dict[str, Cell]) -> dict[str, Cell]:
    return {name: row[name] for name in NONE}


def test_a_clean_series_has_no_artifacts(clean: Dwi) -> None:
    row = found(clean)
    assert counts(row) == NONE
    # The residual of a volume has a standard error of 1 %, the mean signal of a slice of 0.3 %.
    assert 1 <= row["outlier_volume_max_ratio"] < 1.1  # type: ignore[operator]
    assert 0.95 < row["dropout_min_ratio"] < 1  # type: ignore[operator]


def test_three_dark_slices_and_one_at_nine_tenths_are_found(clean: Dwi) -> None:
    dark = plywood.changed(plywood.changed(clean, 20, slice(3, 6), 0.2), 50, slice(4, 5), 0.9)
    row = found(dark)
    assert counts(row) == {**NONE, "dropout_slices": 4, "dropout_volumes": 2}
    assert row["dropout_min_ratio"] == pytest.approx(0.2, abs=0.02)  # the prediction of one slice is that noisy


def test_a_dark_slice_of_a_b0_volume_is_found(clean: Dwi) -> None:
    assert found(plywood.changed(clean, 2, slice(4, 5), 0.8))["dropout_slices"] == 1


def test_a_moved_volume_is_found_and_only_that(clean: Dwi) -> None:
    array = np.array(clean.array, order="F")
    array[..., 30] = np.roll(array[..., 30], 3, axis=1)  # 6 mm
    assert counts(found(clean.with_array(array))) == {**NONE, "outlier_volumes": 1}


def test_a_moved_b0_volume_is_found(clean: Dwi) -> None:
    array = np.array(clean.array, order="F")
    array[..., 4] = array[..., 4] * np.linspace(0.8, 1.2, array.shape[1])[None, :, None]
    assert counts(found(clean.with_array(array))) == {**NONE, "outlier_volumes": 1}


def test_stripes_in_one_slice_are_an_outlier_slice(clean: Dwi) -> None:
    array = np.array(clean.array, order="F")
    array[:, :, 4, 40] += 3 * plywood.SIGMA * np.cos(1.3 * np.arange(array.shape[0]))[:, None]
    assert counts(found(clean.with_array(array))) == {**NONE, "outlier_slices": 1}


def test_spikes_are_counted_in_ppm_of_all_signals(clean: Dwi) -> None:
    array = np.array(clean.array, order="F")
    inside = np.argwhere(plywood.mask_of(clean).array > 0)
    spikes = [(10, 11), (900, 30), (2500, 50), (4000, 60)]  # voxel of the mask, volume
    for voxel, volume in spikes:
        x, y, z = inside[voxel]
        array[x, y, z, volume] += 15 * plywood.SIGMA
    ppm = found(clean.with_array(array))["spikes_ppm"]
    assert ppm == pytest.approx(len(spikes) / (len(inside) * len(clean.bvals)) * 1e6, rel=1e-4)  # five digits


def test_a_slice_of_few_directions_is_found_if_it_is_dark() -> None:
    six = plywood.block(plywood.table([(1000, 6)], b0=1), parallel=0.7e-3)  # the mean over a slice of a head
    row = found(plywood.changed(six, 3, slice(4, 5), 0.3))
    assert row["dropout_slices"] == 1
    assert found(six)["dropout_slices"] == 0


def test_fewer_than_five_volumes_are_not_judged() -> None:
    row = found(plywood.block(plywood.table([(1000, 4)], b0=2)))
    assert set(row.values()) == {None}


def test_rounding_of_a_series_without_noise_is_no_artifact() -> None:
    assert counts(found(plywood.block(sigma=0, parallel=plywood.PERPENDICULAR))) == NONE
