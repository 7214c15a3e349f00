from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Matrix

from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, StreamedVolume, Table, Volume
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.acquisition import ACQUISITION_METRICS
from kwneuro_assets.qc.signal import SIGNAL_METRICS, signal_metrics
from kwneuro_assets_tests.derivations.slab import Slab, read_slab
from kwneuro_assets_tests.qc import plywood

PHANTOM_TOOL = Path(__file__).parents[3] / "shared" / "tools" / "realistic_phantom.py"


def kind_of(column: str) -> str:
    """The kind of the metric of a column; fails if there is none, or more than one."""
    (kind,) = [
        one.kind for one in SIGNAL_METRICS if re.fullmatch(re.escape(one.name).replace(r"\{shell\}", r"\d+"), column)
    ]
    return kind


def checked(row: dict[str, Cell]) -> dict[str, Cell]:
    """`row`, if a table can have it: every column is a metric, and there is no NaN."""
    Table.from_rows([row], {column: kind_of(column) for column in row})  # type: ignore[misc]
    return row


@pytest.fixture(scope="module")
def block() -> Dwi:
    return plywood.block()


@pytest.fixture(scope="module")
def row(block: Dwi) -> dict[str, Cell]:
    white = np.zeros(block.volume.grid, np.bool_)
    white[:10] = True
    denoised = block.with_array(np.asfortranarray(plywood.block(sigma=0).array))
    return checked(signal_metrics(block, denoised, plywood.mask_of(block), white))


def test_every_metric_has_a_value(row: dict[str, Cell]) -> None:
    for metric in SIGNAL_METRICS:
        pattern = re.escape(metric.name).replace(r"\{shell\}", r"\d+")
        found = [row[column] for column in row if re.fullmatch(pattern, column)]
        assert found, metric.name
        # No block of three layers decides flips, and the brightest voxels are no water.
        assert metric.name in ("gradient_correction",) or None not in found, metric.name


def test_the_acquisition_is_described_in_the_terms_of_qsiprep(row: dict[str, Cell]) -> None:
    assert [row[f"raw_dimension_{axis}"] for axis in "xyz"] == list(plywood.GRID)
    assert [row[f"raw_voxel_size_{axis}"] for axis in "xyz"] == [2.0, 2.0, 2.0]
    assert (row["num_volumes"], row["num_b0"], row["raw_num_directions"], row["raw_max_b"]) == (95, 3, 92, 2000.0)
    assert row["shells"] == "1000 (32), 2000 (60)"


def test_noise_and_contrast_are_those_of_the_phantom(row: dict[str, Cell]) -> None:
    assert row["snr_b0"] == pytest.approx(plywood.BRIGHTNESS / plywood.SIGMA, rel=0.05)
    assert row["residual_to_noise_b2000"] == pytest.approx(1, abs=0.05)
    signal = plywood.block(sigma=0).array[..., 3:35]
    contrast = np.sqrt(np.median(signal.var(axis=3, ddof=1))) / plywood.SIGMA
    assert row["cnr_b1000"] == pytest.approx(contrast, rel=0.05)


def test_perfect_denoising_removes_noise_without_structure(block: Dwi, row: dict[str, Cell]) -> None:
    assert row["ndc_denoised"] > row["ndc"]  # type: ignore[operator]
    assert abs(row["denoising_lag_correlation"]) < 0.01  # type: ignore[arg-type]
    blurred = block.with_array(
        np.asfortranarray((block.array + np.roll(block.array, 1, 0) + np.roll(block.array, 1, 1)) / 3)
    )
    structure = signal_metrics(block, blurred, plywood.mask_of(block))["denoising_lag_correlation"]
    assert structure > 0.05  # type: ignore[operator]


