"""The states of a cohort equal those of a slow and obvious model after any sequence of events.

A Hypothesis state machine draws histories: data, settings and network weights change and change back, algorithm
versions are raised, steps fail, runs are canceled and killed, files disappear from the store, subjects are removed and
return. After each event, the states of all derivatives are compared with those of the model and of Dagster, and the
computed steps with those of the model.

    KWNEURO_STEPS=5000 python -m pytest -s -m "" kwneuro_assets_tests/versioning/test_histories.py -k as_many_steps
"""

from __future__ import annotations

import functools
import gc
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from dagster import AssetCheckSeverity, AssetKey, AssetSelection, DagsterEventType, DagsterInstance
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.automation.stale_sensor import requests
from kwneuro_assets.cohort.result import Result
from kwneuro_assets.cohort.run import run_subject, subject_status, update_subject
from kwneuro_assets.cohort.selection import with_upstream
from kwneuro_assets.definitions import build
from kwneuro_assets.imaging.content_hash import data_version
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.launchers.liveness import PROCESS_TAG, end_dead_runs, this_process
from kwneuro_assets.qc.checks import DESCRIPTIONS
from kwneuro_assets.settings import AutomationSettings, PipelineSettings
from kwneuro_assets.storage import checked_files
from kwneuro_assets.storage.names import NAMES as STORED
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning import dagster_internals, history
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import recorded
from kwneuro_assets.versioning.source_names import source_names
from kwneuro_assets.versioning.staleness import CohortStatus, cohort_status
from kwneuro_assets.weights import digest_cache
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, head, small_settings, write_dataset
from kwneuro_assets_tests.versioning import reference_model as model
from kwneuro_assets_tests.versioning.quick_derivatives import (
    BRIGHTER,
    MORE_WEIGHTED,
    NETWORKS,
    OPTIONS,
    WEIGHTS,
    WRITTEN,
    How,
    Killed,
    quick_derivatives,
    set_algorithm_version,
    text_of,
    value_of,
    write_weights,
)
from kwneuro_assets_tests.versioning.reference_model import (
    FROM_WHATEVER_EXISTS,
    NAMES,
    Condition,
    ExpectedRun,
    Planned,
    Stored,
    Subject,
    World,
)

KEYS = ("sub-01", "sub-02_ses-1", "sub-03")
FILES = {
    "brighter": "dwi.nii.gz",
    "more_weighted": "dwi.bval",
    "rotated": "dwi.bvec",
    "smaller": "desc-brain_mask.nii.gz",
}
STEPS = 30  # per history
ATTEMPTS = 2  # at a derivative that fails, by the sensor

done: Counter[str] = Counter()  # how often each rule was applied, and what was compared

keys, names, options = st.sampled_from(KEYS), st.sampled_from(NAMES), st.sampled_from(sorted(OPTIONS))
selections = st.one_of(st.just(frozenset(NAMES)), st.frozensets(names, min_size=1))
hows: st.SearchStrategy[How] = st.sampled_from(["canceled", "interrupted", "killed", WRITTEN])


