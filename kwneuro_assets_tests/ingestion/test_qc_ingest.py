"""Ingest notices QC files: a new data version of their scan, a warning for a bad one, and no more than that."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from dagster import DagsterInstance

from kwneuro_assets.cohort.run import run_subject
from kwneuro_assets.imaging import Dwi
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.resources.source_io_manager import SourceIOManager
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.records import Recorded, recorded
from kwneuro_assets_tests.ingestion.test_preprocessing_qc import KEY, ROW, write_qc
from kwneuro_assets_tests.ingestion.test_qc_values import QUAD, tsv
from kwneuro_assets_tests.testkit.small_dataset import dwi_folder, settings_for, write_dataset

SUBJECT = SubjectKey("01")


def write_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def link_nowhere(path: Path) -> None:
    path.symlink_to(".git/annex/objects/XX/YY/SHA256E-s3--abc.tsv")


def unreadable(path: Path) -> None:
    path.write_text(tsv(ROW))
    path.chmod(0)


@pytest.mark.parametrize(
    ("write", "warning"),
    [
        (write_bytes(b"<!DOCTYPE html><html><script>alert(1)</script>"), "expected tabs between names of columns"),
        (write_bytes(b""), "expected tabs between names of columns, found ''"),
        (write_bytes(b"\xff\x00\xfe\x01" * 9), "expected numbers as text, found other bytes"),
        (write_bytes(b"\x1f\x8b\x08\x00"), "expected numbers as text, found other bytes"),
        (write_bytes(tsv({**ROW, "subject_id": "sub-02"}).encode()), "expected one row of this scan, found 0"),
        (write_bytes(tsv(ROW, ROW).encode()), "expected one row of this scan, found 2"),
        (write_bytes(tsv({"mean_fd": "nan", "max_fd": "inf"}).encode()), "mean_fd: expected a finite number"),
        (write_bytes(b"version https://git-lfs.github.com/spec/v1\noid 1\n"), "found a Git LFS pointer"),
        (write_bytes(b"\t" * (8 << 20) + b"\n"), "file: expected at most 8388608 bytes, found 8388609"),
        (link_nowhere, "found a git-annex link without its content"),
        pytest.param(
            unreadable,
            "found Permission denied",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root reads all files"),
        ),
    ],
    ids=["HTML", "empty", "bytes", "gzip", "subject", "rows", "NaN", "LFS", "large", "annex", "unreadable"],
)
def test_a_bad_file_is_a_warning_and_the_scan_is_used(
    tmp_path: Path, instance: DagsterInstance, write: Callable[[Path], object], warning: str
) -> None:
    source = write_dataset(tmp_path / "source", [KEY])
    ingest(instance, settings_for(source))
    before = recorded(instance, "dwi", KEY, observed=True)
    write(dwi_folder(source, KEY) / "sub-01_desc-image_qc.tsv")
    report = ingest(instance, settings_for(source))
    assert report.unchanged == [KEY], "no value, so the data version stays"
    assert report.quarantined == {}
    assert warning in report.warnings[KEY][0]
    assert report.warnings[KEY][0].startswith("sub-01_desc-image_qc.tsv: ")
    after = recorded(instance, "dwi", KEY, observed=True)
    assert before is not None
    assert after is not None
    assert after.data_version == before.data_version
    assert warning in after.values["warnings"]


def observed(instance: DagsterInstance) -> Recorded:
    known = recorded(instance, "dwi", KEY, observed=True)
    assert known is not None
    return known


def test_an_added_changed_or_removed_qc_file_is_a_new_data_version_of_its_scan(
    tmp_path: Path, instance: DagsterInstance
) -> None:
    source = write_dataset(tmp_path / "source", [KEY, "sub-02"])
    settings = settings_for(source)
    ingest(instance, settings)
    versions = [observed(instance).data_version]
    table, quad = dwi_folder(source, KEY) / "sub-01_desc-image_qc.tsv", dwi_folder(source, KEY) / "eddy_quad"

    def ingested() -> list[str]:
        report = ingest(instance, settings)
        versions.append(observed(instance).data_version)
        assert report.unchanged == [key for key in (KEY, "sub-02") if key not in report.changed]
        return report.changed

    table.write_text(tsv(ROW))
    assert ingested() == [KEY]
    assert observed(instance).values["files"][3:] == ["sub-01/dwi/sub-01_desc-image_qc.tsv"]
    assert observed(instance).values["preprocessing_qc"] == "4 values"
    quad.mkdir()
    (quad / "qc.json").write_text(json.dumps(QUAD))
    assert ingested() == [KEY]
    (quad / "qc.json").write_text(json.dumps(QUAD | {"qc_mot_abs": 0.43}))
    assert ingested() == [KEY]
    assert len(set(versions)) == 4
    (quad / "qc.json").write_text(json.dumps(QUAD | {"qc_mot_abs": 0.43, "qc_path": "/elsewhere"}))
    assert ingested() == [], "another file, but the same values"
    (quad / "qc.json").unlink()
    assert ingested() == [KEY]
    assert versions[-1] == versions[1]
    table.unlink()
    assert ingested() == [KEY]
    assert versions[-1] == versions[0]
    assert "preprocessing_qc" not in observed(instance).values


def test_downstream_of_the_denoised_dwi_nothing_is_computed_again(tmp_path: Path, instance: DagsterInstance) -> None:
    source = write_dataset(tmp_path / "source", [KEY])
    settings = settings_for(source)
    steps = ["denoised_dwi", "mean_b0"]
    ingest(instance, settings)
    run_subject(instance, settings, KEY, steps)
    before = DerivativeStore(tmp_path / "store").sidecar("denoised_dwi", SUBJECT)
    write_qc(source)
    assert ingest(instance, settings).changed == [KEY]
    assert [result.outcome for result in run_subject(instance, settings, KEY, steps)] == ["materialized", "skipped"]
    after = DerivativeStore(tmp_path / "store").sidecar("denoised_dwi", SUBJECT)
    assert before is not None
    assert after is not None
    assert after.data_version == before.data_version


def loaded(instance: DagsterInstance, settings: PipelineSettings) -> Dwi:
    """The raw DWI as a step gets it."""
    value = SourceIOManager.of(settings.source)._load("dwi", KEY, observed(instance))
    assert isinstance(value, Dwi)
    return value


def test_a_step_gets_the_values_of_the_observed_files(tmp_path: Path, instance: DagsterInstance) -> None:
    source = write_dataset(tmp_path / "source", [KEY])
    write_qc(source)
    ingest(instance, settings_for(source))
    assert loaded(instance, settings_for(source)).preprocessing["qsiprep_mean_fd"] == 0.25
    (dwi_folder(source, KEY) / "sub-01_desc-image_qc.tsv").write_text(tsv({**ROW, "mean_fd": 0.5}))
    with pytest.raises(Exception, match="dwi of sub-01 has changed since it was observed"):
        loaded(instance, settings_for(source))
