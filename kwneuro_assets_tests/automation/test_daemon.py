"""Automation with a real UI and daemon: both sensors are on, subjects arrive, change and fail.

The tests use one project and depend on their order.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.scheduler.instigation import TickStatus  # checked with dagster 1.13.27

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.assets.mechanism.freshness import SKIPPED
from kwneuro_assets.automation import ingestion_sensor
from kwneuro_assets.automation.jobs import MATERIALIZE_STALE
from kwneuro_assets.automation.stale_sensor import SENSOR, SENSOR_TAG
from kwneuro_assets.settings import load_settings
from kwneuro_assets.versioning.records import INPUT_DATA_VERSIONS
from kwneuro_assets.versioning.staleness import CohortStatus, cohort_status
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.small_dataset import GRID, head, table, write_mask, write_series
from kwneuro_assets_tests.testkit.ui_server import UiServer

SELECTED = ("denoised_dwi", "mean_b0", "brain_mask", "dti")
GOOD = ("sub-01", "sub-02", "sub-03")
BAD = "sub-04"  # its mask cannot be stored at first: a folder is in the place of the file
LATE = "sub-03"  # it arrives when the sensors are on
SUBJECTS = (*GOOD, BAD)
INTERVAL = 5  # seconds between ticks: the minimum of the settings
KILLS = int(os.environ.get("KWNEURO_KILLS") or 3)
WAIT_SECONDS = 150.0

UNFINISHED = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
]

INSTANCE = """
run_coordinator:
  module: kwneuro_assets.launchers.run_queue
  class: RunQueue
  config:
    max_concurrent_runs: 2
    dequeue_interval_seconds: 1
    tag_concurrency_limits:
      - {key: dagster/partition, value: {applyLimitPerUniqueValue: true}, limit: 1}
