"""Ingest opens only changed files, completes what an interrupted one left, and excludes a second process."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dagster import AssetCheckKey, AssetKey, AssetRecordsFilter, DagsterInstance

from kwneuro_assets.ingestion import ingest as ingest_module
from kwneuro_assets.ingestion import ingest_index as index_module
from kwneuro_assets.ingestion import subject_files as files_module
from kwneuro_assets.ingestion.background import Background
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.ingest_index import IngestIndex, ingest_lock, unusable_subjects
from kwneuro_assets.ingestion.ingest_report import IngestReport
from kwneuro_assets.ingestion.read_source import ScannedDwi, scan_dwi
from kwneuro_assets.versioning.dagster_internals import read_values, write_values
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import FIRST_SCAN, recorded
from kwneuro_assets_tests.testkit.small_dataset import dwi_folder, settings_for, table, write_dataset, write_series

KEYS = ["sub-01", "sub-02", "sub-03"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "source", KEYS)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subjects whose files were read."""
    keys: list[str] = []

    def noting_scan(dataset: Any, series: Any, **options: Any) -> ScannedDwi:
        keys.append(str(series.subject))
        return scan_dwi(dataset, series, **options)

    monkeypatch.setattr(files_module, "scan_dwi", noting_scan)
    return keys


def events(instance: DagsterInstance, key: str) -> list[dict[str, Any]]:
    """The observations of `dwi` of a subject, oldest first: version and metadata."""
    wanted = AssetRecordsFilter(asset_key=AssetKey("dwi"), asset_partitions=[key])
    found = []
    for record in reversed(instance.fetch_observations(wanted, limit=100).records):
        event = record.asset_observation
        assert event is not None
        metadata = {name: one.value for name, one in event.metadata.items()}
        found.append({"version": (event.tags or {}).get("dagster/data_version"), **metadata})
    return found


def bvec(source: Path, key: str) -> Path:
    return dwi_folder(source, key) / f"{key}_dwi.bvec"


def test_only_files_that_changed_are_opened(instance: DagsterInstance, source: Path, opened: list[str]) -> None:
    ingest(instance, settings_for(source))
    assert sorted(opened) == KEYS
    opened.clear()
    assert ingest(instance, settings_for(source)).unchanged == KEYS
    assert opened == []
    bvec(source, "sub-02").touch()
    assert ingest(instance, settings_for(source)).unchanged == KEYS
    assert opened == ["sub-02"], "touched: read, and the content is the same"
    np.savetxt(bvec(source, "sub-03"), -np.loadtxt(bvec(source, "sub-03")))
    assert ingest(instance, settings_for(source)).changed == ["sub-03"]
    assert opened == ["sub-02", "sub-03"]


def test_a_missing_ingest_index_is_rebuilt_without_new_observations(
    instance: DagsterInstance, source: Path, opened: list[str]
) -> None:
    ingest(instance, settings_for(source))
    index = IngestIndex(instance, settings_for(source))
    index.forget(KEYS)
    index.save()
    assert ingest(instance, settings_for(source)).unchanged == KEYS
    assert len(opened) == 6
    assert [len(events(instance, key)) for key in KEYS] == [1, 1, 1]


@pytest.mark.parametrize(
    "older",
    [
        '{"fingerprints":"ab","age":1.0,"versions":{"dwi":"cd"},"mark":""}',
        '["a list"]',
        '"text"',
        "not JSON",
        "",
    ],
    ids=["other keys", "list", "string", "no JSON", "empty"],
)
def test_an_ingest_index_of_an_older_form_is_rebuilt_by_one_scan(
    instance: DagsterInstance, source: Path, opened: list[str], older: str
) -> None:
    ingest(instance, settings_for(source))
    stored = [name for name in read_values(instance, index_module._PREFIX) if name.endswith("/sub-02")]
    write_values(instance, dict.fromkeys(stored, older))
    assert len(stored) == 1
    assert unusable_subjects(instance, settings_for(source)) == {}
    opened.clear()
    assert ingest(instance, settings_for(source)).unchanged == KEYS
    assert opened == ["sub-02"]
    assert [len(events(instance, key)) for key in KEYS] == [1, 1, 1]


def test_a_rescan_reads_all_files_again_once(instance: DagsterInstance, source: Path, opened: list[str]) -> None:
    ingest(instance, settings_for(source))
    opened.clear()
    began = time.time()
    assert ingest(instance, settings_for(source), reread_before=began).unchanged == KEYS
    assert sorted(opened) == KEYS
    ingest(instance, settings_for(source), reread_before=began)
    assert sorted(opened) == KEYS


