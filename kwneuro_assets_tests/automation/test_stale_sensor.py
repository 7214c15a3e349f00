"""The requests of the stale derivatives sensor for each history of a subject, and the end of runs without a process."""

from __future__ import annotations

import os
import signal
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

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.automation.jobs import MATERIALIZE_STALE, jobs
from kwneuro_assets.automation.stale_sensor import SENSOR, SENSOR_TAG, requests
from kwneuro_assets.launchers.liveness import PROCESS_TAG, end_dead_runs, this_process
from kwneuro_assets.settings import PipelineSettings, SettingsError, load_settings
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import DATA_VERSION_TAG, FIRST_SCAN
from kwneuro_assets.versioning.staleness import CohortStatus, cohort_status
from kwneuro_assets_tests.testkit.event_log import KINDS, NAMES, SELECTED, SubjectHistory, write_cohort
from kwneuro_assets_tests.testkit.small_dataset import write_dataset
from kwneuro_assets_tests.testkit.ticking import create_run, create_runs, requested_steps, tick

ALL = ",".join(NAMES)
FROM_PEAKS = "csd_peaks,tract_masks,tract_endings,tract_orientations"
WITHOUT_FAILED = "dwi_qc,subject_report"  # are computed from what exists
WANTED = {  # by kind of history, if failures may be retried at once
    "changed": ALL,
    "failed": f"{FROM_PEAKS},{WITHOUT_FAILED}",
    "never_succeeded": f"{FROM_PEAKS},{WITHOUT_FAILED}",
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
def cohort(instance: DagsterInstance) -> dict[str, SubjectHistory]:
    """One subject of each kind of history, and fresh ones: each test that changes a subject uses one of its own."""
    return write_cohort(instance, 36, fractions={name: 1 / 36 for name in KINDS if name != "fresh"})


@pytest.fixture(scope="module")
def spare(cohort: dict[str, SubjectHistory]) -> Iterator[str]:
    return iter([subject for subject, written in cohort.items() if written.kind == "fresh"])


@pytest.fixture
def subject(spare: Iterator[str]) -> str:
    """A subject that no other test uses, with fresh derivatives."""
    return next(spare)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A function that writes the settings file, which each tick reads."""
    for variable in [name for name in os.environ if name.startswith("KWNEURO_")]:
        monkeypatch.delenv(variable)
    file = tmp_path / "settings.yaml"
    monkeypatch.setenv("KWNEURO_SETTINGS", str(file))

    def write(automation: dict[str, object] | None = None, **sections: dict[str, object]) -> PipelineSettings:
        file.write_text(yaml.safe_dump({"automation": automation or {}, **sections}))
        return load_settings()

    write()
    return write


def of_kinds(cohort: dict[str, SubjectHistory], found: dict[str, str]) -> dict[str, str]:
    """The requests by kind of history, for the subjects that no test has changed."""
    return {cohort[key].kind: steps for key, steps in found.items() if cohort[key].kind != "fresh"}


def observe(instance: DagsterInstance, subject: str, content: str = "another") -> None:
    """Record another data version of `dwi`, as an ingest of changed files does."""
    observation = AssetObservation("dwi", partition=subject, tags={DATA_VERSION_TAG: f"{content:0<64}"})
    instance.report_runless_asset_event(observation)


def fail(instance: DagsterInstance, subject: str, steps: str = ALL) -> DagsterRun:
    """A run of a subject that failed before its first step."""
    run = create_run(instance, subject, steps)
    instance.report_run_failed(run)
    return run


def status(instance: DagsterInstance, *subjects: str) -> CohortStatus:
    return cohort_status(instance, load_settings(), DERIVATIVES, ["dwi"], subjects)


# Requests for each history.


def test_each_kind_of_history_requests_exactly_what_it_needs(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], write: Write
) -> None:
    write(AT_ONCE)
    assert of_kinds(cohort, requested_steps(tick(instance))) == WANTED


def test_a_change_of_settings_waits_for_the_user_unless_the_mode_is_all(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], write: Write
) -> None:
    write({**AT_ONCE, "mode": "all"})
    assert of_kinds(cohort, requested_steps(tick(instance))) == {
        **WANTED,
        "outdated": f"dti,{FROM_PEAKS},{WITHOUT_FAILED}",
    }
    write(AT_ONCE, dti={"max_bvalue": 900})
    # All tensors are stale now: those that are to be computed for another reason are, and QC waits for the others.
    waiting = {
        kind: WANTED[kind].removesuffix(f",{WITHOUT_FAILED}") for kind in ("failed", "never_succeeded", "missing")
    }
    assert of_kinds(cohort, requested_steps(tick(instance))) == {**WANTED, **waiting}


def test_a_derivative_that_is_stale_by_settings_is_requested_when_its_data_change(
    instance: DagsterInstance, subject: str, write: Write
) -> None:
    write(denoising={"min_ratio": 30})
    assert subject not in requested_steps(tick(instance))
    observe(instance, subject)
    assert requested_steps(tick(instance))[subject] == ALL


def test_only_selected_derivatives_are_requested(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], write: Write
) -> None:
    write({**AT_ONCE, "select": "denoised_dwi,mean_b0,brain_mask,dti"})
    assert of_kinds(cohort, requested_steps(tick(instance))) == {
        "changed": ",".join(SELECTED),
        "new": ",".join(SELECTED),
    }
    write({**AT_ONCE, "select": "+key:brain_mask"})
    assert of_kinds(cohort, requested_steps(tick(instance)))["new"] == "denoised_dwi,mean_b0,brain_mask"
    write({**AT_ONCE, "select": "csd_peaks"})
    assert of_kinds(cohort, requested_steps(tick(instance))) == {
        "failed": "csd_peaks",
        "never_succeeded": "csd_peaks",
    }, "the others have no inputs for the peaks, and these are not selected"


def test_a_removed_subject_is_not_requested_and_a_returning_one_starts_again(
    instance: DagsterInstance, subject: str, write: Write
) -> None:
    observe(instance, subject)
    assert subject in requested_steps(tick(instance))
    instance.delete_dynamic_partition(PARTITIONS, subject)
    assert subject not in requested_steps(tick(instance))
    instance.add_dynamic_partitions(PARTITIONS, [subject])
    observation = AssetObservation(
        "dwi", partition=subject, tags={DATA_VERSION_TAG: "0" * 64}, metadata={FIRST_SCAN: True}
    )
    instance.report_runless_asset_event(observation)
    assert requested_steps(tick(instance))[subject] == ALL


# Failures.


def test_the_backoff_doubles_after_each_failure_until_the_attempts_are_used(
    instance: DagsterInstance, subject: str, write: Write
) -> None:
    settings = write({"retry_minutes": 5, "attempts": 3})
    observe(instance, subject)
    for minutes in (5, 10):
        fail(instance, subject)
        states = status(instance, subject)
        [*_, last] = states[subject]["denoised_dwi"].attempt.failures  # type: ignore[union-attr]
        assert subject not in requested_steps(tick(instance))
        due = last.ended.moment + minutes * MINUTE
        assert requests(states, settings, due - 1) == {}
        assert requests(states, settings, due + 1) == {subject: list(NAMES)}
    fail(instance, subject)
    states = status(instance, subject)
    assert states[subject]["denoised_dwi"].recent_failures == 3
    assert requests(states, settings, due + 1e9) == {}
    observe(instance, subject, "once more")
    first = requests(status(instance, subject), settings, due)
    assert first[subject][0] == "denoised_dwi", "its data changed"


def test_new_data_are_requested_at_once_whatever_failed_before(
    instance: DagsterInstance, subject: str, write: Write
) -> None:
    write({"retry_minutes": 60})
    fail(instance, subject, "denoised_dwi")
    assert subject not in requested_steps(tick(instance))
    observe(instance, subject)
    assert requested_steps(tick(instance))[subject] == ALL


def test_derivatives_downstream_of_a_failure_wait_with_it(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], subject: str, write: Write
) -> None:
    write({"retry_minutes": 60})
    assert of_kinds(cohort, requested_steps(tick(instance))) == {
        **{kind: steps for kind, steps in WANTED.items() if kind != "failed"},
        "never_succeeded": WITHOUT_FAILED,
    }
    fail(instance, subject, "fiber_response")
    write({"retry_minutes": 60, "mode": "all"}, csd={"max_peaks": 4}, dti={"max_bvalue": 900})
    assert requested_steps(tick(instance))[subject] == "dti", "the peaks are stale, too, but need the response function"


# Queued, running and canceled runs.


def test_no_derivative_is_requested_twice(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], subject: str, write: Write
) -> None:
    write({"retry_minutes": 60})
    observe(instance, subject)
    evaluated = tick(instance)
    assert requested_steps(evaluated)[subject] == ALL
    run = create_runs(instance, evaluated, [subject])[subject]
    assert run.tags[SENSOR_TAG] == SENSOR
    assert run.tags["dagster/partition"] == subject
    assert subject not in requested_steps(tick(instance))
    instance.report_run_failed(run)
    assert subject not in requested_steps(tick(instance)), "not yet"
    write(AT_ONCE)
    assert requested_steps(tick(instance))[subject] == ALL


def test_a_subject_with_any_active_run_is_not_requested(instance: DagsterInstance, subject: str, write: Write) -> None:
    observe(instance, subject)
    run = create_run(instance, subject, "tract_endings")
    assert subject not in requested_steps(tick(instance)), "a run of one step that the user started"
    instance.report_run_failed(run)
    write(AT_ONCE)
    assert subject in requested_steps(tick(instance))


def test_a_run_that_the_user_canceled_is_not_requested_again(
    instance: DagsterInstance, subject: str, write: Write
) -> None:
    write({**AT_ONCE, "mode": "all"})
    observe(instance, subject)
    instance.report_run_canceled(create_run(instance, subject, ALL))
    assert subject not in requested_steps(tick(instance))


def test_no_more_than_the_maximum_number_of_runs_are_active(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], write: Write
) -> None:
    wanted = list(requested_steps(tick(instance)))
    assert len(wanted) > 2
    write({"max_runs": 2})
    evaluated = tick(instance)
    assert list(requested_steps(evaluated)) == wanted[:2]
    runs = create_runs(instance, evaluated)
    evaluated = tick(instance)
    assert (
        evaluated.skip_message
        == f"{len(wanted) - 2} subjects wait: the maximum of 2 runs is reached (automation.max_runs)"
    )
    instance.report_run_canceled(runs.popitem()[1])
    assert list(requested_steps(tick(instance))) == wanted[2:3]
    instance.report_run_canceled(runs.popitem()[1])


# Settings.


def test_a_tick_without_requests_gives_the_state_of_the_cohort(tmp_path: Path, write: Write) -> None:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert tick(instance).skip_message == "there are no subjects"
        instance.add_dynamic_partitions(PARTITIONS, ["sub-01", "sub-02"])
        run = create_run(instance, "sub-01", ALL)
        instance.report_run_canceled(create_run(instance, "sub-02", ALL))
        assert tick(instance).skip_message == "2 subjects: 12 missing, 12 running"
        instance.report_run_canceled(run)


def test_each_tick_reads_the_settings_again(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], write: Write
) -> None:
    loaded = write({"mode": "off"})
    assert tick(instance, loaded).skip_message == "automation.mode is off"
    write({"mode": "data"})
    assert requested_steps(tick(instance, loaded))
    file = Path(os.environ["KWNEURO_SETTINGS"])
    file.write_text("automation: {mod: all}")
    with pytest.raises(SettingsError, match=f"{file}: unknown key 'automation.mod'; the nearest.*'automation.mode'"):
        tick(instance, loaded)


def test_settings_that_change_the_inputs_of_derivatives_require_a_reload(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], write: Write
) -> None:
    loaded = load_settings()
    write(brain_mask={"method": "provided"})
    evaluated = tick(instance, loaded)
    assert not requested_steps(evaluated)
    assert "reload the code location" in (evaluated.skip_message or "")


# The job that the user starts.


def test_the_job_requests_all_stale_derivatives_of_subjects_without_a_run(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], write: Write
) -> None:
    [update] = [one for one in jobs(load_settings()) if one.name == MATERIALIZE_STALE]
    of = {written.kind: subject for subject, written in cohort.items() if written.kind != "fresh"}
    config = {"ops": {"request_stale_backfill": {"config": {"subjects": list(of.values())}}}}
    assert update.execute_in_process(instance=instance, run_config=config).success
    [backfill] = instance.get_backfills(limit=1)
    targets = backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key  # type: ignore[union-attr]
    found = {key.to_user_string(): set(subset.get_partition_keys()) for key, subset in targets.items()}
    requested = {kind: {name for name in NAMES if of[kind] in found.get(name, ())} for kind in of}
    assert requested == {
        kind: set()
        if kind == "running"
        else {name for name, state in cohort[of[kind]].states.items() if state not in ("fresh", "not-applicable")}
        for kind in of
    }
    assert backfill.title == f"stale derivatives of {sum(map(bool, requested.values()))} subjects"


def test_the_job_can_be_limited_to_subjects_and_derivatives(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], write: Write
) -> None:
    [update] = [one for one in jobs(load_settings()) if one.name == MATERIALIZE_STALE]
    [new] = [subject for subject, written in cohort.items() if written.kind == "new"]
    [fresh] = [subject for subject, written in cohort.items() if written.kind == "rematerialized"]
    before = len(instance.get_backfills())
    for subject in (new, fresh):
        config = {"ops": {"request_stale_backfill": {"config": {"subjects": [subject], "select": "dti,noddi"}}}}
        assert update.execute_in_process(instance=instance, run_config=config).success
    [backfill] = instance.get_backfills(limit=1)
    assert len(instance.get_backfills()) == before + 1, "none for a subject with fresh derivatives"
    targets = backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key  # type: ignore[union-attr]
    wanted = ("denoised_dwi", "mean_b0", "brain_mask", "dti", "noddi")  # with their inputs
    found = {key.to_user_string(): set(subset.get_partition_keys()) for key, subset in targets.items()}
    assert found == {name: {new} for name in wanted}


# Runs whose process no longer exists.

RUN_THAT_HANGS = """
import sys, time
from pathlib import Path
from dagster import DagsterInstance
from kwneuro_assets.assets.mechanism import execution
from kwneuro_assets_tests.versioning.lab import Lab

compute = execution.compute_value

def computed(derivative, *arguments):
    if derivative.name == "brain_mask":
        print("hanging", flush=True)
        time.sleep(600)
    return compute(derivative, *arguments)

execution.compute_value = computed
execution.draw_figure = lambda *_: None
root = Path(sys.argv[1])
with DagsterInstance.from_config(str(root / "dagster")) as instance:
    Lab(root, instance, "sub-01").run()
"""


def test_a_run_whose_process_was_killed_is_failed_and_so_is_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kwneuro_assets_tests.versioning.lab import Lab

    write_dataset(tmp_path / "source")
    (tmp_path / "dagster").mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        lab = Lab(tmp_path, instance, "sub-01")
        child = subprocess.Popen(
            [sys.executable, "-c", RUN_THAT_HANGS, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "hanging\n"
            assert end_dead_runs(instance) == []
            assert lab.states() == dict(zip(lab.states(), ("fresh", "fresh", "running", "running"), strict=True))
            child.send_signal(signal.SIGKILL)
            child.wait()
            with monkeypatch.context() as elsewhere:
                elsewhere.setattr("kwneuro_assets.launchers.liveness._namespace", lambda: "another-boot/1/2")
                assert end_dead_runs(instance) == []
        finally:
            child.kill()
        [run] = instance.get_runs()
        assert end_dead_runs(instance) == [run.run_id]
        assert end_dead_runs(instance) == []
        assert instance.get_run_by_id(run.run_id).status == DagsterRunStatus.FAILURE  # type: ignore[union-attr]
        assert lab.states() == dict(zip(lab.states(), ("fresh", "fresh", "failed", "missing"), strict=True))
        assert lab.status()["brain_mask"].why == ("the last attempt failed: the run ended during this step",)
        assert set(lab.update().values()) == {"skipped", "materialized"}


def test_a_later_process_with_the_same_id_is_not_that_of_the_run(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], subject: str, write: Write
) -> None:
    namespace, process_id, _ = this_process().split(":")
    assert process_id == str(os.getpid())
    run = create_run(instance, subject, "dti")
    instance.add_run_tags(run.run_id, {PROCESS_TAG: this_process()})
    assert end_dead_runs(instance) == []
    instance.add_run_tags(run.run_id, {PROCESS_TAG: f"{namespace}:{process_id}:1"})
    assert end_dead_runs(instance) == [run.run_id]
    unfinished = instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.NOT_STARTED]))
    assert run.run_id not in [one.run_id for one in unfinished]


def test_a_run_that_died_before_its_first_step_is_ended_after_the_start_timeout(
    instance: DagsterInstance,
    cohort: dict[str, SubjectHistory],
    subject: str,
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = create_run(instance, subject, "dti")
    instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_START.value, run.job_name), run.run_id)
    assert end_dead_runs(instance) == [], "it may have just started"
    monkeypatch.setattr(DagsterInstance, "run_monitoring_start_timeout_seconds", 0)
    assert end_dead_runs(instance) == [run.run_id]
    why = status(instance, subject)[subject]["dti"].why
    assert why == ("the last attempt failed: the run failed before its first step",)


def test_a_run_of_another_code_location_is_not_ended(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job
    def theirs() -> None:
        op(name="step_of_theirs")(lambda: None)()

    run = instance.create_run_for_job(theirs)
    instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_START.value, run.job_name), run.run_id)
    monkeypatch.setattr(DagsterInstance, "run_monitoring_start_timeout_seconds", 0)
    assert end_dead_runs(instance) == []
    instance.report_run_failed(run)


def test_a_retried_run_with_the_tags_of_a_dead_one_is_not_ended(
    instance: DagsterInstance, cohort: dict[str, SubjectHistory], subject: str, write: Write
) -> None:
    namespace, process_id, _ = this_process().split(":")
    dead = create_run(instance, subject, "dti", {PROCESS_TAG: f"{namespace}:{process_id}:1"})
    assert end_dead_runs(instance) == [dead.run_id]
    again = create_run(instance, subject, "dti", dead.tags, parent=dead)
    assert again.tags[PROCESS_TAG] == dead.tags[PROCESS_TAG]
    assert end_dead_runs(instance) == []
    instance.report_run_failed(again)
