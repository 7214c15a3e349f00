"""The values in the QC files of preprocessing programs, and what is left out of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from kwneuro_assets.imaging import InvalidData, Table
from kwneuro_assets.imaging.table import Kind
from kwneuro_assets.ingestion.qc_values import QcValues, confounds, eddy_quad, image_qc

OWN = {"sub": "01", "ses": "02", "run": "1", "space": "ACPC", "desc": "preproc"}
# A qc.json as eddy QUAD 1.0 writes it, for b=0 and shells of 700 and 2000 s/mm^2.
QUAD: dict[str, Any] = {
    "data_no_b0_vols": 6, "data_no_dw_vols": 90, "data_no_shells": 2, "data_unique_bvals": [700, 2000],
    "data_vox_size": [2.0, 2.0, 2.0], "data_file_eddy": "/data/eddy", "qc_path": "/data/eddy.qc",
    "qc_mot_abs": 0.42, "qc_mot_rel": 0.19, "qc_params_flag": True, "qc_params_avg": [0.1] * 9,
    "qc_s2v_params_flag": False, "qc_s2v_params_avg_std": [0.0] * 6, "qc_field_flag": True, "qc_vox_displ_std": [0.8],
    "qc_ol_flag": True, "qc_outliers_tot": 1.25, "qc_outliers_b": [0.5, 2], "qc_outliers_pe": [1.25],
    "qc_cnr_flag": True, "qc_cnr_avg": [12.0, 2.5, 1.75], "qc_cnr_std": [1.0, 0.25, 0.125], "qc_rss_flag": False,
}  # fmt: skip


def tsv(*rows: Mapping[str, object]) -> str:
    lines: list[list[object]] = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join("\t".join(map(str, line)) + "\n" for line in lines)


def fd_table(*values: object, files: list[str] | None = None) -> str:
    """A confounds table with these displacements, and `files` as the original files."""
    names = files or ["sub-01_dwi.nii.gz"] * len(values)
    pairs = zip(values, names, strict=True)
    return tsv(*({"framewise_displacement": fd, "trans_x": 0.5, "original_file": file} for fd, file in pairs))


def test_the_row_of_a_scan_gives_counts_numbers_and_text() -> None:
    row = {
        "subject_id": "sub-01", "session_id": "ses-02", "run_id": "", "space_id": "space-ACPC", "task_id": "n/a",
        "file_name": "sub-01_ses-02_space-ACPC_desc-preproc_dwi.nii.gz", "raw_num_bad_slices": "3.0", "mean_fd": "0",
        "t1_neighbor_corr": ".75", "max_fd": "1e0", "t1_dice_distance": "n/a", "model": "eddy", "raw_max_b": "-0",
    }  # fmt: skip
    found = image_qc(tsv(row).replace("\n", "\r\n"), OWN, 96)
    assert found.values == {
        "raw_num_bad_slices": 3, "mean_fd": 0.0, "t1_neighbor_corr": 0.75, "max_fd": 1.0, "model": "eddy",
        "raw_max_b": 0.0,
    }  # fmt: skip
    kinds = {name: type(value) for name, value in found.values.items()}
    assert kinds["raw_num_bad_slices"] is int
    assert {kinds["mean_fd"], kinds["max_fd"]} == {float}
    assert str(found.values["raw_max_b"]) == "0.0", "no negative zero, which would be another data version"
    assert found.warnings == []


@pytest.mark.parametrize("run", ["1", "01", "run-1", "run-01"])
def test_the_row_of_the_run_is_taken_among_those_of_others(run: str) -> None:
    rows = [
        {"subject_id": subject, "session_id": session, "run_id": label, "mean_fd": fd}
        for subject, session, label, fd in (
            ("sub-02", "ses-02", run, 1), ("01", "02", run, 2), ("sub-01", "ses-01", run, 3), ("sub-01", "02", 2, 4),
        )
    ]  # fmt: skip
    assert image_qc(tsv(*rows), OWN, 96).values == {"mean_fd": 2.0}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (tsv({"subject_id": "sub-02", "mean_fd": 1}), "expected one row of this scan, found 0"),
        (tsv({"file_name": "out/sub-01_ses-03_dwi.nii.gz", "mean_fd": 1}), "expected one row of this scan, found 0"),
        (tsv({"session_id": "ses-02", "mean_fd": 1}, {"session_id": "ses-02", "mean_fd": 2}), "found 2"),
        ("<!DOCTYPE html>\n<html><body>404</body></html>\n", "found '<!DOCTYPE html>'"),
        ("<html>\t<head>\n<body>\t</body>\n", "expected tabs between names of columns"),
        ("mean_fd,max_fd\n1,2\n", "expected tabs between names of columns, found 'mean_fd,max_fd'"),
        ("", "expected tabs between names of columns, found ''"),
        ("mean_fd\tmax_fd\n", "expected at least one row, found none"),
        ("mean_fd\tmax_fd\n1\n", "line 2 of the table: expected 2 cells, found 1"),
        ("mean_fd\tmean_fd\n1\t2\n", "2 columns, 1 different names"),
        ("\t".join(f"a{i}" for i in range(501)) + "\n" + "\t".join("1" * 501) + "\n", "501 columns"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_the_scan_is_refused(text: str, found: str) -> None:
    with pytest.raises(InvalidData) as caught:
        image_qc(text, OWN, 96)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    "cell",
    ["nan", "-NaN", "inf", "-Infinity", "1e999", "1" * 400, "1e16", "x" * 201, '"a"', "a\x00b", "a\x85b", "\ud800"],
)
def test_a_value_that_cannot_be_used_is_left_out_with_a_warning(cell: str) -> None:
    found = image_qc(tsv({"mean_fd": cell, "max_fd": 1}), OWN, 96)
    assert found.values == {"max_fd": 1.0}
    [warning] = found.warnings
    assert warning.startswith("mean_fd: expected ")
    assert warning.endswith(": left out")
    assert len(warning) < 200


def test_a_count_that_is_no_integer_is_left_out() -> None:
    found = image_qc(tsv({"raw_num_bad_slices": 2.5, "max_fd": 1}), OWN, 96)
    assert found.values == {"max_fd": 1.0}
    assert found.warnings == ["raw_num_bad_slices: expected an integer, found 2.5: left out"]


def test_a_column_without_a_proper_name_is_left_out() -> None:
    row = {"": 0, "Unnamed: 0": 1, "<b>": 2, "mean_fd": 3, "a" * 65: 4}
    assert image_qc(tsv(row), OWN, 96).values == {"mean_fd": 3.0}


def test_framewise_displacement_is_summarized_without_the_first_volume_of_each_file() -> None:
    displacements = np.round(np.random.default_rng(0).gamma(2, 0.2, 100), 4)
    text = fd_table("n/a", *displacements, files=["a"] * 60 + ["b"] * 41)
    counted = np.delete(displacements, 59)  # row 60 of the table, the first one of file b
    found = confounds(text, 101)
    assert found.values == {
        "mean_fd": pytest.approx(counted.mean(), rel=1e-15),  # the order of the sum
        "max_fd": counted.max(),
        "num_fd": 99,
        "num_fd_above_0_5": np.count_nonzero(counted > 0.5),
    }
    assert 0 < np.count_nonzero(counted > 0.5) < 99
    assert found.weight == 99


def test_the_limit_of_framewise_displacement_is_exclusive() -> None:
    assert confounds(fd_table("n/a", 0.5, "0.50001", 0), 4).values["num_fd_above_0_5"] == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (tsv({"trans_x": 1, "rot_x": 2}), "expected a column framewise_displacement, found 'trans_x, rot_x'"),
        (fd_table("n/a", 1, 2, 3), "expected 3 rows, one for each volume, found 4"),
        (fd_table("n/a", 1, -0.1), "expected numbers of 0 or more, in mm, found '-0.1'"),
        (fd_table("n/a", 1, "nan"), "found 'nan'"),
        (fd_table("n/a", 1, "1e300"), "found '1e300'"),
        (fd_table("n/a", "n/a", ""), "expected values of framewise_displacement, found none"),
        ("<html>", "expected tabs between names of columns"),
    ],
)
def test_confounds_that_do_not_fit_the_scan_are_refused(text: str, found: str) -> None:
    with pytest.raises(InvalidData) as caught:
        confounds(text, 3)
    assert found in str(caught.value)


def test_quad_gives_motion_outliers_and_contrast_of_each_shell() -> None:
    found = eddy_quad(json.dumps(QUAD), 96)
    assert found.values == {
        "qc_mot_abs": 0.42, "qc_mot_rel": 0.19, "qc_outliers_tot": 1.25, "qc_vox_displ_std": 0.8,
        "qc_outliers_b700": 0.5, "qc_outliers_b2000": 2.0, "qc_cnr_avg_b0": 12.0, "qc_cnr_avg_b700": 2.5,
        "qc_cnr_avg_b2000": 1.75, "qc_cnr_std_b0": 1.0, "qc_cnr_std_b700": 0.25, "qc_cnr_std_b2000": 0.125,
    }  # fmt: skip
    assert {type(value) for value in found.values.values()} == {float}
    assert found.warnings == []


def test_shells_are_named_by_their_rounded_bvalue() -> None:
    assert "qc_outliers_b1000" in eddy_quad(json.dumps(QUAD | {"data_unique_bvals": [995, 2005.0]}), 96).values


@pytest.mark.parametrize(
    ("flag", "missing"),
    [
        ("qc_ol_flag", {"qc_outliers_tot", "qc_outliers_b700", "qc_outliers_b2000"}),
        ("qc_field_flag", {"qc_vox_displ_std"}),
        ("qc_cnr_flag", {f"qc_cnr_{kind}_b{shell}" for kind in ("avg", "std") for shell in (0, 700, 2000)}),
    ],
)
def test_what_eddy_did_not_estimate_is_left_out(flag: str, missing: set[str]) -> None:
    complete = eddy_quad(json.dumps(QUAD), 96).values
    found = eddy_quad(json.dumps(QUAD | {flag: False}), 96)
    assert complete.keys() - found.values.keys() == missing
    assert found.warnings == []


@pytest.mark.parametrize(
    ("changed", "missing", "warning"),
    [
        ({"qc_mot_abs": float("nan")}, {"qc_mot_abs"}, "qc_mot_abs: expected a finite number below 2^53, found nan"),
        ({"qc_mot_abs": 10**20}, {"qc_mot_abs"}, "found 100000000000000000000"),
        ({"qc_mot_abs": True}, {"qc_mot_abs"}, "found True"),
        ({"qc_mot_abs": "<b>1</b>"}, {"qc_mot_abs"}, "found '<b>1</b>'"),
        ({"qc_mot_abs": None}, {"qc_mot_abs"}, "found None"),
        ({"qc_vox_displ_std": [1, 2]}, {"qc_vox_displ_std"}, "found [1, 2]"),
        ({"qc_outliers_b": [1]}, {"qc_outliers_b700", "qc_outliers_b2000"}, "2 numbers, one per shell, found [1]"),
        ({"qc_outliers_b": [1, {}]}, {"qc_outliers_b2000"}, "qc_outliers_b2000: expected a finite number"),
    ],
)  # fmt: skip
def test_a_key_of_quad_that_cannot_be_used_is_left_out(
    changed: dict[str, Any], missing: set[str], warning: str
) -> None:
    complete = eddy_quad(json.dumps(QUAD), 96).values
    found = eddy_quad(json.dumps(QUAD | changed), 96)
    assert complete.keys() - found.values.keys() == missing
    assert [warning in one for one in found.warnings] == [True]


@pytest.mark.parametrize("shells", [None, [], 700, [700, 720], [0, 700], [700, float("inf")], ["700", 2000]])
def test_values_of_shells_need_their_bvalues(shells: object) -> None:
    found = eddy_quad(json.dumps(QUAD | {"data_unique_bvals": shells}), 96)
    assert set(found.values) == {"qc_mot_abs", "qc_mot_rel", "qc_outliers_tot", "qc_vox_displ_std"}
    assert set(found.warnings) == {found.warnings[0]}
    assert found.warnings[0].startswith("data_unique_bvals: expected the b-values of distinct shells, found ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "not JSON",
        "<html>",
        '{"mean_fd": {"Description": "..."}}',
        "[" * 100_000,
        '{"qc_mot_abs": ' + "9" * 5000,
    ],
    ids=["empty", "list", "text", "HTML", "data dictionary", "deep", "long number"],
)
def test_what_is_no_qc_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidData, match=r"qc\.json: expected (a JSON object|keys of eddy QUAD)"):
        eddy_quad(text, 96)


VALID: list[tuple[Callable[[str], QcValues], str]] = [
    (lambda text: image_qc(text, OWN, 4), tsv({"subject_id": "01", "mean_fd": 0.5, "num_slices": 2, "model": "a"})),
    (lambda text: confounds(text, 4), fd_table("n/a", 0.5, 1, 0.25)),
    (lambda text: eddy_quad(text, 4), json.dumps(QUAD)),
]  # fmt: skip
PIECES = ["", "\t", "\n", "\r", "n/a", "nan", "1e999", "-", '"', "{", "]", "<b>", "\x00", "\u2028", "9" * 400, "\ud800"]


@pytest.mark.parametrize(("read", "text"), VALID, ids=["image QC", "confounds", "eddy QUAD"])
def test_a_damaged_file_is_refused_or_gives_values_that_a_table_can_have(
    read: Callable[[str], QcValues], text: str
) -> None:
    """One to three places of a valid file are replaced; the values go into a row of a table."""
    random, accepted = np.random.default_rng(0), 0
    for _ in range(600):
        damaged = text
        for place in random.integers(0, len(text), random.integers(1, 4)):
            damaged = damaged[:place] + PIECES[random.integers(len(PIECES))] + damaged[place + random.integers(3) :]
        try:
            found = read(damaged)
        except InvalidData:
            continue
        accepted += 1
        kinds: dict[type, Kind] = {float: "number", int: "integer", str: "text"}
        row = {name: kinds[type(value)] for name, value in found.values.items()}
        assert not row or Table.from_rows([found.values], row).row_count == 1
    assert 50 < accepted < 550, "some of the damaged files are still valid, others are not"
