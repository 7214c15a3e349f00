"""What the sensor asks for, of each history that a subject may have, and how runs whose process is gone are told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from dagster import (
    AssetObservation,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    RunsFilter,
    job,
    op,
)

from benchmarks.event_log import KINDS, NAMES, SELECTED, Written, write_cohort
from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.automation import SENSOR, SENSOR_TAG, UPDATE, jobs, requests
from kwneuro_assets.processes import PROCESS_TAG, end_dead_runs, this_process
from kwneuro_assets.settings import PipelineSettings, SettingsError, load_settings
from kwneuro_assets.subjects import PARTITIONS
from kwneuro_assets.versioning.cohort import CohortStatus, cohort_status
from kwneuro_assets.versioning.records import DATA_VERSION_TAG
from kwneuro_assets_tests.small_dataset import write_dataset
from kwneuro_assets_tests.ticking import asked, create_run, create_runs, tick

ALL = ",".join(NAMES)
FROM_PEAKS = "csd_peaks,tract_masks,tract_endings,tract_orientations"
WANTED = {  # of each kind, where failures may be tried again at once
    "changed": ALL,
    "failed": FROM_PEAKS,
    "never_succeeded": FROM_PEAKS,
    "missing": ",".join(name for name in NAMES if name not in SELECTED),
    "new": ALL,
}
AT_ONCE: dict[str, object] = {"retry_minutes": 0}
MINUTE = 60.0

Write = Callable[..., PipelineSettings]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as instance:
        yield instance


@pytest.fixture(scope="module")
def cohort(instance: DagsterInstance) -> dict[str, Written]:
    """One subject of each kind, and fresh ones: each test that changes a subject takes one of these for itself."""
    return write_cohort(instance, 36, shares={name: 1 / 36 for name in KINDS if name != "fresh"})


@pytest.fixture(scope="module")
def spare(cohort: dict[str, Written]) -> Iterator[str]:
    return iter([subject for subject, written in cohort.items() if written.kind == "fresh"])


@pytest.fixture
def subject(spare: Iterator[str]) -> str:
    """A subject of the test's own, of which everything is fresh."""
    return next(spare)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the settings file that every tick reads."""
    for variable in [name for name in os.environ if name.startswith("KWNEURO_")]:
        monkeypatch.delenv(variable)
    file = tmp_path / "settings.yaml"
    monkeypatch.setenv("KWNEURO_SETTINGS", str(file))

    def write(automation: dict[str, object] | None = None, **sections: dict[str, object]) -> PipelineSettings:
        file.write_text(yaml.safe_dump({"automation": automation or {}, **sections}))
        return load_settings()

    write()
    return write


def of_kinds(cohort: dict[str, Written], found: dict[str, str]) -> dict[str, str]:
    """What is asked for by kind, of the subjects that no test has taken."""
    return {cohort[key].kind: steps for key, steps in found.items() if cohort[key].kind != "fresh"}


def look(instance: DagsterInstance, subject: str, content: str = "another") -> None:
    """The source of a subject holds something else, and `ingest` has seen it."""
    seen = AssetObservation("dwi", partition=subject, tags={DATA_VERSION_TAG: f"{content:0<64}"})
    instance.report_runless_asset_event(seen)


def fail(instance: DagsterInstance, subject: str, steps: str = ALL) -> DagsterRun:
    """One run of a subject that failed before its first step."""
    run = create_run(instance, subject, steps)
    instance.report_run_failed(run)
    return run


def status(instance: DagsterInstance, *subjects: str) -> CohortStatus:
    return cohort_status(instance, load_settings(), DERIVATIVES, ["dwi"], subjects)


# What each history asks for.


def test_each_kind_of_subject_asks_for_exactly_what_it_needs(
    instance: DagsterInstance, cohort: dict[str, Written], write: Write
) -> None:
    write(AT_ONCE)
    assert of_kinds(cohort, asked(tick(instance))) == WANTED


def test_a_change_of_settings_waits_for_a_person_unless_the_mode_is_all(
    instance: DagsterInstance, cohort: dict[str, Written], write: Write
) -> None:
    write({**AT_ONCE, "mode": "all"})
    assert of_kinds(cohort, asked(tick(instance))) == {
        **WANTED,
        "outdated": "dti,csd_peaks,tract_masks,tract_endings,tract_orientations",
    }
    write(AT_ONCE, dti={"max_bvalue": 900})
    assert of_kinds(cohort, asked(tick(instance))) == WANTED, "the tensor of all is stale now"


def test_what_is_stale_by_data_and_by_settings_is_made_as_its_data_are_new(
    instance: DagsterInstance, subject: str, write: Write
) -> None:
    write(denoising={"minimum_ratio": 30})
    assert subject not in asked(tick(instance))
    look(instance, subject)
    assert asked(tick(instance))[subject] == ALL


def test_only_what_is_selected_is_kept_up_to_date(
    instance: DagsterInstance, cohort: dict[str, Written], write: Write
) -> None:
    write({**AT_ONCE, "select": "denoised_dwi,mean_b0,brain_mask,dti"})
    assert of_kinds(cohort, asked(tick(instance))) == {"changed": ",".join(SELECTED), "new": ",".join(SELECTED)}
    write({**AT_ONCE, "select": "+key:brain_mask"})
    assert of_kinds(cohort, asked(tick(instance)))["new"] == "denoised_dwi,mean_b0,brain_mask"
    write({**AT_ONCE, "select": "csd_peaks"})
    assert of_kinds(cohort, asked(tick(instance))) == {"failed": "csd_peaks", "never_succeeded": "csd_peaks"}, (
        "of the others, what peaks are made from is not there, and nobody makes it"
    )


def test_a_subject_that_was_removed_is_not_asked_for_and_one_that_returns_begins_anew(
    instance: DagsterInstance, subject: str, write: Write
) -> None:
    look(instance, subject)
    assert subject in asked(tick(instance))
    instance.delete_dynamic_partition(PARTITIONS, subject)
    assert subject not in asked(tick(instance))
    instance.add_dynamic_partitions(PARTITIONS, [subject])
    seen = AssetObservation("dwi", partition=subject, tags={DATA_VERSION_TAG: "0" * 64}, metadata={"first_look": True})
    instance.report_runless_asset_event(seen)
    assert asked(tick(instance))[subject] == ALL


# Failures.


def test_what_failed_waits_longer_after_each_failure_and_then_for_a_person(
    instance: DagsterInstance, subject: str, write: Write
) -> None:
    settings = write({"retry_minutes": 5, "attempts": 3})
    look(instance, subject)
    for minutes in (5, 10):
        fail(instance, subject)
        states = status(instance, subject)
        [*_, last] = states[subject]["denoised_dwi"].attempt.failures  # type: ignore[union-attr]
        assert subject not in asked(tick(instance))
        due = last.ended.moment + minutes * MINUTE
        assert requests(states, settings, due - 1) == {}
        assert requests(states, settings, due + 1) == {subject: list(NAMES)}
    fail(instance, subject)
    states = status(instance, subject)
    assert states[subject]["denoised_dwi"].recent_failures == 3
    assert requests(states, settings, due + 1e9) == {}
    look(instance, subject, "once more")
    first = requests(status(instance, subject), settings, due)
    assert first[subject][0] == "denoised_dwi", "its data are new"


def test_new_data_are_tried_at_once_whatever_failed_before(
    instance: DagsterInstance, subject: str, write: Write
) -> None:
    write({"retry_minutes": 60})
    fail(instance, subject, "denoised_dwi")
    assert subject not in asked(tick(instance))
    look(instance, subject)
    assert asked(tick(instance))[subject] == ALL


def test_what_is_made_from_what_failed_waits_with_it(
    instance: DagsterInstance, cohort: dict[str, Written], subject: str, write: Write
) -> None:
    write({"retry_minutes": 60})
    assert of_kinds(cohort, asked(tick(instance))) == {
        kind: steps for kind, steps in WANTED.items() if kind not in ("failed", "never_succeeded")
    }
    fail(instance, subject, "fiber_response")
    write({"retry_minutes": 60, "mode": "all"}, csd={"peaks": 4}, dti={"max_bvalue": 900})
    assert asked(tick(instance))[subject] == "dti", "the peaks are stale too, but need the response"


# Runs that wait, work or were cancelled.


def test_what_was_asked_for_is_never_asked_for_twice(
    instance: DagsterInstance, cohort: dict[str, Written], subject: str, write: Write
) -> None:
    write({"retry_minutes": 60})
    look(instance, subject)
    told = tick(instance)
    assert asked(told)[subject] == ALL
    run = create_runs(instance, told, [subject])[subject]
    assert run.tags[SENSOR_TAG] == SENSOR
    assert run.tags["dagster/partition"] == subject
    assert subject not in asked(tick(instance))
    instance.report_run_failed(run)
    assert subject not in asked(tick(instance)), "not yet"
    write(AT_ONCE)
    assert asked(tick(instance))[subject] == ALL


def test_a_subject_with_any_run_under_way_is_left_alone(instance: DagsterInstance, subject: str, write: Write) -> None:
    look(instance, subject)
    run = create_run(instance, subject, "tract_endings")
    assert subject not in asked(tick(instance)), "a run of one step, which a person started"
    instance.report_run_failed(run)
    write(AT_ONCE)
    assert subject in asked(tick(instance))


def test_a_run_that_a_person_cancelled_is_not_asked_for_again(
    instance: DagsterInstance, subject: str, write: Write
) -> None:
    write({**AT_ONCE, "mode": "all"})
    look(instance, subject)
    instance.report_run_canceled(create_run(instance, subject, ALL))
    assert subject not in asked(tick(instance))


def test_no_more_runs_than_allowed_wait_or_work_for_it_at_once(
    instance: DagsterInstance, cohort: dict[str, Written], write: Write
) -> None:
    wanted = list(asked(tick(instance)))
    assert len(wanted) > 2
    write({"max_runs": 2})
    told = tick(instance)
    assert list(asked(told)) == wanted[:2]
    runs = create_runs(instance, told)
    told = tick(instance)
    assert told.skip_message == f"{len(wanted) - 2} subjects wait: 2 runs are enough at once"
    instance.report_run_canceled(runs.popitem()[1])
    assert list(asked(tick(instance))) == wanted[2:3]
    instance.report_run_canceled(runs.popitem()[1])


# Settings.


def test_a_tick_with_nothing_to_do_says_how_the_cohort_stands(tmp_path: Path, write: Write) -> None:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert tick(instance).skip_message == "there are no subjects"
        instance.add_dynamic_partitions(PARTITIONS, ["sub-01", "sub-02"])
        run = create_run(instance, "sub-01", ALL)
        instance.report_run_canceled(create_run(instance, "sub-02", ALL))
        assert tick(instance).skip_message == "of 2 subjects: 10 missing, 10 running"
        instance.report_run_canceled(run)


def test_each_tick_reads_the_settings_anew(instance: DagsterInstance, cohort: dict[str, Written], write: Write) -> None:
    loaded = write({"mode": "off"})
    assert tick(instance, loaded).skip_message == "automation.mode is off"
    write({"mode": "data"})
    assert asked(tick(instance, loaded))
    file = Path(os.environ["KWNEURO_SETTINGS"])
    file.write_text("automation: {mod: all}")
    with pytest.raises(SettingsError, match=f"{file}: unknown key 'automation.mod'; the nearest.*'automation.mode'"):
        tick(instance, loaded)


def test_settings_that_change_what_depends_on_what_ask_for_a_reload(
    instance: DagsterInstance, cohort: dict[str, Written], write: Write
) -> None:
    loaded = load_settings()
    write(brain_mask={"method": "provided"})
    told = tick(instance, loaded)
    assert not asked(told)
    assert "reload the code location" in (told.skip_message or "")


# What a person starts.


def test_the_job_asks_for_all_that_is_not_fresh_of_who_has_no_run(
    instance: DagsterInstance, cohort: dict[str, Written], write: Write
) -> None:
    [update] = [one for one in jobs() if one.name == UPDATE]
    of = {written.kind: subject for subject, written in cohort.items() if written.kind != "fresh"}
    config = {"ops": {"ask_for_what_is_stale": {"config": {"subjects": list(of.values())}}}}
    assert update.execute_in_process(instance=instance, run_config=config).success
    [backfill] = instance.get_backfills(limit=1)
    targets = backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key  # type: ignore[union-attr]
    found = {key.to_user_string(): set(subset.get_partition_keys()) for key, subset in targets.items()}
    asked_for = {kind: {name for name in NAMES if of[kind] in found.get(name, ())} for kind in of}
    assert asked_for == {
        kind: set()
        if kind == "running"
        else {name for name, state in cohort[of[kind]].states.items() if state not in ("fresh", "not-applicable")}
        for kind in of
    }
    assert backfill.title == f"what was stale of {sum(map(bool, asked_for.values()))} subjects"


def test_the_job_may_be_told_which_subjects_and_derivatives(
    instance: DagsterInstance, cohort: dict[str, Written], write: Write
) -> None:
    [update] = [one for one in jobs() if one.name == UPDATE]
    [new] = [subject for subject, written in cohort.items() if written.kind == "new"]
    [remade] = [subject for subject, written in cohort.items() if written.kind == "remade"]
    before = len(instance.get_backfills())
    for subject in (new, remade):
        config = {"ops": {"ask_for_what_is_stale": {"config": {"subjects": [subject], "select": "dti,noddi"}}}}
        assert update.execute_in_process(instance=instance, run_config=config).success
    [backfill] = instance.get_backfills(limit=1)
    assert len(instance.get_backfills()) == before + 1, "none for a subject of which all is fresh"
    targets = backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key  # type: ignore[union-attr]
    assert {key.to_user_string(): set(subset.get_partition_keys()) for key, subset in targets.items()} == {
        "dti": {new},
        "noddi": {new},
    }


# Runs whose process is gone.

RUN_THAT_STANDS_STILL = """
import sys, time
from pathlib import Path
from dagster import DagsterInstance
from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets_tests.versioning.lab import Lab

