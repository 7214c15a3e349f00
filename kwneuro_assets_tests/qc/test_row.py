"""The QC row of a subject, from all derivatives, some, or none."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from kwneuro_assets.derivations.directions import electrostatic_directions
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.qc import row as module
from kwneuro_assets.qc.catalog import CATALOG, metric_of, ordered
from kwneuro_assets.qc.row import qc_row
from kwneuro_assets_tests.qc.shapes import GRIDS, head, world

FIXED = [metric.name for metric in CATALOG if "{" not in metric.name]
BUNDLES = ("AF_left", "AF_right", "MCP")
EVALS = np.array([1.5e-3, 0.5e-3, 0.4e-3])  # mm^2/s
NOTHING = NotApplicable("cannot be computed")


def series():
    """The noise-free and the noisy DWI of an ellipsoid with fibers along x, on 8 mm voxels, and its mask."""
    mask = head(GRIDS["oblique"], voxel=8)
    bvals = np.concatenate([np.zeros(3), np.full(16, 1000.0), np.full(16, 2500.0)])
    vectors = np.concatenate([np.zeros((3, 3)), electrostatic_directions(16), electrostatic_directions(16)])
    contrast = 600 * np.exp(-bvals * ((vectors**2) @ EVALS))
    structure = 1 + 0.3 * np.sin(world(mask.shape, mask.affine) @ [0.1, 0.15, 0.2])
    clean = (mask.array * structure)[..., None] * contrast
    noisy = np.abs(clean + np.random.default_rng(0).normal(0, 12, clean.shape))
    table = GradientTable(bvals, vectors, "world")
    return tuple(Dwi(Volume(array.astype(np.float32), mask.affine), table) for array in (clean, noisy)), mask


@pytest.fixture(scope="module")
def derivatives():
    (denoised, raw), mask = series()
    inside = mask.array > 0
    peaks = np.zeros((*mask.shape, 3), np.float32)
    peaks[inside, 0] = 0.7
    ones = {name: Volume(value * inside, mask.affine) for name, value in {"ndi": 0.6, "odi": 0.1, "fwf": 0.05}.items()}
    direction = Volume(inside[..., None] * np.array([1.0, 0, 0]), mask.affine)
    tracts = np.stack([inside & (np.indices(mask.shape)[0] < edge) for edge in (10, 14, 0)], axis=-1)
    return {
        "raw": raw,
        "denoised": denoised,
        "mean_b0": denoised.mean_b0(),
        "brain_mask": mask,
        "dti": fit_tensor(denoised, mask, 1500),
        "noddi": MapSet({**ones, "direction": direction}),
        "fiber_response": ResponseFunction([1000, -300], 2500, voxels=400),
        "csd_peaks": MapSet({"peakvalues": Volume(peaks, mask.affine)}),
        "tract_masks": Volume(tracts, mask.affine, BUNDLES),
    }


@pytest.fixture(scope="module")
def full(derivatives):
    return qc_row(**derivatives)


def only(table):
    (row,) = table.rows()
    return row


def test_a_row_of_all_derivatives_has_each_group_of_metrics(full):
    row = only(full)
    assert row["metrics_failed"] == "none"
    assert (row["mask_pieces"], row["wm_source"], row["response_voxels"], row["bundles_empty"]) == (1, "FA", 400, 1)
    assert row["wm_md_median"] == pytest.approx(EVALS.mean(), rel=1e-3)
    assert row["ndc"] > 0.5
    assert row["num_b0"] == 3
    assert row["wm_ndi_median"] == pytest.approx(0.6)
    assert row["wm_peaks_per_voxel"] == row["wm_with_peak_fraction"] == 1
    assert row["b0_one_sided_fraction"] == 0
    assert row["bundle_volume_ml_MCP"] == 0
    assert row["mask_volume_ml"] > row["bundle_volume_ml_AF_right"] > row["bundle_volume_ml_AF_left"] > 0


def test_columns_are_those_of_the_catalog_in_its_order_with_its_kinds(full):
    assert list(full.columns) == ordered(full.columns)
    assert set(FIXED) <= set(full.columns)
    assert dict(full.kinds) == {column: metric_of(column).kind for column in full.columns}
    assert full.row_count == 1


def test_numbers_have_five_significant_digits(full):
    numbers = {name: cells[0] for name, cells in full.columns.items() if full.kinds[name] == "number"}
    known = {name: value for name, value in numbers.items() if value is not None}
    assert len(known) > 30
    assert {name: float(f"{value:.5g}") for name, value in known.items()} == known


def test_a_row_of_the_raw_dwi_alone_has_all_fixed_columns(derivatives, full):
    alone = qc_row(raw=derivatives["raw"])
    row = only(alone)
    assert [name for name in full.columns if name in FIXED] == [name for name in alone.columns if name in FIXED]
    assert row["num_volumes"] == 35
    assert row["metrics_failed"] == "none"
    assert row["mask_pieces"] is row["wm_fa_median"] is row["bundles_found"] is row["ndc"] is None


NAMES = ["denoised", "mean_b0", "brain_mask", "dti", "noddi", "fiber_response", "csd_peaks", "tract_masks"]


@pytest.mark.parametrize("name", NAMES)
def test_a_derivative_that_is_missing_leaves_the_other_groups(derivatives, full, name):
    row, complete = only(qc_row(**derivatives | {name: None})), only(full)
    unknown = [column for column, cell in row.items() if cell is None and complete[column] is not None]
    absent = [column for column in complete if column not in row]
    assert unknown, "its own metrics are n/a"
    assert row["metrics_failed"] == "none"
    assert row["num_volumes"] == 35
    if name == "tract_masks":
        assert absent == [f"bundle_volume_ml_{bundle}" for bundle in BUNDLES]
    if name in ("noddi", "fiber_response", "csd_peaks", "tract_masks", "mean_b0"):
        same = [column for column in row if column not in unknown]
        assert {column: row[column] for column in same} == {column: complete[column] for column in same}


def test_derivatives_that_are_not_applicable_are_as_good_as_missing(derivatives):
    assert qc_row(raw=derivatives["raw"], **dict.fromkeys(NAMES, NOTHING)) == qc_row(raw=derivatives["raw"])


def test_derivatives_on_another_grid_count_as_missing(derivatives):
    shifted = derivatives["brain_mask"].affine.copy()
    shifted[:3, 3] += 8
    moved = Volume(derivatives["brain_mask"].array, shifted)
    row = only(qc_row(**derivatives | {"brain_mask": moved}))
    assert row["metrics_failed"] == "none"
    assert row["mask_volume_ml"] is row["ndc"] is None
    other = Dwi(Volume(derivatives["raw"].array, shifted), derivatives["raw"].gradients)
    row = only(qc_row(**derivatives | {"denoised": other}))
    assert row["metrics_failed"] == "none"
    assert row["ndc"] is not None


def test_an_empty_mask_leaves_the_rest(derivatives):
    empty = Volume(np.zeros(derivatives["brain_mask"].shape, np.uint8), derivatives["brain_mask"].affine)
    row = only(qc_row(**derivatives | {"brain_mask": empty}))
    assert row["metrics_failed"] == "none"
    assert (row["mask_volume_ml"], row["mask_pieces"], row["bundles_found"], row["response_voxels"]) == (0, 0, 2, 400)


def test_values_of_preprocessing_are_columns_except_for_text(derivatives):
    values = {"qsiprep_mean_fd": 0.123456789, "eddy_qc_mot_abs": 1, "qsiprep_scanner": "A", "strange": 3.0}
    table = qc_row(raw=replace(derivatives["raw"], preprocessing=values))
    row = only(table)
    assert (row["qsiprep_mean_fd"], row["eddy_qc_mot_abs"]) == (0.12346, 1)
    assert not {"qsiprep_scanner", "strange"} & set(row)
    assert list(table.columns)[-2:] == ["qsiprep_mean_fd", "eddy_qc_mot_abs"]


def test_an_unexpected_error_is_logged_and_does_not_lose_the_row(derivatives, full, monkeypatch, caplog):
    def fails(*_):
        raise np.linalg.LinAlgError("singular matrix")

    monkeypatch.setattr(module, "noddi_metrics", fails)
    monkeypatch.setattr(module, "white_matter_metrics", fails)
    with caplog.at_level(logging.ERROR):
        row = only(qc_row(**derivatives))
    assert row["metrics_failed"] == "white matter, NODDI"
    assert row["wm_ndi_median"] is None
    assert row["wm_fa_median"] == only(full)["wm_fa_median"]
    assert "singular matrix" in caplog.text


@pytest.mark.parametrize(
    "error", [OSError("the disk is away"), MemoryError(), InvalidData("a", expected="b", found="c")]
)
def test_errors_of_files_and_of_memory_are_raised(derivatives, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(module, "noddi_metrics", fails)
    with pytest.raises(type(error)):
        qc_row(**derivatives)


def test_the_row_is_the_same_on_one_thread_and_on_two(derivatives, full, monkeypatch):
    for threads in ("1", "2"):
        monkeypatch.setenv("KWNEURO_THREADS", threads)
        assert qc_row(**derivatives) == full
