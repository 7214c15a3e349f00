"""Whatever happens to a cohort, in whatever order, the states are those of a slow and obvious model.

A machine draws histories: data and settings change and change back, algorithms get new numbers, steps fail, runs are
cancelled and killed, the store loses files, subjects go and come again. After each step, the states of all derivatives
are compared with the model's and with Dagster's own, and what was computed with what had to be.

    KWNEURO_STEPS=5000 python -m pytest -s -m "" kwneuro_assets_tests/versioning/test_histories.py -k as_many_steps
"""

from __future__ import annotations

import functools
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
from dagster import AssetKey, AssetSelection, DagsterEventType, DagsterInstance
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from kwneuro_assets import dagster_internals
from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.definitions import build
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.source import source_names
from kwneuro_assets.processes import PROCESS_TAG, end_dead_runs, this_process
from kwneuro_assets.running import Result, run_subject, subject_status, update_subject
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage import store as store_module
from kwneuro_assets.storage.names import NAMES as STORED
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import PARTITIONS, SubjectKey
from kwneuro_assets.versioning import history
from kwneuro_assets.versioning.cohort import CohortStatus, cohort_status
from kwneuro_assets.versioning.content import data_version
from kwneuro_assets_tests.small_dataset import AFFINES, head, small_settings, write_dataset
from kwneuro_assets_tests.versioning import reference_model as model
from kwneuro_assets_tests.versioning.quick_derivatives import (
    BRIGHTER,
    MORE_WEIGHTED,
    OPTIONS,
    WRITTEN,
    How,
    Killed,
    quick_derivatives,
    set_number,
    text_of,
    value_of,
)
from kwneuro_assets_tests.versioning.reference_model import NAMES, Kept, Planned, Played, Stored, Subject, World

KEYS = ("sub-01", "sub-02_ses-1", "sub-03")
FILES = {
    "brighter": "dwi.nii.gz",
    "more_weighted": "dwi.bval",
    "turned": "dwi.bvec",
    "smaller": "desc-brain_mask.nii.gz",
}
STEPS = 30  # of one history; then another begins

done: Counter[str] = Counter()  # how often each rule was followed, and what was compared

keys, names, options = st.sampled_from(KEYS), st.sampled_from(NAMES), st.sampled_from(sorted(OPTIONS))
selections = st.one_of(st.just(frozenset(NAMES)), st.frozensets(names, min_size=1))
hows: st.SearchStrategy[How] = st.sampled_from(["cancelled", "interrupted", "killed", WRITTEN])