compute = Derivative._computed

def computed(self, *arguments):
    if self.name == "brain_mask":
        print("standing still", flush=True)
        time.sleep(600)
    return compute(self, *arguments)

Derivative._computed = computed
Derivative._figure = lambda *_: None
root = Path(sys.argv[1])
with DagsterInstance.from_config(str(root / "dagster")) as instance:
    Lab(root, instance, "sub-01").run()
"""


def test_a_run_whose_process_was_killed_is_told_failed_and_with_it_what_it_was_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kwneuro_assets_tests.versioning.lab import Lab

    write_dataset(tmp_path / "source")
    (tmp_path / "dagster").mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        lab = Lab(tmp_path, instance, "sub-01")
        child = subprocess.Popen(
            [sys.executable, "-c", RUN_THAT_STANDS_STILL, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "standing still\n"
            assert end_dead_runs(instance) == []
            assert lab.states() == dict(zip(lab.states(), ("fresh", "fresh", "running", "running"), strict=True))
            child.send_signal(signal.SIGKILL)
            child.wait()
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr("kwneuro_assets.processes._machine", lambda: "another-machine")
                assert end_dead_runs(instance) == []
        finally:
            child.kill()
        [run] = instance.get_runs()
        assert end_dead_runs(instance) == [run.run_id]
        assert end_dead_runs(instance) == []
        assert instance.get_run_by_id(run.run_id).status == DagsterRunStatus.FAILURE  # type: ignore[union-attr]
        assert lab.states() == dict(zip(lab.states(), ("fresh", "fresh", "failed", "missing"), strict=True))
        assert lab.status()["brain_mask"].why == ("the last attempt failed: its run ended in the middle of it",)
        assert set(lab.update().values()) == {"fresh", "made"}


def test_a_later_process_with_the_same_id_does_not_count_as_the_one_that_made_the_run(
    instance: DagsterInstance, cohort: dict[str, Written], subject: str, write: Write
) -> None:
    machine, process_id, _ = this_process().split(":")
    assert (machine, process_id) == (socket.gethostname(), str(os.getpid()))
    run = create_run(instance, subject, "dti")
    instance.add_run_tags(run.run_id, {PROCESS_TAG: this_process()})
    assert end_dead_runs(instance) == []
    instance.add_run_tags(run.run_id, {PROCESS_TAG: f"{machine}:{process_id}:1@another"})
    assert end_dead_runs(instance) == [run.run_id]
    unfinished = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.NOT_STARTED]))
    assert run.run_id not in [one.run_id for one in unfinished]


def test_a_run_that_died_before_its_first_step_could_tell_its_process_is_ended_after_a_while(
    instance: DagsterInstance, cohort: dict[str, Written], subject: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(instance, subject, "dti")
    instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_START.value, run.job_name), run.run_id)
    assert end_dead_runs(instance) == [], "it may just have begun"
    monkeypatch.setattr("kwneuro_assets.processes.BEGIN_SECONDS", 0)
    assert end_dead_runs(instance) == [run.run_id]
    why = status(instance, subject)[subject]["dti"].why
    assert why == ("the last attempt failed: its run failed before the first step",)


def test_a_run_of_another_code_location_is_left_to_it(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job
    def theirs() -> None:
        op(name="step_of_theirs")(lambda: None)()

    run = instance.create_run_for_job(theirs)
    instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_START.value, run.job_name), run.run_id)
    monkeypatch.setattr("kwneuro_assets.processes.BEGIN_SECONDS", 0)
    assert end_dead_runs(instance) == []
    instance.report_run_failed(run)


def test_a_run_that_is_executed_again_is_not_taken_for_the_dead_one_whose_tags_it_begins_with(
    instance: DagsterInstance, cohort: dict[str, Written], subject: str, write: Write
) -> None:
    died = create_run(instance, subject, "dti", {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}:1@another"})
    assert end_dead_runs(instance) == [died.run_id]
    again = create_run(instance, subject, "dti", died.tags, parent=died)
    assert again.tags[PROCESS_TAG] == died.tags[PROCESS_TAG]
    assert end_dead_runs(instance) == []
    instance.report_run_failed(again)