def test_the_number_of_threads_changes_no_digit(block: Dwi, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for threads in ("1", "3"):
        monkeypatch.setenv("KWNEURO_THREADS", threads)
        rows.append(signal_metrics(block, block, plywood.mask_of(block)))
    assert rows[0] == rows[1]


def test_a_streamed_series_is_read_once_and_has_the_same_metrics(block: Dwi, row: dict[str, Cell]) -> None:
    reads: Counter[int] = Counter()

    def read(chosen: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        for index in chosen:
            reads[index] += 1
            yield np.asfortranarray(block.array[..., index])

    streamed = Dwi(StreamedVolume(block.volume.shape, block.affine, read), block.gradients)
    reads.clear()  # the validation of Dwi reads until it finds a signal
    found = signal_metrics(streamed, None, plywood.mask_of(block))
    assert set(reads.values()) == {1}
    assert found == {column: row[column] for column in found}


def test_without_a_mask_there_are_only_the_columns_of_the_acquisition(block: Dwi) -> None:
    empty = Volume(np.zeros(block.volume.grid, np.uint8), block.affine)
    assert set(signal_metrics(block, block, None)) == {metric.name for metric in ACQUISITION_METRICS}
    assert signal_metrics(block, block, empty) == signal_metrics(block, block, None)


def one_voxel(dwi: Dwi) -> Volume:
    array = np.zeros(dwi.volume.grid, np.uint8)
    array[3, 3, 0] = 1
    return Volume(array, dwi.affine)


@pytest.mark.parametrize("b0", [1, 2])
@pytest.mark.parametrize("shells", [[(1000, 6)], [(700, 3), (1000, 8)], [(1000, 1)]])
@pytest.mark.parametrize("grid", [(12, 10, 3), (12, 10, 1)])
def test_small_acquisitions_leave_cells_empty(
    b0: int, shells: list[tuple[float, int]], grid: tuple[int, int, int]
) -> None:
    gradients = plywood.table([(bvalue, max(count, 2)) for bvalue, count in shells], b0=b0)
    dwi = plywood.block(gradients, grid=grid)
    for mask in (plywood.mask_of(dwi), one_voxel(dwi)):
        found = checked(signal_metrics(dwi, dwi, mask, np.zeros(grid, np.bool_)))
        assert (found["sigma"] is None) == (b0 == 1)
        assert found.get("cnr_b1000_wm") is None


@pytest.mark.parametrize("value", [7.0, -3.0])
def test_a_constant_signal_leaves_cells_empty(value: float) -> None:
    dwi = plywood.block(grid=(12, 10, 3))
    flat = dwi.with_array(np.full_like(dwi.array, value))
    found = checked(signal_metrics(flat, flat, plywood.mask_of(dwi)))
    assert all(found[column] is None for column in ("ndc", "sigma", "snr_b0", "cnr_b1000", "residual_lag_correlation"))
    assert found["outlier_volumes"] in (0, None)


def test_other_grids_and_other_numbers_of_volumes_are_refused(block: Dwi) -> None:
    mask = plywood.mask_of(block)
    other = plywood.block(grid=(12, 10, 3))
    with pytest.raises(InvalidData, match="mask"):
        signal_metrics(block, None, plywood.mask_of(other))
    with pytest.raises(InvalidData, match="denoised DWI"):
        signal_metrics(block, other, mask)
    with pytest.raises(InvalidData, match="denoised DWI"):
        signal_metrics(block, plywood.block(plywood.table([(1000, 6)])), mask)
    with pytest.raises(InvalidData, match="white matter"):
        signal_metrics(block, None, mask, np.ones((2, 2, 2), np.bool_))


@pytest.fixture(scope="module")
def slab() -> Slab:
    if not PHANTOM_TOOL.exists():
        pytest.skip("needs ../shared: the realistic phantom")
    return read_slab(PHANTOM_TOOL, 16)


def with_b_vectors(dwi: Dwi, bvecs: NDArray[np.float64]) -> Dwi:
    return replace(dwi, gradients=GradientTable(dwi.bvals, bvecs, "fsl"))


@pytest.mark.slow
def test_each_defect_of_a_head_is_found_by_its_metric_and_none_in_the_clean_head(slab: Slab) -> None:
    dwi, mask = slab.dwi, slab.mask
    clean = checked(signal_metrics(dwi, None, mask))
    assert clean["gradient_rotation_deg"] < 6  # type: ignore[operator]
    assert [clean[name] for name in ("dropout_slices", "outlier_volumes", "outlier_slices")] == [0, 0, 0]

    moved = dwi.gradients.bvecs @ Matrix.from_rotvec([0, np.radians(10), 0]).as_matrix().T
    rotated = signal_metrics(with_b_vectors(dwi, moved), None, mask)
    assert rotated["gradient_rotation_deg"] == pytest.approx(10, abs=4)
    assert rotated["ndc"] == clean["ndc"]

    flipped = signal_metrics(with_b_vectors(dwi, dwi.gradients.bvecs * [-1, 1, 1]), None, mask)
    assert str(flipped["gradient_correction"]).startswith("flip x")

    dark = plywood.changed(plywood.changed(dwi, 20, slice(6, 9), 0.2), 150, slice(10, 11), 0.9)
    found = signal_metrics(dark, None, mask)
    assert (found["dropout_slices"], found["dropout_volumes"], found["outlier_volumes"]) == (4, 2, 0)
