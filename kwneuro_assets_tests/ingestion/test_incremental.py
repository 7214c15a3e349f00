"""A look opens only what changed, is completed by the next where it is cut short, and two at once do no harm."""

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
from kwneuro_assets.ingestion import ledger as ledger_module
from kwneuro_assets.ingestion.background import Background
from kwneuro_assets.ingestion.ingest import IngestReport, ingest
from kwneuro_assets.ingestion.ledger import Ledger, set_aside, turn
from kwneuro_assets.ingestion.read import DwiLook, look_at_dwi
from kwneuro_assets.subjects import PARTITIONS
from kwneuro_assets.versioning.records import FIRST_LOOK, recorded
from kwneuro_assets_tests.small_dataset import dwi_folder, settings_for, table, write_dataset, write_series

KEYS = ["sub-01", "sub-02", "sub-03"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "source", KEYS)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subjects whose files were read."""
    seen: list[str] = []

    def look(dataset: Any, series: Any, **options: Any) -> DwiLook:
        seen.append(str(series.subject))
        return look_at_dwi(dataset, series, **options)

    monkeypatch.setattr(ingest_module, "look_at_dwi", look)
    return seen


def events(instance: DagsterInstance, key: str) -> list[dict[str, Any]]:
    """What was observed of `dwi` of a subject, oldest first: its version, and the metadata."""
    wanted = AssetRecordsFilter(asset_key=AssetKey("dwi"), asset_partitions=[key])
    found = []
    for record in reversed(instance.fetch_observations(wanted, limit=100).records):
        event = record.asset_observation
        assert event is not None
        told = {name: one.value for name, one in event.metadata.items()}
        found.append({"version": (event.tags or {}).get("dagster/data_version"), **told})
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
    assert opened == ["sub-02"], "touched: read, and found to be the same"
    np.savetxt(bvec(source, "sub-03"), -np.loadtxt(bvec(source, "sub-03")))
    assert ingest(instance, settings_for(source)).changed == ["sub-03"]
    assert opened == ["sub-02", "sub-03"]


def test_what_is_remembered_is_no_more_than_a_memory(
    instance: DagsterInstance, source: Path, opened: list[str]
) -> None:
    ingest(instance, settings_for(source))
    ledger = Ledger(instance, settings_for(source))
    ledger.forget(KEYS)
    ledger.save()
    assert ingest(instance, settings_for(source)).unchanged == KEYS
    assert len(opened) == 6
    assert [len(events(instance, key)) for key in KEYS] == [1, 1, 1]


def test_a_whole_look_reads_everything_that_was_read_before(
    instance: DagsterInstance, source: Path, opened: list[str]
) -> None:
    ingest(instance, settings_for(source))
    opened.clear()
    began = time.time()
    assert ingest(instance, settings_for(source), anew_since=began).unchanged == KEYS
    assert sorted(opened) == KEYS
    ingest(instance, settings_for(source), anew_since=began)
    assert sorted(opened) == KEYS, "once"


def test_a_look_that_is_cut_short_is_completed_by_the_next(
    instance: DagsterInstance, source: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    monkeypatch.setattr(ingest_module, "WORKERS", 1)
    added: list[str] = []
    looks: list[IngestReport] = []
    while len(added) < 3:
        assert len(looks) < 100
        looks.append(ingest(instance, settings_for(source), seconds=0.05))
        added += looks[-1].added
    assert sorted(added) == KEYS
    assert sorted(opened) == KEYS, "what was read when the time was over is taken by the next look"
    assert [len(events(instance, key)) for key in KEYS] == [1, 1, 1]


def test_a_crash_between_what_is_observed_and_the_partition_leaves_nobody_out(
    instance: DagsterInstance, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(DagsterInstance, "add_dynamic_partitions", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest(instance, settings_for(source))
    assert list(instance.get_dynamic_partitions(PARTITIONS)) == []
    assert ingest(instance, settings_for(source)).added == KEYS


def test_a_file_that_changes_while_it_is_read_is_not_taken_in(
    instance: DagsterInstance, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(dataset: Any, series: Any, **options: Any) -> DwiLook:
        found = look_at_dwi(dataset, series, **options)
        if str(series.subject) == "sub-02":
            bvec(source, "sub-02").write_bytes(bvec(source, "sub-02").read_bytes())
        return found

    monkeypatch.setattr(ingest_module, "look_at_dwi", look)
    report = ingest(instance, settings_for(source), seconds=20)
    assert report.added == ["sub-01", "sub-03"]
    assert report.arriving == {"sub-02": "its files changed while they were read"}
    assert report.to_json()["quarantined"] == report.arriving


def test_one_process_at_a_time_looks(instance: DagsterInstance, source: Path) -> None:
    told: list[str] = []
    with turn(instance, wait=lambda number: False) as mine:
        assert mine is not None
        assert ingest(instance, settings_for(source), seconds=5) == IngestReport(is_busy=True)
        waiting = threading.Thread(target=lambda: ingest(instance, settings_for(source), tell=told.append))
        waiting.start()
        time.sleep(2.5)
    waiting.join()
    assert told == ["another process looks at the source; waiting for it"]
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == KEYS


def test_the_turn_of_a_process_that_ended_passes_to_another(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "TURN_SECONDS", 0.3)
    monkeypatch.setattr(ledger_module, "_RENEWED_AFTER", 0.0)
    with turn(instance, wait=lambda number: False) as first:
        assert first is not None
        time.sleep(0.4)
        with turn(instance, wait=lambda number: False) as second:
            assert second is not None
            with pytest.raises(ledger_module.TurnLost):
                first()
            second()


def test_a_subject_that_is_gone_is_marked_once_and_comes_back_as_it_was(
    instance: DagsterInstance, source: Path
) -> None:
    ingest(instance, settings_for(source))
    (source / "sub-02").rename(source.parent / "away")
    for _ in range(2):
        assert ingest(instance, settings_for(source)).removed == ["sub-02"]
    version = events(instance, "sub-02")[0]["version"]
    assert events(instance, "sub-02")[1:] == [{"version": version, "removed": "it is no longer in the source"}]
    assert [one.mark for one in set_aside(instance, settings_for(source)).values()] == ["removed"]
    (source.parent / "away").rename(source / "sub-02")
    assert ingest(instance, settings_for(source)).unchanged == KEYS
    assert set_aside(instance, settings_for(source)) == {}
    newest = recorded(instance, "dwi", "sub-02", observed=True)
    assert newest is not None
    assert newest.data_version == version
    assert "removed" not in newest.values


def test_a_source_that_is_empty_all_at_once_marks_nobody(instance: DagsterInstance, source: Path) -> None:
    ingest(instance, settings_for(source))
    for key in KEYS:
        shutil.rmtree(source / key)
    assert ingest(instance, settings_for(source)).removed == KEYS
    assert [len(events(instance, key)) for key in KEYS] == [1, 1, 1]


def test_quarantine_is_told_in_the_log_once_with_its_reason_and_ends_with_it(
    instance: DagsterInstance, source: Path
) -> None:
    ingest(instance, settings_for(source))
    kept = bvec(source, "sub-02").read_text()
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
    told = record.event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    assert not told.passed
    assert told.metadata["subjects in quarantine"].value == 2
    assert told.metadata["newest"].value.startswith("sub-0")
    bvec(source, "sub-02").write_text(kept)
    shutil.rmtree(source / "sub-04")
    assert ingest(instance, settings_for(source)).unchanged == KEYS
    assert "quarantined" not in events(instance, "sub-02")[-1]
    newest = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)[0].event
    assert newest is not None
    assert newest.dagster_event.asset_check_evaluation_data.passed  # type: ignore[union-attr]


def test_a_quarantined_newcomer_begins_its_life_when_it_is_good(instance: DagsterInstance, source: Path) -> None:
    bvec(source, "sub-02").rename(source / "kept")
    assert ingest(instance, settings_for(source)).added == ["sub-01", "sub-03"]
    (source / "kept").rename(bvec(source, "sub-02"))
    assert ingest(instance, settings_for(source)).added == ["sub-02"]
    assert [FIRST_LOOK in one for one in events(instance, "sub-02")] == [False, True]


IMPLAUSIBLE: dict[str, tuple[dict[str, Any], dict[str, object], str]] = {
    "few directions": ({"directions": table((1000.0,), 5)}, {}, "at least 6 distinct ones, found 5"),
    "few b=0": ({}, {"minimum_b0": 3}, "at least 3 volumes with b <= 50 s/mm^2, found 2"),
    "voxels in micrometres": ({"affine": np.diag([2000.0, 2000, 2000, 1])}, {}, "edges of 0.05 to 10 mm, found 2e+03"),
    "voxels in metres": ({"affine": np.diag([0.002, 0.002, 0.002, 1])}, {}, "found 0.002 x 0.002 x 0.002"),
}


@pytest.mark.parametrize(("series", "checks", "told"), IMPLAUSIBLE.values(), ids=list(IMPLAUSIBLE))
def test_what_cannot_be_is_refused_with_what_was_found(
    instance: DagsterInstance, tmp_path: Path, series: dict[str, Any], checks: dict[str, object], told: str
) -> None:
    write_series(tmp_path / "source", "sub-01", **series)
    settings = settings_for(tmp_path / "source", brain_mask={"method": "median-otsu"}, checks=checks)
    assert told in ingest(instance, settings).quarantined["sub-01"]


def test_what_a_person_should_look_at_is_a_warning(instance: DagsterInstance, tmp_path: Path) -> None:
    write_series(tmp_path / "source", "sub-01", affine=np.diag([2.0, 2, 8, 1]), directions=table((1000.0, 2000.0), 5))
    settings = settings_for(tmp_path / "source", brain_mask={"method": "median-otsu"})
    report = ingest(instance, settings)
    assert report.added == ["sub-01"]
    assert report.warnings["sub-01"] == (
        "voxels of 2 x 2 x 8 mm hide fibres along their longest edge",
        "the shell b=1000 has 5 directions: too few for a tensor",
        "the shell b=2000 has 5 directions: too few for a tensor",
    )
    [event] = events(instance, "sub-01")
    assert event["warnings"].count("\n") == 2
    assert (event["grid"], event["voxel_mm"], event["shells"]) == (
        "8 x 7 x 6", "2 x 2 x 8", "2 of b=0, 5 of b=1000, 5 of b=2000",
    )  # fmt: skip


def test_a_name_that_is_no_text_is_quarantined_and_kept(instance: DagsterInstance, source: Path) -> None:
    folder = source / os.fsdecode(b"sub-\xff") / "dwi"
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"sub-\xff_dwi.nii.gz")).touch()
    report = ingest(instance, settings_for(source))
    assert list(report.quarantined) == ["sub-\\udcff"]
    json.dumps(report.to_json()).encode()
    assert list(set_aside(instance, settings_for(source))) == ["sub-\\udcff"]


def test_work_in_the_background_is_asked_for_once_and_taken_later() -> None:
    background, gate, calls = Background(), threading.Event(), []

    def work() -> int:
        calls.append(1)
        gate.wait(30)
        return 7

    first = background.ask("a", "x", work)
    assert background.ask("a", "x", work) is first
    gate.set()
    assert first.result() == 7
    background.take("a", "x")
    assert background.ask("a", "x", work).result() == 7
    assert len(calls) == 2
