"""QC files beside a DWI series become values of the raw DWI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from kwneuro_assets.derivations.denoise import patch2self
from kwneuro_assets.imaging import Dwi, StreamedVolume, streamed
from kwneuro_assets.ingestion.custom_layout import open_dataset
from kwneuro_assets.ingestion.read_source import ScannedDwi, read_dwi, scan_dwi
from kwneuro_assets.ingestion.series import recorded_series
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets_tests.ingestion.test_qc_values import QUAD, fd_table, tsv
from kwneuro_assets_tests.testkit.s3_server import S3Bucket
from kwneuro_assets_tests.testkit.small_dataset import dwi_folder, write_series

KEY = "sub-01"
VOLUMES = 26  # of each run of the small dataset
ROW = {"subject_id": "sub-01", "mean_fd": 0.25, "max_fd": 1.5, "raw_num_bad_slices": 3, "t1_neighbor_corr": 0.75}
VALUES = {"mean_fd": 0.25, "max_fd": 1.5, "raw_num_bad_slices": 3, "t1_neighbor_corr": 0.75}


def fd(*values: float) -> str:
    """A confounds table of one run; `values` repeat."""
    return fd_table("n/a", *np.resize(values, VOLUMES - 1))


def write_qc(root: Path, stem: str = KEY, key: str = KEY) -> None:
    """QC files of all three programs, as QSIPrep and eddy QUAD name them, for a row and summary without warnings."""
    folder = dwi_folder(root, key)
    (folder / f"{stem}_desc-image_qc.tsv").write_text(tsv({**ROW, "subject_id": key.partition("_")[0]}))
    (folder / f"{stem}_desc-confounds_timeseries.tsv").write_text(fd(0.25, 0.75))
    quad = folder / f"{stem}_dwi.qc"
    quad.mkdir(exist_ok=True)
    (quad / "qc.json").write_text(json.dumps(QUAD))


def read_both(root: Path | UPath | str, **source: object) -> tuple[Dwi, ScannedDwi]:
    """The DWI as it is read and as it is scanned; both must agree."""
    dataset = open_dataset(SourceSettings(url=str(root), **source))
    series = dataset.series(dataset.subjects()[0][0])
    dwi, version = read_dwi(dataset, series)
    scanned = scan_dwi(dataset, series)
    assert (version, dict(dwi.preprocessing)) == (scanned.version, dict(scanned.preprocessing))
    names = [dataset.relative(path) for path in series.files()]
    assert recorded_series(dataset.root, series.subject, names).qc_files == series.qc_files
    assert read_dwi(dataset, recorded_series(dataset.root, series.subject, names))[1] == version
    return dwi, scanned


def test_values_of_all_programs_are_taken_in_with_their_prefixes(tmp_path: Path) -> None:
    write_series(tmp_path)
    before, _ = read_both(tmp_path)
    assert before.preprocessing == {}
    write_qc(tmp_path)
    dwi, scanned = read_both(tmp_path)
    quad = {name: value for name, value in dwi.preprocessing.items() if name.startswith("eddy_")}
    assert quad["eddy_qc_mot_abs"] == 0.42
    assert quad["eddy_qc_cnr_avg_b2000"] == 1.75
    assert len(quad) == 12
    assert {name: value for name, value in dwi.preprocessing.items() if name not in quad} == {
        **{f"qsiprep_{name}": value for name, value in VALUES.items()},
        "confounds_mean_fd": pytest.approx((13 * 0.25 + 12 * 0.75) / 25, rel=1e-15),
        "confounds_max_fd": 0.75,
        "confounds_num_fd": 25,
        "confounds_num_fd_above_0_5": 12,
    }
    assert scanned.warnings == ()


def write_runs(root: Path) -> Path:
    for run in ("run-1", "run-2"):
        write_series(root, entities=run)
    return dwi_folder(root, KEY)


def test_runs_are_summarized_by_one_value(tmp_path: Path) -> None:
    folder = write_runs(tmp_path)
    for number, row in ((1, {**ROW, "model": "eddy"}), (2, {**ROW, "model": "eddy", "mean_fd": 0.75, "max_fd": 1})):
        (folder / f"sub-01_run-{number}_desc-image_qc.tsv").write_text(tsv(row))
    (folder / "sub-01_run-1_confounds.tsv").write_text(fd(0.5))
    (folder / "sub-01_run-2_confounds.tsv").write_text(fd_table(*["n/a"] * 21, 2, 1, 0, 0, 0))
    dwi, scanned = read_both(tmp_path)
    assert dwi.preprocessing == {
        "qsiprep_mean_fd": 0.5,
        "qsiprep_max_fd": 1.5,
        "qsiprep_raw_num_bad_slices": 6,
        "qsiprep_t1_neighbor_corr": 0.75,
        "qsiprep_model": "eddy",
        "confounds_mean_fd": pytest.approx((25 * 0.5 + 5 * 0.6) / 30, rel=1e-15),
        "confounds_max_fd": 2.0,
        "confounds_num_fd": 30,
        "confounds_num_fd_above_0_5": 2,
    }
    assert scanned.warnings == ()


def test_a_file_of_all_runs_is_read_once(tmp_path: Path) -> None:
    folder = write_runs(tmp_path)
    (folder / "sub-01_desc-image_qc.tsv").write_text(tsv(ROW))
    (folder / "sub-01_confounds.tsv").write_text(fd_table("n/a", *[0.25] * (2 * VOLUMES - 1)))
    dwi, scanned = read_both(tmp_path)
    assert dwi.preprocessing["qsiprep_raw_num_bad_slices"] == 3
    assert dwi.preprocessing["confounds_num_fd"] == 2 * VOLUMES - 1
    assert scanned.warnings == ()


def test_values_that_would_describe_a_part_of_the_runs_are_left_out(tmp_path: Path) -> None:
    folder = write_runs(tmp_path)
    (folder / "sub-01_run-1_desc-image_qc.tsv").write_text(tsv({**ROW, "model": "eddy", "extra": 1}))
    (folder / "sub-01_run-2_desc-image_qc.tsv").write_text(tsv({**ROW, "model": "shoreline", "extra": "n/a"}))
    (folder / "sub-01_run-2_confounds.tsv").write_text(fd(0.5))
    (folder / "sub-01_run-1_qc.json").write_text(json.dumps(QUAD))
    (folder / "sub-01_run-2_qc.json").write_text("not JSON")
    dwi, scanned = read_both(tmp_path)
    assert dwi.preprocessing == {f"qsiprep_{name}": 6 if "num" in name else value for name, value in VALUES.items()}
    assert scanned.warnings == (
        "model, extra cannot be joined from sub-01_run-1_desc-image_qc.tsv, sub-01_run-2_desc-image_qc.tsv: left out",
        "sub-01_run-1_dwi.nii.gz has no file of its confounds: those of the other runs are not read",
        "sub-01_run-2_qc.json: qc.json: expected a JSON object, found 'not JSON': left out",
    )


def test_of_several_equally_good_files_none_is_read(tmp_path: Path) -> None:
    write_series(tmp_path, entities="acq-a_dir-AP")
    for entity in ("acq-a", "dir-AP"):
        (dwi_folder(tmp_path, KEY) / f"sub-01_{entity}_desc-image_qc.tsv").write_text(tsv(ROW))
    dwi, scanned = read_both(tmp_path)
    assert dwi.preprocessing == {}
    [warning] = scanned.warnings
    assert "has several files of its image QC (sub-01_acq-a_desc-image_qc.tsv, sub-01_dir-AP_desc" in warning


def test_a_large_series_has_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path)
    write_qc(tmp_path)
    in_memory, _ = read_both(tmp_path)
    monkeypatch.setattr(streamed, "LARGE", 1)
    large, _ = read_both(tmp_path)
    assert isinstance(large.volume, StreamedVolume)
    assert large.preprocessing == in_memory.preprocessing
    assert patch2self(large).preprocessing == {}


def test_files_in_a_bucket_give_the_same_as_local_ones(tmp_path: Path, s3_bucket: S3Bucket) -> None:
    write_series(tmp_path)
    write_qc(tmp_path)
    for path in tmp_path.rglob("*.*"):
        if path.is_file():
            key = f"study/{path.relative_to(tmp_path).as_posix()}"
            s3_bucket.server.client.put_object(Bucket=s3_bucket.name, Key=key, Body=path.read_bytes())
    local, remote = read_both(tmp_path), read_both(f"{s3_bucket.url}/study")
    assert remote[0].preprocessing == local[0].preprocessing
    assert remote[1].version == local[1].version
    assert len(local[0].preprocessing) == 20