def step(**drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """A rule of the state machine; counts its applications."""

    def declare(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def counted(self: Histories, **values: Any) -> None:
            done[function.__name__] += 1
            self.is_checked = False
            function(self, **values)
            self.last_step = function.__name__

        decorate: Any = rule  # its overloads do not match a dictionary of strategies
        return decorate(**drawn)(counted)

    return declare


class Histories(RuleBasedStateMachine):
    """Real derivatives with replaced computations, in a real instance, compared with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.root = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.instance = self.stack.enter_context(self.open_instance())
        self.behavior = self.stack.enter_context(quick_derivatives(self.instance))
        self.world = World()
        self.subjects = {
            key: Subject(self.world, {part: bool(number >> bit & 1) for bit, part in enumerate(FILES)})
            for number, key in enumerate(KEYS)
        }
        self.touched = KEYS[0]  # the subject of the last event, which is compared in more detail
        self.is_checked = False
        self.last_step = ""
        self.known_runs: set[str] = set()
        self.killed: dict[str, tuple[str, str]] = {}  # subject and step, by run
        self.queued: dict[str, str] = {}  # subject, by run
        self.graphs: dict[str, AssetGraph] = {}
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("KWNEURO_OFFLINE", "1")
        patch.setenv("HOME", str(self.root))  # TractSeg's own folder of weights is in it
        patch.delenv("TRACTSEG_WEIGHTS_DIR", raising=False)
        for network, text in self.world.weights.items():
            write_weights(self.root / "weights", network, text)
        write_dataset(self.root / "source", KEYS)
        self.contents = {key: {part: _both_contents(self.file(key, part), part) for part in FILES} for key in KEYS}
        for key, subject in self.subjects.items():
            for part, other in subject.files.items():
                self.file(key, part).write_bytes(self.contents[key][part][other])
        self.ingest(KEYS)

    def open_instance(self) -> DagsterInstance:
        return DagsterInstance.ephemeral()

    def teardown(self) -> None:
        self.stack.close()

    # Access

    @property
    def settings(self) -> PipelineSettings:
        (self.root / "response.txt").write_text(self.world.response)
        sections: dict[str, dict[str, object]] = {"weights": {"folder": str(self.root / "weights")}}
        for option, value in self.world.chosen.items():
            section, _, key = option.partition(".")
            chosen = str(self.root / "response.txt") if option == "csd.wm_response" and value else value
            sections.setdefault(section, {})[key] = chosen
        return small_settings(self.root / "source", self.root / "store", **sections)

    @property
    def store(self) -> DerivativeStore:
        return DerivativeStore(self.root / "store")

    @property
    def present(self) -> list[str]:
        return [key for key, subject in self.subjects.items() if subject.is_present]

    def file(self, key: str, part: str) -> Path:
        return self.root / "source" / SubjectKey.parse(key).folder / f"{key}_{FILES[part]}"

    def graph(self) -> AssetGraph:
        world = self.world
        version = f"{self.settings.model_dump_json()} {world.algorithm_versions} {world.response} {world.weights}"
        if version not in self.graphs:
            self.graphs[version] = build(self.settings).resolve_asset_graph()
        return self.graphs[version]

    def new_runs(self) -> list[tuple[str, list[str]]]:
        """The runs since the last call, oldest first, and the steps of each in the order in which they started."""
        found = [run.run_id for run in self.instance.get_runs(limit=20) if run.run_id not in self.known_runs]
        self.known_runs |= set(found)
        return [(run_id, self.started_steps(run_id)) for run_id in reversed(found)]

    def started_steps(self, run_id: str) -> list[str]:
        events = self.instance.all_logs(run_id, of_type=DagsterEventType.STEP_START)
        return [str(entry.step_key) for entry in events]

    # Events

    def ingest(self, wanted: Collection[str]) -> None:
        ingest(self.instance, self.settings, subjects=wanted)
        for key in wanted:
            self.subjects[key].ingest()
            for name, text in self.subjects[key].observed.items():
                known = recorded(self.instance, name, key, observed=True)
                assert known is not None
                assert self.behavior.texts.setdefault((name, known.data_version), text) == text

    def update(
        self,
        key: str,
        wanted: Collection[str],
        *,
        added: Collection[str] = (),
        force: bool = False,
        trust_log: bool = True,
        end: tuple[str, How] | None = None,
    ) -> None:
        """Do what the command `run` does, and compare it with the model."""
        subject, self.touched = self.subjects[key], key
        asked = [name for name in NAMES if name in wanted]
        self.behavior.computed.clear()
        self.behavior.end = end
        results: list[Result] | None = None
        try:
            results = update_subject(
                self.instance, self.settings, key, asked, added=added, force=force, trust_log=trust_log
            )
        except (Killed, KeyboardInterrupt):
            self.behavior.dead = False
        self.behavior.end = None
        runs = iter(self.new_runs())
        used: list[tuple[str, list[str]]] = []

        def next_run() -> tuple[str, Sequence[str]]:
            run = next(runs, None)
            assert run, f"{subject.out_of_date(asked)} of {key} remain, and no run computes them"
            used.append(run)
            return run

        forced = set(asked).difference(added) if force else ()
        expected = model.update(subject, asked, next_run, forced=forced, trust_log=trust_log, end=end)
        assert next(runs, None) is None, "a run that was not necessary"
        self.compare(expected, used)
        if used and subject.runs[used[-1][0]].is_active:
            self.killed[used[-1][0]] = (key, used[-1][1][-1])
        if results is not None and end is None and not added:
            self.check_results(key, asked, results, expected, force=force)

    def compare(self, expected: list[ExpectedRun], runs: list[tuple[str, list[str]]]) -> None:
        assert [one.started for one in expected] == [started for _, started in runs]
        for one, (run_id, _) in zip(expected, runs, strict=True):
            if one.verdicts:
                assert self.verdicts(run_id) == {
                    name: dict.fromkeys(DESCRIPTIONS, ok) for name, ok in one.verdicts.items()
                }
                done["steps with checks"] += 1
        assert [name for one in expected for name in one.computed] == self.behavior.computed
        done["steps computed"] += len(self.behavior.computed)

    def verdicts(self, run_id: str) -> dict[str, dict[str, bool]]:
        """Whether each check of a derivative passed in a run, for the subject that it is about."""
        found: dict[str, dict[str, bool]] = {}
        for entry in self.instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
            one = entry.get_dagster_event().asset_check_evaluation_data
            assert (one.partition, one.severity, one.blocking) == (self.touched, AssetCheckSeverity.WARN, False)
            of_asset = found.setdefault(one.asset_key.to_user_string(), {})
            assert one.check_name not in of_asset
            of_asset[one.check_name] = one.passed
        return found

    def check_results(
        self, key: str, asked: list[str], results: list[Result], expected: list[ExpectedRun], *, force: bool
    ) -> None:
        subject = self.subjects[key]
        assert [result.asset for result in results] == asked
        if not expected and subject.has_active_run() and not force:
            assert {result.outcome for result in results} == {"upstream-failed"}
        elif len(asked) == len(NAMES):
            for result in results:
                state = subject.state(result.asset)
                # What is computed from whatever exists succeeds with the recorded value of an input that fails now.
                if result.asset not in FROM_WHATEVER_EXISTS or state != "stale-upstream":
                    assert result.succeeded == (state in ("fresh", "not-applicable"))

    def bring_up_to_date(self, key: str, *, trust_log: bool) -> None:
        """Afterwards everything is up to date, unless a step fails or another run is active."""
        subject = self.subjects[key]
        self.ingest([key])
        had_active_run = subject.has_active_run()
        self.update(key, NAMES, trust_log=trust_log)
        if not had_active_run and not self.world.broken and None not in self.world.weights.values():
            assert subject.out_of_date(NAMES) == []
            if not trust_log:
                assert [subject.store[name].text for name in NAMES] == [subject.ideal(name) for name in NAMES]
            done["subjects brought up to date"] += 1

    @step(key=keys)
    def update_by_the_log(self, key: str) -> None:
        """As `run --stale`."""
        self.bring_up_to_date(key, trust_log=True)

    @step(key=keys)
    def update_one(self, key: str) -> None:
        """As `run`."""
        self.bring_up_to_date(key, trust_log=False)

    @step()
    def update_all(self) -> None:
        for key in KEYS:
            self.bring_up_to_date(key, trust_log=False)

    @step(key=keys, wanted=selections, trust_log=st.booleans(), force=st.booleans())
    def update_some(self, key: str, wanted: frozenset[str], trust_log: bool, force: bool) -> None:
        """As `run --select --only`, without ingest."""
        if self.subjects[key].is_present:
            self.update(key, wanted, force=force, trust_log=trust_log)

    @step(key=keys, name=names, trust_log=st.booleans(), force=st.booleans())
    def update_one_with_upstream(self, key: str, name: str, trust_log: bool, force: bool) -> None:
        """As `run --select`: afterwards the derivative and all upstream of it are up to date."""
        subject = self.subjects[key]
        self.ingest([key])
        wanted, had_active_run = set(with_upstream(self.settings, [name])), subject.has_active_run()
        self.update(key, wanted, added=wanted - {name}, force=force, trust_log=trust_log)
        if not had_active_run and not self.world.broken and None not in self.world.weights.values():
            assert subject.out_of_date(wanted) == []

    @step(key=keys, wanted=selections, force=st.booleans())
    def run(self, key: str, wanted: frozenset[str], force: bool) -> None:
        """A run of these derivatives whatever their state, as from the UI."""
        if self.subjects[key].is_present:
            self.run_once(key, wanted, force=force)

    def run_once(self, key: str, wanted: Collection[str], *, force: bool = False) -> None:
        subject, self.touched = self.subjects[key], key
        self.behavior.computed.clear()
        run_subject(self.instance, self.settings, key, [name for name in NAMES if name in wanted], force=force)
        [(run_id, started)] = self.new_runs()
        expected = model.play(subject, run_id, wanted, started, forced=wanted if force else ())
        self.compare([expected], [(run_id, started)])

    @step(key=keys)
    def automate(self, key: str) -> None:
        """As the daemon: runs that the sensor requests, until it requests none. No input that fails or is missing for
        good keeps it busy, or what is computed from whatever exists out of date.
        """
        subject = self.subjects[key]
        if not subject.is_present or subject.has_active_run():
            return
        settings = self.settings.model_copy(
            update={"automation": AutomationSettings(mode="all", attempts=ATTEMPTS, retry_minutes=0)}
        )
        for _ in range(ATTEMPTS * len(NAMES)):
            found = cohort_status(self.instance, settings, DERIVATIVES, source_names(settings), [key])
            wanted = requests(found, settings, time.time()).get(key)
            if not wanted:
                break
            self.run_once(key, wanted)
        else:
            raise AssertionError(f"the sensor still requests {wanted}")
        for name in FROM_WHATEVER_EXISTS:
            status = found[key][name]
            is_canceled = status.attempt is not None and status.attempt.state in ("canceled", "interrupted")
            assert is_canceled or status.state in ("fresh", "not-applicable", "stale-upstream", "failed"), status
            done[f"automated: {status.state}"] += 1

    @step(key=keys, name=names, how=hows, force=st.booleans())
    def end_during_a_step(self, key: str, name: str, how: How, force: bool) -> None:
        self.report_dead_runs()  # so that no subject is blocked for most of its history
        if self.subjects[key].is_present:
            self.update(key, NAMES, force=force, end=(name, how))

    @step()
    def end_dead_runs(self) -> None:
        self.report_dead_runs()

    def report_dead_runs(self) -> None:
        namespace, pid, _ = this_process().split(":")
        for run_id in self.killed:
            self.instance.add_run_tags(run_id, {PROCESS_TAG: f"{namespace}:{pid}:1"})
        assert sorted(end_dead_runs(self.instance)) == sorted(self.killed)
        for run_id, (key, name) in self.killed.items():
            self.subjects[key].end(run_id, failed=[name])
        self.killed.clear()

    @step(key=keys, wanted=selections)
    def queue(self, key: str, wanted: frozenset[str]) -> None:
        """A queued run."""
        self.end_queued("canceled")
        self.touched = key
        if not self.subjects[key].is_present:
            return
        definitions = build(self.settings)
        chosen = AssetSelection.assets(*wanted).resolve(definitions.resolve_asset_graph())
        job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=chosen)
        run_id = self.instance.create_run_for_job(
            job, tags={"dagster/partition": key}, asset_selection=frozenset(chosen)
        ).run_id
        self.known_runs.add(run_id)
        self.subjects[key].plan(run_id, wanted)
        self.queued[run_id] = key

    @step(how=st.sampled_from(["canceled", "failed", "deleted"]))
    def end_a_queued_run(self, how: str) -> None:
        self.end_queued(how)

    def end_queued(self, how: str) -> None:
        for run_id, key in self.queued.items():
            subject = self.subjects[key]
            run = self.instance.get_run_by_id(run_id)
            assert run is not None
            if how == "canceled":
                self.instance.report_run_canceled(run)
                subject.end(run_id, failed=[])
            elif how == "failed":
                self.instance.report_run_failed(run)
                subject.end(run_id, failed=NAMES)
            else:
                self.instance.delete_run(run_id)
                subject.journal = [
                    one for one in subject.journal if not (isinstance(one, Planned) and one.run == run_id)
                ]
        self.queued.clear()

    @step(key=keys)
    def ingest_one(self, key: str) -> None:
        self.touched = key
        self.ingest([key])

    @step()
    def ingest_all(self) -> None:
        self.ingest(KEYS)

    @step(key=keys, part=st.sampled_from(sorted(FILES)))
    def change_data(self, key: str, part: str) -> None:
        """Switch a file to its other content."""
        self.touched = key
        files = self.subjects[key].files
        files[part] = not files[part]
        self.file(key, part).write_bytes(self.contents[key][part][files[part]])

    @step(option=options, number=st.integers(0, 2))
    def change_setting(self, option: str, number: int) -> None:
        self.world.chosen[option] = OPTIONS[option][number % len(OPTIONS[option])]

    @step()
    def change_the_mask_method(self) -> None:
        """This setting changes the dependencies."""
        provided, otsu = OPTIONS["brain_mask.method"]
        self.world.chosen["brain_mask.method"] = (
            otsu if self.world.chosen["brain_mask.method"] == provided else provided
        )

    @step(first=st.integers(1000, 1001))
    def edit_the_response_file(self, first: int) -> None:
        self.world.response = f"{first} -300\n"

    @step(name=st.sampled_from(sorted(NETWORKS)), text=st.sampled_from(WEIGHTS))
    def change_weights(self, name: str, text: str | None) -> None:
        """Other weights of a network, or none, and they cannot be downloaded."""
        self.world.weights[NETWORKS[name]] = text
        write_weights(self.root / "weights", NETWORKS[name], text)

    @step(name=names, number=st.integers(1, 3))
    def set_an_algorithm_version(self, name: str, number: int) -> None:
        self.world.algorithm_versions[name] = number
        set_algorithm_version(name, number)

    @step(name=names)
    def break_a_step(self, name: str) -> None:
        self.world.broken |= {name}
        self.behavior.broken = set(self.world.broken)

    @step()
    def repair_the_steps(self) -> None:
        self.world.broken.clear()
        self.behavior.broken.clear()

    @step(key=keys)
    def remove_a_subject(self, key: str) -> None:
        """The next ingest adds it again, without its earlier derivatives."""
        self.touched = key
        if self.subjects[key].is_present:
            self.instance.delete_dynamic_partition(PARTITIONS, key)
            self.subjects[key].is_present = False

    @step()
    def start_a_new_process(self) -> None:
        """Clear all caches of the process: the result must not depend on them."""
        self.is_checked = (
            self.last_step == "start_a_new_process"
        )  # the first history of Hypothesis repeats this rule only
        self.graphs.clear()
        dagster_internals._steps_of_ended_runs.clear()
        checked_files._verified.clear()
        digest_cache._known.clear()

    @step(key=keys, name=names)
    def damage_a_file(self, key: str, name: str) -> None:
        """Name and size stay the same, so that only reading it shows the damage."""
        self.change_the_store(key, name, "damaged")

    @step(key=keys, name=names)
    def remove_a_file(self, key: str, name: str) -> None:
        self.change_the_store(key, name, "without a file")

    @step(key=keys, name=names)
    def remove_a_sidecar(self, key: str, name: str) -> None:
        self.touched = key
        if self.subjects[key].store.pop(name, None):
            self.sidecar(key, name).unlink()

    def change_the_store(self, key: str, name: str, condition: Condition) -> None:
        self.touched = key
        stored = self.subjects[key].store.get(name)
        if stored is None or stored.condition != "intact":
            return
        sidecar = self.store.sidecar(name, SubjectKey.parse(key))
        assert sidecar is not None
        files = [file for file in sidecar.files if not file.endswith("_figure.png")]
        if not files:  # a response, or a derivative that is not applicable, has only a sidecar
            return
        file = self.sidecar(key, name).with_name(files[0])
        if condition == "damaged":
            file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
        else:
            file.unlink()
        self.subjects[key].store[name] = Stored(stored.text, condition)

    def sidecar(self, key: str, name: str) -> Path:
        return self.root / "store" / STORED[name].sidecar(SubjectKey.parse(key))

    # Invariants

    @invariant()
    def check_all(self) -> None:
        if not self.is_checked:
            self.check_states()
            self.check_fresh_results()
            self.check_store()
            self.check_states_of_dagster()
        self.is_checked = True

    def check_states(self) -> None:
        settings = self.settings
        sources = source_names(settings)
        found = cohort_status(self.instance, settings, DERIVATIVES, sources, self.present)
        expected = {key: {name: self.subjects[key].state(name) for name in NAMES} for key in self.present}
        assert {key: {name: status.state for name, status in row.items()} for key, row in found.items()} == expected
        for key, row in found.items():
            for name, status in row.items():
                newest = self.subjects[key].materialization(name)
                assert status.data_version == (data_version(value_of(name, newest.text)) if newest else None)
                assert bool(status.why) == (status.state != "fresh")
                done[f"states: {status.state}"] += 1
        assert self.read_as_large_cohort(settings, sources) == found
        if self.touched in found:
            assert subject_status(self.instance, settings, self.touched) == found[self.touched]

    def read_as_large_cohort(self, settings: PipelineSettings, sources: Collection[str]) -> CohortStatus:
        """The states as they are read for many subjects."""
        few, history.FEW = history.FEW, 0
        try:
            return cohort_status(self.instance, settings, DERIVATIVES, sources, self.present)
        finally:
            history.FEW = few

    def check_fresh_results(self) -> None:
        for key in self.present:
            subject = self.subjects[key]
            for name in NAMES:
                if subject.is_up_to_date(name):
                    assert subject.recorded(name) == subject.ideal(name)

    def check_store(self) -> None:
        subject = self.subjects[self.touched]
        for name in NAMES if subject.is_present else ():
            text = subject.recorded(name)
            if text is not None and subject.store.get(name) == Stored(text):
                value, sidecar = self.store.read(name, SubjectKey.parse(self.touched))
                assert text_of(value) == text
                assert data_version(value) == sidecar.data_version == data_version(value_of(name, text))
                done["values read"] += 1

    def check_states_of_dagster(self) -> None:
        subject = self.subjects[self.touched]
        if not subject.is_present:
            return
        resolver = CachingStaleStatusResolver(self.instance, self.graph(), LoadingContextForTest(self.instance))
        expected, found = {}, {}
        for name in NAMES:
            newest = subject.materialization(name)
            if newest is None and name in subject.materialized_before:
                continue  # Dagster retains the events of a removed subject
            if newest and subject.has_new_input(name) and not subject.has_changed(name):
                continue  # Dagster compares the newest version of an input with itself if there was none before
            expected[name] = StaleStatus.FRESH
            if newest is None:
                expected[name] = StaleStatus.MISSING
            elif subject.differs(name):
                expected[name] = StaleStatus.STALE
            found[name] = resolver.get_status(AssetKey(name), self.touched)
            done["states compared with Dagster's"] += 1
        assert found == expected


class HistoriesOnSqlite(Histories):
    def open_instance(self) -> DagsterInstance:
        (self.root / "instance").mkdir()
        return DagsterInstance.local_temp(str(self.root / "instance"))


def _both_contents(path: Path, part: str) -> tuple[bytes, bytes]:
    """The two contents of a file."""
    before = path.read_bytes()
    if part == "brighter":
        image: Any = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * np.float32(BRIGHTER), image.affine), path)
    elif part == "more_weighted":
        np.savetxt(path, np.loadtxt(path)[None] * MORE_WEIGHTED, fmt="%g")
    elif part == "rotated":
        np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]], fmt="%.8f")
    else:
        inside = head()
        inside[: len(inside) // 2] = False
        nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8), AFFINES["right-handed"]), path)
    return before, path.read_bytes()


def check_histories(machine: type[Histories], steps: int, *, repeatable: bool) -> None:
    """Check histories with this number of events in total, and print what was done in them."""
    # Hypothesis parses this file. Once, Python 3.11 raised "AST constructor recursion depth mismatch" there. It can if
    # other code is parsed in between, for example by finalizers of the garbage of earlier tests.
    gc.collect()
    done.clear()
    started = time.perf_counter()
    drawn = hypothesis_settings(
        max_examples=math.ceil(steps / STEPS) + 1,  # the first one repeats the simplest rule
        stateful_step_count=min(steps, STEPS),
        derandomize=repeatable,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=drawn)
    finally:
        print(f"\n{steps} steps in {time.perf_counter() - started:.0f} s")
        for what, count in sorted(done.items()):
            print(f"{count:8} {what}")


def test_states_equal_the_model_after_every_event() -> None:
    check_histories(Histories, 20, repeatable=True)


def test_states_equal_the_model_in_an_instance_on_sqlite() -> None:
    check_histories(HistoriesOnSqlite, 5, repeatable=True)


@pytest.mark.slow
def test_states_equal_the_model_in_as_many_steps_as_requested() -> None:
    check_histories(
        Histories, int(os.environ.get("KWNEURO_STEPS", "150")), repeatable="KWNEURO_STEPS" not in os.environ
    )


@pytest.fixture
def cohort() -> Iterator[Histories]:
    """A cohort whose events a test chooses."""
    machine = Histories()
    yield machine
    machine.teardown()


def test_a_queued_run_is_reported_although_a_later_run_did_not_reach_the_step(cohort: Histories) -> None:
    cohort.queue(key=KEYS[0], wanted=frozenset({"denoised_dwi", "mean_b0"}))
    cohort.break_a_step(name="denoised_dwi")
    cohort.run(key=KEYS[0], wanted=frozenset({"denoised_dwi", "mean_b0"}), force=True)
    cohort.check_all()
    assert cohort.subjects[KEYS[0]].state("mean_b0") == "running"


def test_damage_that_a_skipped_step_does_not_detect_is_repaired_by_the_same_command(cohort: Histories) -> None:
    """csd_peaks starts, because its input was computed again, and is skipped, because that is unchanged. tract_masks is
    stale and finds that the peaks cannot be read.
    """
    cohort.update_one(key=KEYS[0])
    cohort.damage_a_file(key=KEYS[0], name="csd_peaks")
    number = version_without_effect(cohort.subjects[KEYS[0]], "fiber_response")
    cohort.set_an_algorithm_version(name="fiber_response", number=number)
    cohort.set_an_algorithm_version(name="tract_masks", number=9)
    cohort.update_one(key=KEYS[0])
    cohort.check_all()


def test_weights_that_change_vanish_and_return(cohort: Histories) -> None:
    key = KEYS[0]
    cohort.update_one(key=key)
    cohort.change_weights(name="tract_masks", text="other weights")
    cohort.check_all()
    cohort.change_weights(name="tract_endings", text=None)
    cohort.check_all()
    cohort.update_one(key=key)
    cohort.check_all()
    computed = list(cohort.behavior.computed)
    cohort.change_weights(name="tract_endings", text="some weights")
    cohort.check_all()
    cohort.update_one(key=key)
    assert "tract_endings" not in [*computed, *cohort.behavior.computed]
    cohort.check_all()


def test_what_is_computed_from_whatever_exists_follows_an_input_that_fails_and_is_repaired(cohort: Histories) -> None:
    subject = cohort.subjects[KEYS[0]]
    cohort.break_a_step(name="noddi")
    cohort.automate(key=KEYS[0])
    cohort.check_all()
    assert "noddi" in subject.left_out("dwi_qc")
    assert subject.state("noddi") == "failed"
    assert subject.out_of_date(FROM_WHATEVER_EXISTS) == []
    cohort.repair_the_steps()
    cohort.run(key=KEYS[0], wanted=frozenset({"noddi"}), force=False)
    cohort.check_all()
    assert [subject.state(name) for name in FROM_WHATEVER_EXISTS] == ["stale", "stale"]
    cohort.automate(key=KEYS[0])
    cohort.check_all()
    assert subject.out_of_date(NAMES) == []


def test_one_command_computes_a_repaired_input_and_what_was_up_to_date_without_it(cohort: Histories) -> None:
    subject = cohort.subjects[KEYS[0]]
    cohort.break_a_step(name="noddi")
    cohort.update_by_the_log(key=KEYS[0])
    cohort.check_all()
    assert subject.out_of_date(NAMES) == ["noddi"]
    cohort.repair_the_steps()
    cohort.update_by_the_log(key=KEYS[0])
    cohort.check_all()
    assert subject.out_of_date(NAMES) == []
    assert subject.left_out("dwi_qc") == ()


def version_without_effect(subject: Subject, name: str) -> int:
    """A new algorithm version with an unchanged result."""
    before = subject.ideal(name)
    for number in range(2, 100):
        subject.world.algorithm_versions[name] = number
        if subject.ideal(name) == before:
            return number
    raise AssertionError("every version changes the result")
