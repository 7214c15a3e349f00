"""Columns that other programs have measured."""

from __future__ import annotations

import pytest

from kwneuro_assets.qc.external import external_metric, is_external


@pytest.mark.parametrize(
    ("column", "unit", "better", "check"),
    [
        ("qsiprep_mean_fd", "mm", "lower", "artifacts"),
        ("qsiprep_t1_neighbor_corr", "1", "higher", "acquisition"),
        ("qsiprep_raw_num_bad_slices", "slices", "lower", "artifacts"),
        ("confounds_num_fd_above_0_5", "volumes", "lower", "artifacts"),
        ("eddy_qc_mot_abs", "mm", "lower", "artifacts"),
        ("eddy_qc_outliers_b2000", "%", "lower", "artifacts"),
        ("eddy_qc_cnr_avg_b1000", "1", "higher", "artifacts"),
        ("eddy_qc_cnr_std_b1000", "1", "neither", None),
    ],
)
def test_what_is_known_of_a_column_is_said(column, unit, better, check):
    metric = external_metric(column)
    assert (metric.name, metric.unit, metric.better, metric.check, metric.kind) == (
        column,
        unit,
        better,
        check,
        "number",
    )
    assert metric.reference.startswith("https://")


def test_a_column_of_a_later_version_is_described_by_its_origin():
    metric = external_metric("qsiprep_t9_sharpness")
    assert (metric.label, metric.better, metric.check) == ("QSIPrep: t9_sharpness", "neither", None)
    assert metric.description == "Column `t9_sharpness` of QSIPrep's image QC table."


@pytest.mark.parametrize("column", ["ndc", "qsiprep", "qsiprep_", "my_qsiprep_mean_fd", ""])
def test_other_columns_are_not_external(column):
    assert not is_external(column)
    with pytest.raises(KeyError):
        external_metric(column)