def step(**drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """A rule of the machine that is counted."""

    def declare(function: Callable[..., None]) -> Any:
        @functools.wraps(function)
        def counted(self: Histories, **values: Any) -> None:
            done[function.__name__] += 1
            self.is_checked = False
            function(self, **values)
            self.last_step = function.__name__

        decorate: Any = rule  # which has overloads for what is not drawn here
        return decorate(**drawn)(counted)

    return declare


class Histories(RuleBasedStateMachine):
    """Real derivatives with stand-ins for what they compute, in a real instance, beside the model of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.root = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.instance = self.stack.enter_context(self.open_instance())
        self.conduct = self.stack.enter_context(quick_derivatives(self.instance))
        self.world = World()
        self.subjects = {
            key: Subject(self.world, {part: bool(number >> bit & 1) for bit, part in enumerate(FILES)})
            for number, key in enumerate(KEYS)
        }
        self.touched = KEYS[0]  # the subject that a step was about, and is looked at most closely
        self.is_checked = False
        self.last_step = ""
        self.known_runs: set[str] = set()
        self.killed: dict[str, tuple[str, str]] = {}  # by run: whose it was, and in which step
        self.waiting: dict[str, str] = {}  # by run: whose it is
        self.graphs: dict[str, AssetGraph] = {}
        write_dataset(self.root / "source", KEYS)
        self.contents = {key: {part: _both_contents(self.file(key, part), part) for part in FILES} for key in KEYS}
        for key, subject in self.subjects.items():
            for part, other in subject.files.items():
                self.file(key, part).write_bytes(self.contents[key][part][other])
        self.look(KEYS)

    def open_instance(self) -> DagsterInstance:
        return DagsterInstance.ephemeral()

    def teardown(self) -> None:
        self.stack.close()

    # What is at hand

    @property
    def settings(self) -> PipelineSettings:
        (self.root / "response.txt").write_text(self.world.response)
        sections: dict[str, dict[str, object]] = {}
        for option, value in self.world.chosen.items():
            section, _, key = option.partition(".")
            chosen = str(self.root / "response.txt") if option == "csd.response" and value else value
            sections.setdefault(section, {})[key] = chosen
        return small_settings(self.root / "source", self.root / "store", **sections)

    @property
    def store(self) -> DerivativeStore:
        return DerivativeStore(self.root / "store")

    @property
    def present(self) -> list[str]:
        return [key for key, subject in self.subjects.items() if subject.is_there]

    def file(self, key: str, part: str) -> Path:
        return self.root / "source" / SubjectKey.parse(key).folder / f"{key}_{FILES[part]}"

    def graph(self) -> AssetGraph:
        version = f"{self.settings.model_dump_json()} {self.world.numbers} {self.world.response}"
        if version not in self.graphs:
            self.graphs[version] = build(self.settings).resolve_asset_graph()
        return self.graphs[version]

    def new_runs(self) -> list[tuple[str, list[str]]]:
        """The runs that there were not, oldest first, and the steps of each in the order in which they began."""
        found = [run.run_id for run in self.instance.get_runs(limit=20) if run.run_id not in self.known_runs]
        self.known_runs |= set(found)
        return [(run_id, self.begun(run_id)) for run_id in reversed(found)]

    def begun(self, run_id: str) -> list[str]:
        starts = self.instance.all_logs(run_id, of_type=DagsterEventType.STEP_START)
        return [str(entry.step_key) for entry in starts]

    # What people and machines do

    def look(self, wanted: Collection[str]) -> None:
        ingest(self.instance, self.settings, only=wanted)
        for key in wanted:
            self.subjects[key].look()

    def make(
        self,
        key: str,
        wanted: Collection[str],
        *,
        force: bool = False,
        trust_log: bool = True,
        end: tuple[str, How] | None = None,
    ) -> None:
        """What the command `run` does, and whether it was what had to be done."""
        subject, self.touched = self.subjects[key], key
        asked = [name for name in NAMES if name in wanted]
        self.conduct.computed.clear()
        self.conduct.end = end
        results: list[Result] | None = None
        try:
            results = update_subject(self.instance, self.settings, key, asked, force=force, trust_log=trust_log)
        except (Killed, KeyboardInterrupt):
            self.conduct.dead = False
        self.conduct.end = None
        runs = iter(self.new_runs())
        told: list[tuple[str, list[str]]] = []

        def next_run() -> tuple[str, Sequence[str]]:
            run = next(runs, None)
            assert run, f"{subject.unsettled(asked)} of {key} remain, and no run makes them"
            told.append(run)
            return run

        played = model.update(subject, asked, next_run, force=force, trust_log=trust_log, end=end)
        assert next(runs, None) is None, "a run that there was no need for"
        self.compare(played, [begun for _, begun in told])
        if told and subject.runs[told[-1][0]].under_way:
            self.killed[told[-1][0]] = (key, told[-1][1][-1])
        if results is not None and end is None:
            self.judge(key, asked, results, played, force=force)

    def compare(self, played: list[Played], begun: list[list[str]]) -> None:
        assert [one.began for one in played] == begun
        assert [name for one in played for name in one.computed] == self.conduct.computed
        done["steps computed"] += len(self.conduct.computed)

    def judge(self, key: str, asked: list[str], results: list[Result], played: list[Played], *, force: bool) -> None:
        subject = self.subjects[key]
        assert [result.asset for result in results] == asked
        if not played and subject.under_way() and not force:
            assert {result.outcome for result in results} == {"skipped"}
        elif len(asked) == len(NAMES):
            assert [result.is_there for result in results] == [subject.settled(name) for name in asked]

    def bring_up_to_date(self, key: str, *, trust_log: bool) -> None:
        """After it, nothing is left to be made, unless something is broken or another run is under way."""
        subject = self.subjects[key]
        self.look([key])
        under_way = subject.under_way()
        self.make(key, NAMES, trust_log=trust_log)
        if not under_way and not self.world.broken:
            assert subject.unsettled(NAMES) == []
            if not trust_log:
                assert [subject.store[name].text for name in NAMES] == [subject.ideal(name) for name in NAMES]
            done["subjects brought up to date"] += 1

    @step(key=keys)
    def update_by_the_log(self, key: str) -> None:
        """What `run --stale` does."""
        self.bring_up_to_date(key, trust_log=True)

    @step(key=keys)
    def update_one(self, key: str) -> None:
        """What `run` does."""
        self.bring_up_to_date(key, trust_log=False)

    @step()
    def update_all(self) -> None:
        for key in KEYS:
            self.bring_up_to_date(key, trust_log=False)

    @step(key=keys, wanted=selections, trust_log=st.booleans(), force=st.booleans())
    def update_some(self, key: str, wanted: frozenset[str], trust_log: bool, force: bool) -> None:
        """What `run --select` does, without a look at the source."""
        if self.subjects[key].is_there:
            self.make(key, wanted, force=force, trust_log=trust_log)

    @step(key=keys, wanted=selections, force=st.booleans())
    def run(self, key: str, wanted: frozenset[str], force: bool) -> None:
        """A run of these, whatever their state: as from the UI."""
        subject, self.touched = self.subjects[key], key
        if not subject.is_there:
            return
        self.conduct.computed.clear()
        run_subject(self.instance, self.settings, key, [name for name in NAMES if name in wanted], force=force)
        [(run_id, begun)] = self.new_runs()
        played = model.play(subject, run_id, wanted, begun, force=force)
        self.compare([played], [begun])

    @step(key=keys, name=names, how=hows, force=st.booleans())
    def end_in_the_middle(self, key: str, name: str, how: How, force: bool) -> None:
        self.find_that_processes_are_gone()  # so that no subject is blocked for most of its history
        if self.subjects[key].is_there:
            self.make(key, NAMES, force=force, end=(name, how))

    @step()
    def end_dead_runs(self) -> None:
        self.find_that_processes_are_gone()

    def find_that_processes_are_gone(self) -> None:
        machine, pid, _ = this_process().split(":")
        for run_id in self.killed:
            self.instance.add_run_tags(run_id, {PROCESS_TAG: f"{machine}:{pid}:before"})
        assert sorted(end_dead_runs(self.instance)) == sorted(self.killed)
        for run_id, (key, name) in self.killed.items():
            self.subjects[key].end(run_id, failed=[name])
        self.killed.clear()

    @step(key=keys, wanted=selections)
    def queue(self, key: str, wanted: frozenset[str]) -> None:
        """A run that waits."""
        self.end_what_waits("cancelled")
        self.touched = key
        if not self.subjects[key].is_there:
            return
        definitions = build(self.settings)
        chosen = AssetSelection.assets(*wanted).resolve(definitions.resolve_asset_graph())
        job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=chosen)
        run_id = self.instance.create_run_for_job(
            job, tags={"dagster/partition": key}, asset_selection=frozenset(chosen)
        ).run_id
        self.known_runs.add(run_id)
        self.subjects[key].plan(run_id, wanted)
        self.waiting[run_id] = key

    @step(how=st.sampled_from(["cancelled", "failed", "deleted"]))
    def end_a_run_that_waits(self, how: str) -> None:
        self.end_what_waits(how)

    def end_what_waits(self, how: str) -> None:
        for run_id, key in self.waiting.items():
            subject = self.subjects[key]
            run = self.instance.get_run_by_id(run_id)
            assert run is not None
            if how == "cancelled":
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
        self.waiting.clear()

    @step(key=keys)
    def look_at_one(self, key: str) -> None:
        self.touched = key
        self.look([key])

    @step()
    def look_at_all(self) -> None:
        self.look(KEYS)

    @step(key=keys, part=st.sampled_from(sorted(FILES)))
    def change_data(self, key: str, part: str) -> None:
        """To the other content, and so back again the next time."""
        self.touched = key
        files = self.subjects[key].files
        files[part] = not files[part]
        self.file(key, part).write_bytes(self.contents[key][part][files[part]])

    @step(option=options, number=st.integers(0, 2))
    def change_setting(self, option: str, number: int) -> None:
        self.world.chosen[option] = OPTIONS[option][number % len(OPTIONS[option])]

    @step()
    def change_how_the_mask_is_found(self) -> None:
        """The setting that changes what depends on what."""
        provided, otsu = OPTIONS["brain_mask.method"]
        self.world.chosen["brain_mask.method"] = (
            otsu if self.world.chosen["brain_mask.method"] == provided else provided
        )

    @step(first=st.integers(1000, 1001))
    def edit_the_response_file(self, first: int) -> None:
        self.world.response = f"{first} -300\n"

    @step(name=names, number=st.integers(1, 3))
    def set_the_number_of_an_algorithm(self, name: str, number: int) -> None:
        self.world.numbers[name] = number
        set_number(name, number)

    @step(name=names)
    def break_a_step(self, name: str) -> None:
        self.world.broken |= {name}
        self.conduct.broken = set(self.world.broken)

    @step()
    def mend_the_steps(self) -> None:
        self.world.broken.clear()
        self.conduct.broken.clear()

    @step(key=keys)
    def remove_a_subject(self, key: str) -> None:
        """A look at the source brings it back, with nothing of what it was."""
        self.touched = key
        if self.subjects[key].is_there:
            self.instance.delete_dynamic_partition(PARTITIONS, key)
            self.subjects[key].is_there = False

    @step()
    def begin_a_new_process(self) -> None:
        """Nothing that a process remembers may matter."""
        self.is_checked = self.last_step == "begin_a_new_process"  # Hypothesis begins with a history of this alone
        self.graphs.clear()
        dagster_internals._steps_of_ended_runs.clear()
        store_module._verified.clear()

    @step(key=keys, name=names)
    def damage_a_file(self, key: str, name: str) -> None:
        """Its name and size stay, so that only who reads it notices."""
        self.change_the_store(key, name, "damaged")

    @step(key=keys, name=names)
    def lose_a_file(self, key: str, name: str) -> None:
        self.change_the_store(key, name, "without a file")

    @step(key=keys, name=names)
    def lose_a_sidecar(self, key: str, name: str) -> None:
        self.touched = key
        if self.subjects[key].store.pop(name, None):
            self.sidecar(key, name).unlink()

    def change_the_store(self, key: str, name: str, kept: Kept) -> None:
        self.touched = key
        stored = self.subjects[key].store.get(name)
        if stored is None or stored.kept != "whole":
            return
        sidecar = self.store.sidecar(name, SubjectKey.parse(key))
        assert sidecar is not None
        files = [file for file in sidecar.files if not file.endswith("_figure.png")]
        if not files:  # a response, or what is not applicable, is but a sidecar
            return
        file = self.sidecar(key, name).with_name(files[0])
        if kept == "damaged":
            file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
        else:
            file.unlink()
        self.subjects[key].store[name] = Stored(stored.text, kept)

    def sidecar(self, key: str, name: str) -> Path:
        return self.root / "store" / STORED[name].sidecar(SubjectKey.parse(key))

    # What must hold whatever happened

    @invariant()
    def all_holds(self) -> None:
        if not self.is_checked:
            self.every_state_is_that_of_the_model()
            self.what_is_fresh_is_what_would_be_made_from_the_start()
            self.the_store_has_what_the_log_says()
            self.dagster_itself_says_the_same_of_direct_parents()
        self.is_checked = True

    def every_state_is_that_of_the_model(self) -> None:
        settings = self.settings
        sources = source_names(settings)
        found = cohort_status(self.instance, settings, DERIVATIVES, sources, self.present)
        expected = {key: {name: self.subjects[key].state(name) for name in NAMES} for key in self.present}
        assert {key: {name: status.state for name, status in row.items()} for key, row in found.items()} == expected
        for key, row in found.items():
            for name, status in row.items():
                made = self.subjects[key].made(name)
                assert status.data_version == (data_version(value_of(name, made.text)) if made else None)
                assert bool(status.why) == (status.state != "fresh")
                done[f"states: {status.state}"] += 1
        assert self.of_all_at_once(settings, sources) == found
        if self.touched in found:
            assert subject_status(self.instance, settings, self.touched) == found[self.touched]

    def of_all_at_once(self, settings: PipelineSettings, sources: Collection[str]) -> CohortStatus:
        """As a large cohort is read."""
        few, history.FEW = history.FEW, 0
        try:
            return cohort_status(self.instance, settings, DERIVATIVES, sources, self.present)
        finally:
            history.FEW = few

    def what_is_fresh_is_what_would_be_made_from_the_start(self) -> None:
        for key in self.present:
            subject = self.subjects[key]
            for name in NAMES:
                if subject.settled(name):
                    assert subject.recorded(name) == subject.ideal(name)

    def the_store_has_what_the_log_says(self) -> None:
        subject = self.subjects[self.touched]
        for name in NAMES if subject.is_there else ():
            text = subject.recorded(name)
            if text is not None and subject.store.get(name) == Stored(text):
                value, sidecar = self.store.read(name, SubjectKey.parse(self.touched))
                assert text_of(value) == text
                assert data_version(value) == sidecar.data_version == data_version(value_of(name, text))
                done["values read"] += 1

    def dagster_itself_says_the_same_of_direct_parents(self) -> None:
        subject = self.subjects[self.touched]
        if not subject.is_there:
            return
        resolver = CachingStaleStatusResolver(self.instance, self.graph(), LoadingContextForTest(self.instance))
        expected, found = {}, {}
        for name in NAMES:
            made = subject.made(name)
            if made is None and name in subject.lived_before:
                continue  # Dagster keeps what was recorded of an earlier life
            expected[name] = StaleStatus.FRESH
            if made is None:
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
    """The file's content, and the other one that it may have."""
    before = path.read_bytes()
    if part == "brighter":
        image: Any = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * np.float32(BRIGHTER), image.affine), path)
    elif part == "more_weighted":
        np.savetxt(path, np.loadtxt(path)[None] * MORE_WEIGHTED, fmt="%g")
    elif part == "turned":
        np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]], fmt="%.8f")
    else:
        inside = head()
        inside[: len(inside) // 2] = False
        nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8), AFFINES["right-handed"]), path)
    return before, path.read_bytes()


