"""A slow and obvious model of the states of derivatives: a journal that is read from its end.

It has no data versions, code versions or event log. Contents and results are texts that are compared directly. Two
tables, copied from the documentation and not from the code, have the inputs and parameters of each derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kwneuro_assets_tests.versioning.quick_derivatives import (
    NETWORKS,
    NONE,
    OPTIONS,
    WEIGHTS,
    WRITTEN,
    content_of_dwi,
    content_of_mask,
    outcome,
    passes,
    plain,
)

INPUTS: dict[str, tuple[str, ...]] = {
    "denoised_dwi": ("dwi",),
    "mean_b0": ("denoised_dwi",),
    "brain_mask": ("mean_b0",),  # and provided_mask, if brain_mask.method is provided
    "dti": ("denoised_dwi", "brain_mask"),
    "noddi": ("denoised_dwi", "brain_mask"),
    "fiber_response": ("brain_mask",),  # and dwi, denoised_dwi or both, depending on csd.series
    "csd_peaks": ("brain_mask", "fiber_response"),  # likewise
    "tract_masks": ("csd_peaks",),
    "tract_endings": ("csd_peaks",),
    "tract_orientations": ("csd_peaks", "tract_masks"),
    "dwi_qc": (
        "dwi", "denoised_dwi", "mean_b0", "brain_mask", "dti", "noddi", "fiber_response", "csd_peaks", "tract_masks",
    ),
    "subject_report": (
        "dwi", "denoised_dwi", "mean_b0", "brain_mask", "dti", "noddi", "fiber_response", "csd_peaks", "tract_masks",
        "tract_endings", "tract_orientations", "dwi_qc",
    ),
}  # fmt: skip
# The derivatives that are computed from whatever exists: all their inputs but `dwi` may be missing or not applicable.
FROM_WHATEVER_EXISTS = ("dwi_qc", "subject_report")
# Inputs of the report of which it shows how they were computed, so that their values are not read.
NOT_READ = {
    "subject_report": ("dwi", "denoised_dwi", "fiber_response", "tract_endings", "tract_orientations"),
}
WITH_CHECKS = ("dwi_qc",)
USED: dict[str, tuple[str, ...]] = {
    "denoised_dwi": ("denoising.method", "denoising.min_ratio"),
    "mean_b0": (),
    "brain_mask": ("brain_mask.method",),
    "dti": ("dti.max_bvalue",),
    "noddi": ("noddi.dpar",),
    "fiber_response": ("csd.series", "csd.method", "csd.shell", "csd.wm_response", "csd.fa_threshold"),
    "csd_peaks": ("csd.series", "csd.max_peaks"),
    "tract_masks": ("tracts.mask_threshold",),
    "tract_endings": ("tracts.ending_threshold",),
    "tract_orientations": ("tracts.dilation",),
    "dwi_qc": (),
    "subject_report": ("report.embed", "checks.max_mask_pieces"),
}
NAMES = tuple(INPUTS)
SOURCES = ("dwi", "provided_mask")

Condition = Literal["intact", "without a file", "damaged"]
# Algorithm version, parameters, and the weights of the network ("" if there is no network, None if they are absent).
Code = tuple[int, tuple[tuple[str, str], ...], str | None]
StepState = Literal["pending", "succeeded", "failed", "not reached"]


@dataclass
class World:
    """What all subjects have in common."""

    chosen: dict[str, object] = field(default_factory=lambda: {key: values[0] for key, values in OPTIONS.items()})
    response: str = "1000 -300\n"  # of the file that csd.wm_response may name
    algorithm_versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 1))
    weights: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(NETWORKS.values(), WEIGHTS[0]))
    broken: set[str] = field(default_factory=set)

    def inputs(self, name: str) -> tuple[str, ...]:
        if name == "brain_mask" and self.chosen["brain_mask.method"] == "provided":
            return (*INPUTS[name], "provided_mask")
        if name in ("fiber_response", "csd_peaks"):
            series = {"auto": ("dwi", "denoised_dwi"), "denoised": ("denoised_dwi",), "source": ("dwi",)}
            return (*INPUTS[name], *series[str(self.chosen["csd.series"])])
        return INPUTS[name]

    def parameters(self, name: str) -> dict[str, str]:
        def text(key: str) -> str:
            return self.response if key == "csd.wm_response" and self.chosen[key] else plain(self.chosen[key])

        return {key.partition(".")[2]: text(key) for key in USED[name]}

    def weights_of(self, name: str) -> str | None:
        return self.weights[NETWORKS[name]] if name in NETWORKS else ""

    def may_be_missing(self, name: str) -> tuple[str, ...]:
        return tuple(key for key in self.inputs(name) if name in FROM_WHATEVER_EXISTS and key != "dwi")

    def checks_pass(self, text: str) -> bool:
        return passes(text, int(str(self.chosen["checks.max_mask_pieces"])))

    def code(self, name: str) -> Code:
        return self.algorithm_versions[name], tuple(sorted(self.parameters(name).items())), self.weights_of(name)


@dataclass(frozen=True)
class Planned:
    name: str
    run: str


@dataclass(frozen=True)
class Materialized:
    name: str
    code: Code
    inputs: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class MissingFromStore:
    name: str


@dataclass(frozen=True)
class Stored:
    text: str
    condition: Condition = "intact"


@dataclass
class Run:
    """The state of each step of a run, and whether the run is queued or running."""

    steps: dict[str, StepState]
    is_active: bool = True


@dataclass
class Subject:
    """One subject: its source files, what was observed of them, its journal, runs and stored derivatives."""

    world: World
    files: dict[str, bool]  # whether each has its second content: brighter, more_weighted, rotated, smaller
    is_present: bool = False
    observed: dict[str, str] = field(default_factory=dict)
    journal: list[Planned | Materialized | MissingFromStore] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    store: dict[str, Stored] = field(default_factory=dict)
    materialized_before: set[str] = field(default_factory=set)  # before the subject was removed and added again

    # Its state

    def content(self, source: str) -> str:
        """The content of a source file."""
        subsample = int(str(self.world.chosen["source.subsample"]))
        if source == "provided_mask":
            return content_of_mask(smaller=self.files["smaller"], subsample=subsample)
        return content_of_dwi(
            brighter=self.files["brighter"],
            more_weighted=self.files["more_weighted"],
            rotated=self.files["rotated"],
            subsample=subsample,
            b0_threshold=float(str(self.world.chosen["source.b0_threshold"])),
        )

    def materialization(self, name: str) -> Materialized | None:
        return next((one for one in reversed(self.journal) if isinstance(one, Materialized) and one.name == name), None)

    def recorded(self, name: str) -> str | None:
        """The observed or materialized content of an asset."""
        if name in SOURCES:
            return self.observed.get(name)
        newest = self.materialization(name)
        return newest.text if newest else None

    def since_materialized(self, name: str) -> list[Planned | Materialized | MissingFromStore]:
        """The journal of a derivative after its newest materialization, newest first."""
        entries: list[Planned | Materialized | MissingFromStore] = []
        for one in reversed(self.journal):
            if one.name == name:
                if isinstance(one, Materialized):
                    break
                entries.append(one)
        return entries

    def differs(self, name: str) -> bool:
        """Whether code, parameters or inputs differ from those of its newest materialization."""
        return self.has_changed(name) or self.has_new_input(name)

    def has_new_input(self, name: str) -> bool:
        """Whether an input exists now that was left out."""
        return any(self.recorded(key) is not None for key in self.left_out(name))

    def has_changed(self, name: str) -> bool:
        """Whether code, parameters or the inputs that were not left out differ."""
        newest = self.materialization(name)
        assert newest is not None
        if newest.code != self.world.code(name):
            return True
        if {*newest.inputs, *self.left_out(name)} != set(self.world.inputs(name)):
            return True
        return any(self.recorded(key) not in (None, text) for key, text in newest.inputs.items())

    def left_out(self, name: str) -> tuple[str, ...]:
        """The inputs without which its newest materialization was computed."""
        newest = self.materialization(name)
        return tuple(key for key in self.world.may_be_missing(name) if newest is None or key not in newest.inputs)

    def is_final(self, name: str) -> bool:
        """Whether nothing is to come from any input: each is up to date, or was left out and still does not exist."""
        left_out = self.left_out(name)
        return all(
            self.is_up_to_date(parent) or (parent in left_out and self.state(parent) in ("missing", "failed"))
            for parent in self.world.inputs(name)
            if parent in INPUTS
        )

    def state(self, name: str) -> str:
        since, newest = self.since_materialized(name), self.materialization(name)
        plans = [one for one in since if isinstance(one, Planned)]
        if any(self.runs[plan.run].is_active for plan in plans):
            return "running"
        if plans and self.runs[plans[0].run].steps[name] == "failed":
            return "failed"
        if newest is None or any(isinstance(one, MissingFromStore) for one in since):
            return "missing"
        if self.differs(name):
            return "stale"
        if not self.is_final(name):
            return "stale-upstream"
        return "not-applicable" if newest.text.startswith(NONE) else "fresh"

    def is_up_to_date(self, name: str) -> bool:
        return self.state(name) in ("fresh", "not-applicable")

    def out_of_date(self, names: Collection[str]) -> list[str]:
        return [name for name in NAMES if name in names and not self.is_up_to_date(name)]

    def has_active_run(self) -> bool:
        return any(self.state(name) == "running" for name in NAMES)

    def holds(self, name: str) -> bool:
        """Whether the store has the recorded derivative, judged by its sidecar and the names of its files."""
        stored = self.store.get(name)
        return stored is not None and stored.text == self.recorded(name) and stored.condition != "without a file"

    def ideal(self, name: str) -> str:
        """The result if everything that exists is computed from the newest observed sources."""
        if name in SOURCES:
            return self.observed[name]
        existing = [
            key
            for key in self.world.inputs(name)
            if key not in self.world.may_be_missing(name) or self.recorded(key) is not None
        ]
        return self.result(name, {key: self.ideal(key) for key in existing})

    def result(self, name: str, inputs: Mapping[str, str]) -> str:
        for key, text in inputs.items():
            if text.startswith(NONE) and name not in FROM_WHATEVER_EXISTS:
                return f"{NONE}needs {key}, which is not applicable: {text.removeprefix(NONE)}"
        parameters = self.world.parameters(name)
        if name in NETWORKS:
            parameters[NETWORKS[name]] = str(self.world.weights_of(name))
        return outcome(name, self.world.algorithm_versions[name], inputs, parameters)

    # Events

    def ingest(self) -> None:
        """Ingest of the source. A subject that was removed starts with an empty journal."""
        if not self.is_present:
            self.materialized_before |= {one.name for one in self.journal if isinstance(one, Materialized)}
            self.is_present, self.observed, self.journal, self.runs = True, {}, [], {}
        self.observed["dwi"] = self.content("dwi")
        if self.world.chosen["brain_mask.method"] == "provided":
            self.observed["provided_mask"] = self.content("provided_mask")

    def plan(self, run: str, names: Collection[str]) -> None:
        self.runs[run] = Run(dict.fromkeys(names, "pending"))
        self.journal += [Planned(name, run) for name in NAMES if name in names]

    def report_missing(self, name: str) -> None:
        self.journal.append(MissingFromStore(name))

    def end(self, run: str, failed: Collection[str]) -> None:
        """A run ends; of its pending steps, these failed."""
        one = self.runs.get(run)
        if one is None:
            return  # of the subject before it was removed
        one.is_active = False
        for name, state in one.steps.items():
            if state == "pending":
                one.steps[name] = "failed" if name in failed else "not reached"


@dataclass
class ExpectedRun:
    """What the model expects of one run: steps that start, derivatives that are computed, and those found missing."""

    started: list[str] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    verdicts: dict[str, bool] = field(default_factory=dict)  # of the checks of a derivative
    ended_early: bool = False


class _Ended(Exception):
    """The run has reached the point where it ends early."""


class _Failed(Exception):
    """The step fails."""


def play(
    subject: Subject,
    run: str,
    names: Collection[str],
    order: Sequence[str],
    *,
    forced: Collection[str] = (),
    end: tuple[str, str] | None = None,
) -> ExpectedRun:
    """One run of these derivatives, in the order in which Dagster started them.

    `end` is the step during which it ends early, and how.
    """
    subject.plan(run, names)
    steps, expected, memory = subject.runs[run].steps, ExpectedRun(), set[str]()
    for name in (*order, *(name for name in NAMES if name in names and name not in order)):
        if any(steps[parent] != "succeeded" for parent in subject.world.inputs(name) if parent in names):
            steps[name] = "not reached"
            continue
        expected.started.append(name)
        try:
            new = _step(subject, name, expected, memory, name in forced, end)
            subject.journal.append(new)
            steps[name] = "succeeded"
            if name in WITH_CHECKS:
                expected.verdicts[name] = subject.world.checks_pass(new.text)
        except _Failed:
            steps[name] = "failed"
        except _Ended:
            expected.ended_early = True
            if not (end and end[1].startswith("killed")):  # a killed run cannot record its end
                subject.end(run, failed=[name])
            return expected
    subject.end(run, failed=[])
    return expected


def _step(
    subject: Subject, name: str, expected: ExpectedRun, memory: set[str], force: bool, end: tuple[str, str] | None
) -> Materialized:
    """The materialization that a step records; `memory` has the values that the run does not read from the store."""
    inputs: dict[str, str] = {}
    for key in subject.world.inputs(name):
        text = subject.recorded(key)
        if text is not None:
            inputs[key] = text
        elif key not in subject.world.may_be_missing(name):
            raise _Failed
    is_computed = name in FROM_WHATEVER_EXISTS or not any(text.startswith(NONE) for text in inputs.values())
    if is_computed and subject.world.weights_of(name) is None:
        raise _Failed  # they cannot be downloaded
    before = subject.materialization(name)
    missing = any(isinstance(one, MissingFromStore) for one in subject.since_materialized(name))
    if before and not force and not subject.differs(name) and not missing and subject.holds(name):
        if name in WITH_CHECKS:  # they are evaluated again
            _load(subject, name, before.text, expected, memory)
        return before
    for key, text in inputs.items():
        if key not in NOT_READ.get(name, ()):
            _load(subject, key, text, expected, memory)
    if is_computed:
        expected.computed.append(name)
        if end and end[0] == name and end[1] != WRITTEN:
            raise _Ended
        if name in subject.world.broken:
            raise _Failed
    new = Materialized(name, subject.world.code(name), inputs, subject.result(name, inputs))
    subject.store[name] = Stored(new.text)
    if end == (name, WRITTEN):
        raise _Ended
    memory.add(name)
    return new


def _load(subject: Subject, key: str, text: str, expected: ExpectedRun, memory: set[str]) -> None:
    """A value is read from the source, from the memory of the run or from the store."""
    if key in SOURCES:
        if text != subject.content(key):
            raise _Failed
    elif key not in memory:
        if subject.store.get(key) != Stored(text):
            subject.report_missing(key)
            expected.missing.add(key)
            raise _Failed
        memory.add(key)


def update(
    subject: Subject,
    names: Collection[str],
    next_run: Callable[[], tuple[str, Sequence[str]]],
    *,
    forced: Collection[str] = (),
    trust_log: bool = False,
    end: tuple[str, str] | None = None,
) -> list[ExpectedRun]:
    """All runs of a command: one, and another one whenever a requested derivative was found missing; at last those of
    derivatives that did not start because an input failed without which they can be computed.

    `next_run` returns the id of the next run in Dagster, and its steps in the order in which they started.
    """
    if not trust_log:
        for name in [name for name in names if subject.is_up_to_date(name) and not subject.holds(name)]:
            subject.report_missing(name)
    if subject.has_active_run() and not forced:
        return []
    runs: list[ExpectedRun] = []
    steps: dict[str, StepState] = {}  # of the newest run that had it
    wanted = _to_compute(subject, names, forced)
    while wanted:
        run, order = next_run()
        runs.append(play(subject, run, wanted, order, forced=forced, end=end))
        if runs[-1].ended_early:
            return runs  # and with it the command
        steps |= subject.runs[run].steps
        forced = ()
        wanted = _to_compute(subject, names) if runs[-1].missing & set(names) else []
    while remaining := _without_failed(subject, names, steps):
        run, order = next_run()
        runs.append(play(subject, run, remaining, order, end=end))
        if runs[-1].ended_early:
            break
        steps |= subject.runs[run].steps
    return runs


def _to_compute(subject: Subject, names: Collection[str], forced: Collection[str] = ()) -> list[str]:
    """What is out of date or forced, and what may soon be: one of its inputs that may be missing is computed, too."""
    wanted: list[str] = []
    for name in NAMES:
        is_wanted = name in forced or not subject.is_up_to_date(name)
        if name in names and (is_wanted or any(key in wanted for key in subject.world.may_be_missing(name))):
            wanted.append(name)
    return wanted


def _without_failed(subject: Subject, names: Collection[str], steps: Mapping[str, StepState]) -> list[str]:
    """The derivatives that were not reached although each input that is not there may be missing."""
    remaining: list[str] = []
    for name in FROM_WHATEVER_EXISTS:
        without = [key for key in subject.world.inputs(name) if steps.get(key, "succeeded") != "succeeded"]
        needed = [key for key in without if key not in subject.world.may_be_missing(name) and key not in remaining]
        if name in names and steps.get(name) == "not reached" and not needed:
            remaining.append(name)
    return remaining
