"""The ingestion sensor and the schedule as a code server evaluates them, and the command `ingest`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dagster import DagsterInstance, DefaultScheduleStatus, DefaultSensorStatus

from kwneuro_assets.automation.ingestion_sensor import RESCAN, SENSOR
from kwneuro_assets.definitions import build
from kwneuro_assets.settings import load_settings
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.small_dataset import dwi_folder, write_dataset, write_mask, write_series
from kwneuro_assets_tests.testkit.ticking import requested_steps, tick

NAMED = "sub-01_ses-pre"
ENTITIES = "acq-98dir_dir-AP_run-2"
SELECTED = ["denoised_dwi", "mean_b0", "brain_mask", "dti"]
TREE: dict[str, dict[str, object]] = {
    "denoising": {"method": "none"},
    "brain_mask": {"method": "provided"},
    "ingestion": {"settle_seconds": 0},
    "automation": {"select": ",".join(SELECTED)},
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.write_settings(TREE)
    write_dataset(project.source, ["sub-01", "sub-02"])
    return project


@pytest.fixture
def instance(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    (project.home / "dagster").mkdir()
    (project.home / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("KWNEURO_SETTINGS", str(project.home / "settings.yaml"))
    monkeypatch.setenv("KWNEURO_SOURCE", str(project.source))
    monkeypatch.setenv("KWNEURO_STORE", str(project.store))
    with DagsterInstance.from_config(str(project.home / "dagster")) as one:
        yield one


def message(instance: DagsterInstance) -> str:
    """The message of a tick of the ingestion sensor."""
    return str(tick(instance, name=SENSOR).skip_message)


def test_sensor_and_schedule_are_off_by_default_and_follow_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_INGESTION__INTERVAL_SECONDS", "77")
    monkeypatch.setenv("KWNEURO_INGESTION__RESCAN_CRON", "5 4 * * 1")
    monkeypatch.setenv("KWNEURO_INGESTION__RESCAN_TIMEZONE", "Europe/Berlin")
    definitions = build(load_settings())
    sensor = definitions.resolve_sensor_def(SENSOR)
    schedule = definitions.resolve_schedule_def(f"{RESCAN}_schedule")
    assert (sensor.minimum_interval_seconds, sensor.default_status) == (77, DefaultSensorStatus.STOPPED)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("5 4 * * 1", "Europe/Berlin")
    assert schedule.default_status == DefaultScheduleStatus.STOPPED


def test_a_tick_ingests_new_subjects_and_the_stale_sensor_requests_them(
    instance: DagsterInstance, project: Project
) -> None:
    assert message(instance) == "2 added"
    assert message(instance) == "2 unchanged"
    write_series(project.source, "sub-03")
    write_mask(project.source, "sub-03")
    shutil.rmtree(project.source / "sub-02")
    assert message(instance) == "1 added, 1 unchanged, 1 removed"
    assert sorted(requested_steps(tick(instance))) == ["sub-01", "sub-03"], "not the removed subject"


def test_a_tick_that_recorded_something_sets_the_cursor_and_an_idle_tick_does_not(
    instance: DagsterInstance, project: Project
) -> None:
    first, idle = tick(instance, name=SENSOR), tick(instance, name=SENSOR)
    assert str(first.cursor).endswith(" UTC: 2 added")
    assert idle.cursor is None
    assert not first.run_requests


def test_the_job_of_the_schedule_rescans_the_source(instance: DagsterInstance, project: Project) -> None:
    assert message(instance) == "2 added"
    definitions = build(load_settings())
    result = definitions.resolve_job_def(RESCAN).execute_in_process(instance=instance)
    assert result.success
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == ["sub-01", "sub-02"]


def test_all_names_that_bids_allows_work_from_end_to_end(project: Project) -> None:
    shutil.rmtree(project.source)
    write_series(project.source, NAMED, entities=ENTITIES)
    write_mask(project.source, NAMED)
    done = project.command("run", "--select", ",".join(SELECTED))
    assert done.returncode == 0, done.stderr
    stored = [path for path in project.stored_bytes() if path.endswith("param-fa_dwimap.nii.gz")]
    assert stored == [f"sub-01/ses-pre/dwi/{NAMED}_model-tensor_param-fa_dwimap.nii.gz"]
    tree = json.loads(project.command("status", "--json").stdout)
    assert {tree[NAMED][asset]["state"] for asset in SELECTED} == {"fresh"}


def test_ingest_prints_its_report_as_json(project: Project) -> None:
    bvec = dwi_folder(project.source, "sub-02") / "sub-02_dwi.bvec"
    bvec.rename(project.home / "removed")
    done = project.command("ingest", "--json")
    report = json.loads(done.stdout)
    assert list(report) == ["added", "changed", "removed", "quarantined", "warnings", "ignored"]
    assert (report["added"], report["changed"], report["removed"]) == (["sub-01"], [], [])
    assert list(report["quarantined"]) == ["sub-02"]
    status = project.command("status")
    assert "1 quarantined" in status.stdout
    assert "sub-02_dwi.bvec beside the image" in status.stdout
    tree = json.loads(project.command("status", "--json").stdout)
    assert tree["sub-02"]["dwi"]["state"] == "quarantined"
    assert tree["sub-02"]["dwi"]["why"] == [report["quarantined"]["sub-02"]]
    np.savetxt(bvec, -np.loadtxt(project.home / "removed"))
    assert json.loads(project.command("ingest", "--json").stdout)["added"] == ["sub-02"]


def test_arriving_files_are_waited_for_once(project: Project) -> None:
    project.write_settings({**TREE, "ingestion": {"settle_seconds": 8}})
    for path in project.source.rglob("*"):
        path.touch()  # now
    done = project.command("ingest", "--json")
    assert json.loads(done.stdout)["added"] == ["sub-01", "sub-02"]
    assert "files of 2 subjects are new: waiting" in done.stderr


def test_prune_removes_only_with_yes_and_a_returning_subject_is_missing(project: Project) -> None:
    assert project.command("run", "--select", ",".join(SELECTED)).returncode == 0
    (project.source / "sub-02").rename(project.home / "away")
    (project.store / "sub-02" / "dwi" / "notes.txt").write_text("notes of the user")
    assert json.loads(project.command("ingest", "--json").stdout)["removed"] == ["sub-02"]
    before = project.stored_bytes()
    listed = project.command("prune")
    assert listed.stdout.splitlines()[0] == "sub-02: 4 derivatives"
    assert "--yes" in listed.stdout
    assert project.stored_bytes() == before
    refused = project.command("prune", "--subject", "sub-01")
    assert "sub-01: expected subjects that are no longer in the source" in refused.stderr
    assert project.command("prune", "--yes").returncode == 0
    remaining = [path for path in project.stored_bytes() if path.startswith("sub-02")]
    assert remaining == ["sub-02/dwi/notes.txt"], "files of the user stay"
    assert list(json.loads(project.command("status", "--json").stdout)) == ["sub-01"]
    assert "all subjects are in the source" in project.command("prune").stdout
    (project.home / "away").rename(project.source / "sub-02")
    assert json.loads(project.command("ingest", "--json").stdout)["added"] == ["sub-02"]
    tree = json.loads(project.command("status", "--json").stdout)
    assert {tree["sub-02"][asset]["state"] for asset in SELECTED} == {"missing"}
    assert {tree["sub-01"][asset]["state"] for asset in SELECTED} == {"fresh"}


def test_an_empty_source_is_never_pruned(project: Project) -> None:
    project.command("ingest")
    for key in ("sub-01", "sub-02"):
        shutil.rmtree(project.source / key)
    done = project.command("prune", "--yes")
    assert done.returncode == 2
    assert "expected at least one subject, found none. Is its disk mounted?" in done.stderr