def follow(machine: type[Histories], steps: int, *, repeatable: bool) -> None:
    """Draw histories of so many steps in all, and tell what was done in them."""
    done.clear()
    started = time.perf_counter()
    drawn = hypothesis_settings(
        max_examples=math.ceil(steps / STEPS) + 1,  # the first one does the simplest thing again and again
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


def test_after_every_step_of_any_history_the_states_are_those_of_the_model() -> None:
    follow(Histories, 60, repeatable=True)


def test_so_they_are_in_an_instance_on_sqlite() -> None:
    follow(HistoriesOnSqlite, 10, repeatable=True)


@pytest.mark.slow
def test_so_they_are_in_histories_of_as_many_steps_as_are_asked_for() -> None:
    follow(Histories, int(os.environ.get("KWNEURO_STEPS", "150")), repeatable="KWNEURO_STEPS" not in os.environ)


@pytest.fixture
def cohort() -> Iterator[Histories]:
    """A cohort to which a test does what it wants to have done."""
    machine = Histories()
    yield machine
    machine.teardown()


def test_a_run_that_waits_is_told_though_a_later_one_never_reached_the_step(cohort: Histories) -> None:
    cohort.queue(key=KEYS[0], wanted=frozenset({"denoised_dwi", "mean_b0"}))
    cohort.break_a_step(name="denoised_dwi")
    cohort.run(key=KEYS[0], wanted=frozenset({"denoised_dwi", "mean_b0"}), force=True)
    cohort.all_holds()
    assert cohort.subjects[KEYS[0]].state("mean_b0") == "running"


def test_damage_that_a_step_overlooks_as_it_is_kept_is_mended_in_the_same_command(cohort: Histories) -> None:
    """The peaks are reached, as what is above them is new, and kept, as that is the same again; what follows them is
    to be made, and finds that they cannot be read."""
    cohort.update_one(key=KEYS[0])
    cohort.damage_a_file(key=KEYS[0], name="csd_peaks")
    number = number_that_changes_nothing(cohort.subjects[KEYS[0]], "fiber_response")
    cohort.set_the_number_of_an_algorithm(name="fiber_response", number=number)
    cohort.set_the_number_of_an_algorithm(name="tract_masks", number=9)
    cohort.update_one(key=KEYS[0])
    cohort.all_holds()


def number_that_changes_nothing(subject: Subject, name: str) -> int:
    """A new number of an algorithm under which its result is what it was."""
    before = subject.ideal(name)
    for number in range(2, 100):
        subject.world.numbers[name] = number
        if subject.ideal(name) == before:
            return number
    raise AssertionError("no number gives the same")