def test_an_ingest_that_reaches_its_time_limit_is_completed_by_the_next(
    instance: DagsterInstance, source: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(ingest_module, "WORKERS", 1)
    added: list[str] = []
    reports: list[IngestReport] = []
    while len(added) < 3:
        assert len(reports) < 100
        reports.append(ingest(instance, settings_for(source), seconds=0.05))
        added += reports[-1].added
    assert sorted(added) == KEYS
    assert sorted(opened) == KEYS, "a read that outlasts the time limit is used by the next ingest"
    assert [len(events(instance, key)) for key in KEYS] == [1, 1, 1]


def test_a_crash_between_observation_and_partition_loses_no_subject(
    instance: DagsterInstance, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(DagsterInstance, "add_dynamic_partitions", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest(instance, settings_for(source))
    assert list(instance.get_dynamic_partitions(PARTITIONS)) == []
    assert ingest(instance, settings_for(source)).added == KEYS


def test_a_file_that_changes_while_it_is_read_is_not_ingested(
    instance: DagsterInstance, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing_scan(dataset: Any, series: Any, **options: Any) -> ScannedDwi:
        found = scan_dwi(dataset, series, **options)
        if str(series.subject) == "sub-02":
            bvec(source, "sub-02").write_bytes(bvec(source, "sub-02").read_bytes())
        return found

    monkeypatch.setattr(files_module, "scan_dwi", changing_scan)
    report = ingest(instance, settings_for(source), seconds=20)
    assert report.added == ["sub-01", "sub-03"]
    assert report.arriving == {"sub-02": "its files changed while they were read"}
    assert report.to_json()["quarantined"] == report.arriving


def test_one_process_at_a_time_ingests(instance: DagsterInstance, source: Path) -> None:
    messages: list[str] = []
    with ingest_lock(instance, wait=lambda attempt: False) as heartbeat:
        assert heartbeat is not None
        assert ingest(instance, settings_for(source), seconds=5) == IngestReport(is_busy=True)
        waiting = threading.Thread(target=lambda: ingest(instance, settings_for(source), on_message=messages.append))
        waiting.start()
        time.sleep(2.5)
    waiting.join()
    assert messages == ["another process is ingesting; waiting for it"]
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == KEYS


def test_the_lock_of_a_process_without_heartbeat_passes_to_another(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "LOCK_SECONDS", 0.3)
    monkeypatch.setattr(index_module, "_HEARTBEAT_SECONDS", 0.0)
    with ingest_lock(instance, wait=lambda attempt: False) as first:
        assert first is not None
        time.sleep(0.4)
        with ingest_lock(instance, wait=lambda attempt: False) as second:
            assert second is not None
            with pytest.raises(index_module.LockLost):
                first()
            second()


def test_a_removed_subject_is_reported_once_and_returns_unchanged(instance: DagsterInstance, source: Path) -> None:
    ingest(instance, settings_for(source))
    (source / "sub-02").rename(source.parent / "away")
    for _ in range(2):
        assert ingest(instance, settings_for(source)).removed == ["sub-02"]
    version = events(instance, "sub-02")[0]["version"]
    assert events(instance, "sub-02")[1:] == [{"version": version, "removed": "it is no longer in the source"}]
    assert [one.problem for one in unusable_subjects(instance, settings_for(source)).values()] == ["removed"]
    (source.parent / "away").rename(source / "sub-02")
    assert ingest(instance, settings_for(source)).unchanged == KEYS
    assert unusable_subjects(instance, settings_for(source)) == {}
    newest = recorded(instance, "dwi", "sub-02", observed=True)
    assert newest is not None
    assert newest.data_version == version
    assert "removed" not in newest.values


def test_a_source_that_is_suddenly_empty_marks_no_subject(instance: DagsterInstance, source: Path) -> None:
    ingest(instance, settings_for(source))
    for key in KEYS:
        shutil.rmtree(source / key)
    assert ingest(instance, settings_for(source)).removed == KEYS
    assert [len(events(instance, key)) for key in KEYS] == [1, 1, 1]


def test_a_quarantine_is_recorded_once_with_its_reason_and_ends_with_it(
    instance: DagsterInstance, source: Path
) -> None:
    ingest(instance, settings_for(source))
    original = bvec(source, "sub-02").read_text()
    bvec(source, "sub-02").write_text("1 2 3\n")
    write_series(source, "sub-04", directions=table((1000.0,), 3))
    for _ in range(2):
        report = ingest(instance, settings_for(source))
        assert list(report.quarantined) == ["sub-02", "sub-04"]
    version = events(instance, "sub-02")[0]["version"]
    assert events(instance, "sub-02")[1:] == [{"version": version, "quarantined": report.quarantined["sub-02"]}]
    assert events(instance, "sub-04") == [{"version": None, "quarantined": report.quarantined["sub-04"]}]
    assert "sub-04" not in instance.get_dynamic_partitions(PARTITIONS)
    check = AssetCheckKey(AssetKey("dwi"), "quarantine")
    [record] = instance.event_log_storage.get_asset_check_execution_history(check, limit=10)[:1]
    assert record.event is not None
    evaluation = record.event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    assert not evaluation.passed
    assert evaluation.metadata["subjects in quarantine"].value == 2
    assert evaluation.metadata["newest"].value.startswith("sub-0")
    bvec(source, "sub-02").write_text(original)
    shutil.rmtree(source / "sub-04")
    assert ingest(instance, settings_for(source)).unchanged == KEYS
    assert "quarantined" not in events(instance, "sub-02")[-1]
    newest = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)[0].event
    assert newest is not None
    assert newest.dagster_event.asset_check_evaluation_data.passed  # type: ignore[union-attr]


def test_a_new_subject_in_quarantine_is_added_when_it_is_corrected(instance: DagsterInstance, source: Path) -> None:
    bvec(source, "sub-02").rename(source / "hidden")
    assert ingest(instance, settings_for(source)).added == ["sub-01", "sub-03"]
    (source / "hidden").rename(bvec(source, "sub-02"))
    assert ingest(instance, settings_for(source)).added == ["sub-02"]
    assert [FIRST_SCAN in one for one in events(instance, "sub-02")] == [False, True]


INSANE: dict[str, tuple[dict[str, Any], dict[str, object], str]] = {
    "few directions": ({"directions": table((1000.0,), 5)}, {}, "at least 6 distinct ones, found 5"),
    "few b=0": ({}, {"min_b0": 3}, "at least 3 volumes with b <= 50 s/mm^2, found 2"),
    "voxels in micrometers": ({"affine": np.diag([2000.0, 2000, 2000, 1])}, {}, "edges of 0.05 to 10 mm, found 2e+03"),
    "voxels in meters": ({"affine": np.diag([0.002, 0.002, 0.002, 1])}, {}, "found 0.002 x 0.002 x 0.002"),
}


@pytest.mark.parametrize(("series", "checks", "message"), INSANE.values(), ids=list(INSANE))
def test_insane_values_are_refused_with_what_was_found(
    instance: DagsterInstance, tmp_path: Path, series: dict[str, Any], checks: dict[str, object], message: str
) -> None:
    write_series(tmp_path / "source", "sub-01", **series)
    settings = settings_for(tmp_path / "source", brain_mask={"method": "median-otsu"}, checks=checks)
    assert message in ingest(instance, settings).quarantined["sub-01"]


def test_doubtful_values_give_warnings(instance: DagsterInstance, tmp_path: Path) -> None:
    write_series(tmp_path / "source", "sub-01", affine=np.diag([2.0, 2, 8, 1]), directions=table((1000.0, 2000.0), 5))
    settings = settings_for(tmp_path / "source", brain_mask={"method": "median-otsu"})
    report = ingest(instance, settings)
    assert report.added == ["sub-01"]
    assert report.warnings["sub-01"] == (
        "voxels of 2 x 2 x 8 mm blur fibers along their longest edge",
        "the shell b=1000 has 5 directions: too few for a tensor",
        "the shell b=2000 has 5 directions: too few for a tensor",
    )
    [event] = events(instance, "sub-01")
    assert event["warnings"].count("\n") == 2
    assert (event["grid"], event["voxel_mm"], event["shells"]) == (
        "8 x 7 x 6", "2 x 2 x 8", "2 of b=0, 5 of b=1000, 5 of b=2000",
    )  # fmt: skip


def test_a_name_that_is_no_unicode_is_quarantined_and_stored(instance: DagsterInstance, source: Path) -> None:
    folder = source / os.fsdecode(b"sub-\xff") / "dwi"
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"sub-\xff_dwi.nii.gz")).touch()
    report = ingest(instance, settings_for(source))
    assert list(report.quarantined) == ["sub-\\udcff"]
    json.dumps(report.to_json()).encode()
    assert list(unusable_subjects(instance, settings_for(source))) == ["sub-\\udcff"]


def test_background_work_is_submitted_once_and_collected_later() -> None:
    background, gate, calls = Background(), threading.Event(), []

    def work() -> int:
        calls.append(1)
        gate.wait(30)
        return 7

    first = background.submit("a", "x", work)
    assert background.submit("a", "x", work) is first
    gate.set()
    assert first.result() == 7
    background.discard("a", "x")
    assert background.submit("a", "x", work).result() == 7
    assert len(calls) == 2