concurrency: {pools: {granularity: run, default_limit: 1}}
# As in the package, but with a shorter start timeout.
run_monitoring: {enabled: true, start_timeout_seconds: 40, poll_interval_seconds: 5}
telemetry: {enabled: false}
nux: {enabled: false}
"""

pytestmark = pytest.mark.slow


class Lab:
    """The project, with the queries and changes of a user."""

    def __init__(self, home: Path) -> None:
        # The provided mask needs no network, but its pool would run only one run at a time.
        self.project = Project(home, {"KWNEURO_NETWORK_SLOTS": "2"})
        self.tree: dict[str, dict[str, object]] = {
            "source": {"url": str(self.project.source)},
            "store": {"url": str(self.project.store)},
            "denoising": {"method": "none"},
            "brain_mask": {"method": "provided"},
            "ingestion": {"interval_seconds": INTERVAL, "settle_seconds": 2},
            "automation": {
                "select": ",".join(SELECTED),
                "interval_seconds": INTERVAL,
                "attempts": 2,
                "retry_minutes": 0.05,
            },
        }
        self.write()
        (home / "dagster").mkdir()
        (home / "dagster" / "dagster.yaml").write_text(INSTANCE)
        self.instance = DagsterInstance.from_config(str(home / "dagster"))

    def set(self, section: str, **keys: object) -> None:
        self.tree[section] = {**self.tree.get(section, {}), **keys}
        self.write()

    def write(self) -> None:
        self.project.write_settings(self.tree)

    def write_series(self, subject: str, brightness: float) -> None:
        write_series(self.project.source, subject, directions=table((1000.0,), 12), brightness=brightness)

    def add(self, subject: str) -> None:
        self.write_series(subject, 1.0)
        write_mask(self.project.source, subject)

    @property
    def obstacle(self) -> Path:
        return self.project.store / BAD / "dwi" / f"{BAD}_desc-brain_mask.nii.gz"

    def ingest(self) -> None:
        done = self.project.command("ingest")
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self) -> CohortStatus:
        settings = load_settings(self.project.home / "settings.yaml", {})
        return cohort_status(self.instance, settings, DERIVATIVES, ("dwi", "provided_mask"), SUBJECTS)

    def states(self) -> dict[str, tuple[str, ...]]:
        return {subject: tuple(row[name].state for name in SELECTED) for subject, row in self.status().items()}

    def fresh(self, *subjects: str) -> bool:
        states = self.states()
        return all(set(states[subject]) == {"fresh"} for subject in subjects)

    def computed(self, *subjects: str) -> Counter[tuple[str, str, str]]:
        """How often each derivative was computed from the same inputs, under the same code."""
        found: Counter[tuple[str, str, str]] = Counter()
        for name in SELECTED:
            for subject in subjects:
                wanted = AssetRecordsFilter(asset_key=AssetKey(name), asset_partitions=[subject])
                for record in self.instance.fetch_materializations(wanted, limit=1000).records:
                    event = record.event_log_entry.asset_materialization
                    assert event is not None
                    if SKIPPED not in event.metadata:
                        tags = event.tags or {}
                        inputs = event.metadata[INPUT_DATA_VERSIONS].value
                        found[subject, name, f"{tags['dagster/code_version']} {inputs}"] += 1
        return found

    def times(self, subject: str) -> dict[str, int]:
        """How often each derivative of a subject was computed in total."""
        counts = Counter(dict.fromkeys(SELECTED, 0))
        for (_, name, _), count in self.computed(subject).items():
            counts[name] += count
        return dict(counts)

    def runs(self, subject: str) -> list[DagsterRunStatus]:
        """The statuses of the runs that the sensor requested for a subject, oldest first."""
        wanted = RunsFilter(tags={"dagster/partition": subject, SENSOR_TAG: SENSOR})
        return [run.status for run in reversed(self.instance.get_runs(wanted))]

    def wait_for_idle_ticks(self) -> None:
        """Wait until two ticks of the sensor have requested nothing."""
        [sensor] = [one for one in self.instance.all_instigator_state() if one.instigator_name == SENSOR]
        now = time.time()

        def is_idle() -> bool:
            ticks = self.instance.get_ticks(sensor.instigator_origin_id, sensor.selector_id, after=now)
            return sum(tick.status == TickStatus.SKIPPED for tick in ticks) >= 2

        self.wait_for(is_idle)

    def wait_for(self, what: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            runs = "\n".join(f"{run.run_id[:8]} {run.tags.get('dagster/partition')} {run.status.value}"
                             for run in self.instance.get_runs())  # fmt: skip
            log = (self.project.home / "ui.log").read_text()
            assert time.monotonic() < deadline, f"{self.states()}\n{runs}\n{log[-5000:]}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("daemon"))
    for subject in SUBJECTS:
        if subject != LATE:
            lab.add(subject)
    (lab.obstacle / "inside").mkdir(parents=True)
    return lab


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[UiServer]:
    with UiServer(lab.project) as server:
        server.switch_sensor_on(ingestion_sensor.SENSOR)
        server.switch_sensor_on()
        yield server


def test_new_subjects_are_materialized_and_failures_retried_up_to_the_maximum(lab: Lab, server: UiServer) -> None:
    lab.add(LATE)
    lab.wait_for(lambda: lab.fresh(*GOOD) and lab.runs(BAD) == [DagsterRunStatus.FAILURE] * 2)
    lab.wait_for_idle_ticks()
    assert lab.runs(BAD) == [DagsterRunStatus.FAILURE] * 2, "it waits for the user, or for new data"
    assert lab.states()[BAD] == ("fresh", "fresh", "failed", "missing")
    for subject in GOOD:
        assert lab.times(subject) == dict.fromkeys(SELECTED, 1)
        assert lab.runs(subject) == [DagsterRunStatus.SUCCESS]


def test_changed_data_rematerialize_exactly_what_depends_on_them(lab: Lab, server: UiServer) -> None:
    bvec = lab.project.source / "sub-01" / "dwi" / "sub-01_dwi.bvec"
    np.savetxt(bvec, np.loadtxt(bvec) * [[-1], [1], [1]])
    shutil.rmtree(lab.obstacle)
    write_mask(lab.project.source, BAD, inside=head() & (np.arange(GRID[0])[:, None, None] > 1))
    lab.wait_for(lambda: lab.times("sub-01")["dti"] == 2 and lab.fresh(*SUBJECTS))
    assert lab.times("sub-01") == {"denoised_dwi": 2, "mean_b0": 2, "brain_mask": 1, "dti": 2}
    assert lab.times(BAD) == dict.fromkeys(SELECTED, 1), "another mask leaves its upstream derivatives fresh"
    assert lab.times("sub-02") == lab.times("sub-03") == dict.fromkeys(SELECTED, 1)


def test_after_kills_at_any_moment_each_derivative_is_computed_exactly_once(lab: Lab, server: UiServer) -> None:
    lab.set("automation", attempts=20)
    moments = random.Random(0)
    for kill in range(KILLS):
        if lab.fresh(*SUBJECTS):
            for subject in SUBJECTS:
                lab.write_series(subject, 1.5 + kill)
            lab.ingest()
        lab.wait_for(lambda: lab.instance.get_runs_count(RunsFilter(statuses=UNFINISHED)) > 0)
        time.sleep(moments.uniform(0, 8))
        unfinished = Counter(run.status.value for run in lab.instance.get_runs(RunsFilter(statuses=UNFINISHED)))
        print(f"killed with {dict(unfinished)}")
        server.kill()
        server.start()
    lab.wait_for(lambda: lab.fresh(*SUBJECTS))
    assert set(lab.computed(*SUBJECTS).values()) == {1}


def test_a_change_of_settings_waits_until_the_user_starts_the_job(lab: Lab, server: UiServer) -> None:
    before = lab.instance.get_runs_count()
    lab.set("dti", max_bvalue=1200)
    lab.wait_for_idle_ticks()
    assert lab.states() == dict.fromkeys(SUBJECTS, ("fresh", "fresh", "fresh", "stale"))
    assert lab.instance.get_runs_count() == before
    counts = lab.computed(*SUBJECTS)
    server.launch(MATERIALIZE_STALE, {"ops": {"request_stale_backfill": {"config": {"select": ",".join(SELECTED)}}}})
    lab.wait_for(lambda: lab.fresh(*SUBJECTS))
    assert Counter(name for _, name, _ in lab.computed(*SUBJECTS) - counts) == {"dti": len(SUBJECTS)}
    [backfill] = lab.instance.get_backfills()
    lab.wait_for(lambda: str(lab.instance.get_backfill(backfill.backfill_id).status.value) == "COMPLETED_SUCCESS")  # type: ignore[union-attr]
