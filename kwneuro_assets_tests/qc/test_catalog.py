"""The catalog of all QC metrics."""

from __future__ import annotations

import re

import pytest

from kwneuro_assets.imaging import Table
from kwneuro_assets.qc.catalog import CATALOG, data_dictionary, metric_of, ordered

NAMES = [metric.name for metric in CATALOG]


def filled(name):
    return name.replace("{shell}", "1000").replace("{bundle}", "CST_left")


def test_every_metric_has_its_own_name_a_label_and_a_description_that_end_properly():
    assert len(set(NAMES)) == len(NAMES)
    for metric in CATALOG:
        assert re.fullmatch(r"[a-z][a-z0-9_]*(\{(shell|bundle)\}[a-z_]*)?", metric.name), metric.name
        assert metric.label, metric.name
        assert not metric.label.endswith("."), metric.name
        assert metric.description.endswith("."), metric.name
        assert metric.reference == "" or metric.reference.startswith("https://"), metric.name


def test_metrics_that_are_numbers_have_a_unit_and_texts_have_no_direction():
    for metric in CATALOG:
        assert metric.unit or metric.kind == "text", metric.name
        assert metric.kind != "text" or metric.better == "neither", metric.name


@pytest.mark.parametrize("metric", CATALOG, ids=NAMES)
def test_a_column_resolves_to_its_metric_only(metric):
    found = metric_of(filled(metric.name))
    assert found.name == metric.name
    assert "{" not in found.label + found.description


def test_label_and_description_name_the_shell_or_the_bundle():
    assert metric_of("ndc_b3000").label.endswith("b=3000")
    assert metric_of("bundle_volume_ml_CC_1").description.startswith("Volume of the tract mask of CC_1")


@pytest.mark.parametrize("column", ["participant_id", "nonsense", "ndc_b", "ndc_bx", "bundle_volume_ml_", ""])
def test_an_unknown_column_has_no_metric(column):
    with pytest.raises(KeyError):
        metric_of(column)


def test_columns_are_in_the_order_of_the_catalog_with_shells_ascending_and_bundles_by_name():
    columns = [
        "unknown",
        "eddy_qc_mot_abs",
        "qsiprep_b",
        "qsiprep_a",
        "bundle_volume_ml_CC_2",
        "bundle_volume_ml_AF_left",
    ]
    columns += ["ndc_b3000", "ndc_b500", "ndc_b1000", "mask_pieces", "ndc", "raw_dimension_x"]
    assert ordered(columns) == [
        "raw_dimension_x",
        "ndc",
        "ndc_b500",
        "ndc_b1000",
        "ndc_b3000",
        "mask_pieces",
        "bundle_volume_ml_AF_left",
        "bundle_volume_ml_CC_2",
        "qsiprep_a",
        "qsiprep_b",
        "eddy_qc_mot_abs",
        "unknown",
    ]


def test_the_order_does_not_depend_on_that_of_the_columns():
    columns = [filled(name) for name in NAMES]
    assert ordered(columns) == ordered(columns[::-1]) == columns


def test_the_data_dictionary_describes_each_column_in_order():
    names = {"participant_id": "text", "ndc_b1000": "number", "bundles_empty_names": "text", "qsiprep_new": "number"}
    table = Table({**{name: [None] for name in names}, "not_ours": [None]}, {**names, "not_ours": "text"})
    dictionary = data_dictionary(table)
    assert list(dictionary) == list(names), "an unknown column has no entry"
    assert dictionary["ndc_b1000"]["HigherIsBetter"] is True
    assert dictionary["ndc_b1000"]["LongName"].endswith("b=1000")
    assert all(set(entry) >= {"LongName", "Description"} for entry in dictionary.values())
