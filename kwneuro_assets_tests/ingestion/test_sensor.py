"""The sensor and the schedule as a code server evaluates them, and what the command line makes of the same look."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dagster import DagsterInstance, DefaultScheduleStatus, DefaultSensorStatus

from kwneuro_assets.definitions import build
from kwneuro_assets.ingestion.sensor import RECONCILE, SENSOR
from kwneuro_assets.settings import load_settings
from kwneuro_assets.subjects import PARTITIONS
from kwneuro_assets_tests.project import Project
from kwneuro_assets_tests.small_dataset import dwi_folder, write_dataset, write_mask, write_series
from kwneuro_assets_tests.ticking import asked, tick

NAMED = "sub-01_ses-pre"
ENTITIES = "acq-98dir_dir-AP_run-2"
MADE = ["denoised_dwi", "mean_b0", "brain_mask", "dti"]
TREE: dict[str, dict[str, object]] = {
    "denoising": {"method": "none"},
    "brain_mask": {"method": "provided"},
    "ingestion": {"settle_seconds": 0},
    "automation": {"select": ",".join(MADE)},
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


def look(instance: DagsterInstance) -> str:
    """What a tick of the ingestion sensor says."""
    return str(tick(instance, name=SENSOR).skip_message)


def test_both_are_off_until_they_are_switched_on_and_follow_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_INGESTION__INTERVAL_SECONDS", "77")
    monkeypatch.setenv("KWNEURO_INGESTION__RECONCILE_CRON", "5 4 * * 1")
    monkeypatch.setenv("KWNEURO_INGESTION__RECONCILE_TIMEZONE", "Europe/Berlin")
    definitions = build(load_settings())
    sensor = definitions.resolve_sensor_def(SENSOR)
    schedule = definitions.resolve_schedule_def(f"{RECONCILE}_schedule")
    assert (sensor.minimum_interval_seconds, sensor.default_status) == (77, DefaultSensorStatus.STOPPED)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("5 4 * * 1", "Europe/Berlin")
    assert schedule.default_status == DefaultScheduleStatus.STOPPED


def test_a_tick_takes_in_what_is_new_and_automation_asks_for_it(instance: DagsterInstance, project: Project) -> None:
    assert look(instance) == "2 added"
    assert look(instance) == "2 unchanged"
    write_series(project.source, "sub-03")
    write_mask(project.source, "sub-03")
    shutil.rmtree(project.source / "sub-02")
    assert look(instance) == "1 added, 1 unchanged, 1 removed"
    assert sorted(asked(tick(instance))) == ["sub-01", "sub-03"], "not of what is gone"


def test_the_schedules_job_reads_all_again(instance: DagsterInstance, project: Project) -> None:
    assert look(instance) == "2 added"
    definitions = build(load_settings())
    result = definitions.resolve_job_def(RECONCILE).execute_in_process(instance=instance)
    assert result.success
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == ["sub-01", "sub-02"]


def test_every_name_that_bids_allows_works_from_end_to_end(project: Project) -> None:
    shutil.rmtree(project.source)
    write_series(project.source, NAMED, entities=ENTITIES)
    write_mask(project.source, NAMED)
    done = project.command("run", "--select", ",".join(MADE))
    assert done.returncode == 0, done.stderr
    stored = [path for path in project.stored_bytes() if path.endswith("param-fa_dwimap.nii.gz")]
    assert stored == [f"sub-01/ses-pre/dwi/{NAMED}_model-tensor_param-fa_dwimap.nii.gz"]
    tree = json.loads(project.command("status", "--json").stdout)
    assert {tree[NAMED][asset]["state"] for asset in MADE} == {"fresh"}


def test_ingest_prints_four_lists_for_scripts(project: Project) -> None:
    bvec = dwi_folder(project.source, "sub-02") / "sub-02_dwi.bvec"
    bvec.rename(project.home / "kept")
    done = project.command("ingest", "--json")
    told = json.loads(done.stdout)
    assert list(told) == ["added", "changed", "removed", "quarantined"]
    assert (told["added"], told["changed"], told["removed"]) == (["sub-01"], [], [])
    assert list(told["quarantined"]) == ["sub-02"]
    status = project.command("status")
    assert "1 quarantined" in status.stdout
    assert "sub-02_dwi.bvec beside the image" in status.stdout
    tree = json.loads(project.command("status", "--json").stdout)
    assert tree["sub-02"]["dwi"]["state"] == "quarantined"
    assert tree["sub-02"]["dwi"]["why"] == [told["quarantined"]["sub-02"]]
    np.savetxt(bvec, -np.loadtxt(project.home / "kept"))
    assert json.loads(project.command("ingest", "--json").stdout)["added"] == ["sub-02"]


def test_files_that_have_just_come_are_waited_for_once(project: Project) -> None:
    project.write_settings({**TREE, "ingestion": {"settle_seconds": 8}})
    for path in project.source.rglob("*"):
        path.touch()  # now
    done = project.command("ingest", "--json")
    assert json.loads(done.stdout)["added"] == ["sub-01", "sub-02"]
    assert "files of 2 subjects are new: waiting" in done.stderr


def test_prune_lists_and_only_with_yes_removes_and_who_comes_back_begins_as_missing(project: Project) -> None:
    assert project.command("run", "--select", ",".join(MADE)).returncode == 0
    (project.source / "sub-02").rename(project.home / "away")
    (project.store / "sub-02" / "dwi" / "notes.txt").write_text("a person's own")
    assert json.loads(project.command("ingest", "--json").stdout)["removed"] == ["sub-02"]
    before = project.stored_bytes()
    listed = project.command("prune")
    assert listed.stdout.splitlines()[0] == "sub-02: 4 derivatives"
    assert "--yes" in listed.stdout
    assert project.stored_bytes() == before
    assert "sub-01: not among the 1 subjects that are gone" in project.command("prune", "--subject", "sub-01").stderr
    assert project.command("prune", "--yes").returncode == 0
    kept = [path for path in project.stored_bytes() if path.startswith("sub-02")]
    assert kept == ["sub-02/dwi/notes.txt"], "what is not ours stays"
    assert list(json.loads(project.command("status", "--json").stdout)) == ["sub-01"]
    assert "every subject is still in" in project.command("prune").stdout
    (project.home / "away").rename(project.source / "sub-02")
    assert json.loads(project.command("ingest", "--json").stdout)["added"] == ["sub-02"]
    tree = json.loads(project.command("status", "--json").stdout)
    assert {tree["sub-02"][asset]["state"] for asset in MADE} == {"missing"}
    assert {tree["sub-01"][asset]["state"] for asset in MADE} == {"fresh"}


def test_an_empty_source_is_never_pruned(project: Project) -> None:
    project.command("ingest")
    for key in ("sub-01", "sub-02"):
        shutil.rmtree(project.source / key)
    done = project.command("prune", "--yes")
    assert done.returncode == 2
    assert "holds no subject at all: is its disk there?" in done.stderr
