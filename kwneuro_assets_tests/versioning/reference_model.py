"""What a subject's history makes of its derivatives, told the obvious way: a journal that is read from its end.

It knows no data version, no code version and no event log. Contents and results are texts that are compared as they
are; what a derivative is made from stands in two tables, copied from the documents and not from the code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kwneuro_assets_tests.versioning.quick_derivatives import (
    NONE,
    OPTIONS,
    WRITTEN,
    content_of_mask,
    content_of_series,
    outcome,
    plain,
)

INPUTS: dict[str, tuple[str, ...]] = {
    "denoised_dwi": ("dwi",),
    "mean_b0": ("denoised_dwi",),
    "brain_mask": ("mean_b0",),  # and provided_mask, where brain_mask.method is provided
    "dti": ("denoised_dwi", "brain_mask"),
    "noddi": ("denoised_dwi", "brain_mask"),
    "fiber_response": ("brain_mask",),  # and one series or both, as csd.series says
    "csd_peaks": ("brain_mask", "fiber_response"),  # and these
    "tract_masks": ("csd_peaks",),
    "tract_endings": ("csd_peaks",),
    "tract_orientations": ("csd_peaks", "tract_masks"),
}
USED: dict[str, tuple[str, ...]] = {
    "denoised_dwi": ("denoising.method", "denoising.minimum_ratio"),
    "mean_b0": (),
    "brain_mask": ("brain_mask.method",),
    "dti": ("dti.max_bvalue",),
    "noddi": ("noddi.dpar",),
    "fiber_response": ("csd.series", "csd.method", "csd.shell", "csd.response", "csd.fa_threshold"),
    "csd_peaks": ("csd.series", "csd.peaks"),
    "tract_masks": ("tracts.mask_threshold",),
    "tract_endings": ("tracts.ending_threshold",),
    "tract_orientations": ("tracts.dilation",),
}
NAMES = tuple(INPUTS)
SOURCES = ("dwi", "provided_mask")

Kept = Literal["whole", "without a file", "damaged"]
Code = tuple[int, tuple[tuple[str, str], ...]]  # the algorithm's number and the parameters
Fate = Literal["to come", "made", "failed", "not reached"]


@dataclass
class World:
    """What all subjects share."""

    chosen: dict[str, object] = field(default_factory=lambda: {key: values[0] for key, values in OPTIONS.items()})
    response: str = "1000 -300\n"  # of the file that csd.response may name
    numbers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 1))
    broken: set[str] = field(default_factory=set)

    def inputs(self, name: str) -> tuple[str, ...]:
        if name == "brain_mask" and self.chosen["brain_mask.method"] == "provided":
            return (*INPUTS[name], "provided_mask")
        if name in ("fiber_response", "csd_peaks"):
            series = {"auto": ("dwi", "denoised_dwi"), "denoised": ("denoised_dwi",), "source": ("dwi",)}
            return (*INPUTS[name], *series[str(self.chosen["csd.series"])])
        return INPUTS[name]

    def parameters(self, name: str) -> dict[str, str]:
        def told(key: str) -> str:
            return self.response if key == "csd.response" and self.chosen[key] else plain(self.chosen[key])

        return {key.partition(".")[2]: told(key) for key in USED[name]}

    def code(self, name: str) -> Code:
        return self.numbers[name], tuple(sorted(self.parameters(name).items()))


@dataclass(frozen=True)
class Planned:
    name: str
    run: str


@dataclass(frozen=True)
class Made:
    name: str
    code: Code
    inputs: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class Lost:
    name: str


@dataclass(frozen=True)
class Stored:
    text: str
    kept: Kept = "whole"


@dataclass
class Run:
    """What is known of a run: what became of each step, and whether it still waits or works."""

    fates: dict[str, Fate]
    under_way: bool = True


@dataclass
class Subject:
    """One subject: its files, what was seen of them, what was told since it was added, and what the store has."""

    world: World
    files: dict[str, bool]  # whether each has its other content: brighter, more_weighted, turned, smaller
    is_there: bool = False
    seen: dict[str, str] = field(default_factory=dict)
    journal: list[Planned | Made | Lost] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    store: dict[str, Stored] = field(default_factory=dict)
    lived_before: set[str] = field(default_factory=set)  # what was recorded in an earlier life

    # What there is

    def content(self, source: str) -> str:
        """What would be read now."""
        subsample = int(str(self.world.chosen["source.subsample"]))
        if source == "provided_mask":
            return content_of_mask(smaller=self.files["smaller"], subsample=subsample)
        return content_of_series(
            brighter=self.files["brighter"],
            more_weighted=self.files["more_weighted"],
            turned=self.files["turned"],
            subsample=subsample,
            b0_threshold=float(str(self.world.chosen["source.b0_threshold"])),
        )

    def made(self, name: str) -> Made | None:
        return next((one for one in reversed(self.journal) if isinstance(one, Made) and one.name == name), None)

    def recorded(self, name: str) -> str | None:
        """What the log says of an asset, be it observed or made."""
        if name in SOURCES:
            return self.seen.get(name)
        made = self.made(name)
        return made.text if made else None

    def since_made(self, name: str) -> list[Planned | Made | Lost]:
        """What was told of a derivative after it was last made, newest first."""
        told: list[Planned | Made | Lost] = []
        for one in reversed(self.journal):
            if one.name == name:
                if isinstance(one, Made):
                    break
                told.append(one)
        return told

    def differs(self, name: str) -> bool:
        """Whether it would now be made from something else than it was."""
        made = self.made(name)
        assert made is not None
        if made.code != self.world.code(name) or set(made.inputs) != set(self.world.inputs(name)):
            return True
        return any(self.recorded(key) not in (None, text) for key, text in made.inputs.items())

    def state(self, name: str) -> str:
        since, made = self.since_made(name), self.made(name)
        plans = [one for one in since if isinstance(one, Planned)]
        if any(self.runs[plan.run].under_way for plan in plans):
            return "running"
        if plans and self.runs[plans[0].run].fates[name] == "failed":
            return "failed"
        if made is None or any(isinstance(one, Lost) for one in since):
            return "missing"
        if self.differs(name):
            return "stale"
        if not all(self.settled(parent) for parent in self.world.inputs(name) if parent in INPUTS):
            return "stale-upstream"
        return "not-applicable" if made.text.startswith(NONE) else "fresh"

    def settled(self, name: str) -> bool:
        return self.state(name) in ("fresh", "not-applicable")

    def unsettled(self, names: Collection[str]) -> list[str]:
        return [name for name in NAMES if name in names and not self.settled(name)]

    def under_way(self) -> bool:
        return any(self.state(name) == "running" for name in NAMES)

    def holds(self, name: str) -> bool:
        """Whether the store has, as far as names of files tell, what the log says."""
        stored = self.store.get(name)
        return stored is not None and stored.text == self.recorded(name) and stored.kept != "without a file"

    def ideal(self, name: str) -> str:
        """What a derivative is when all is made from the start, from what was seen last."""
        if name in SOURCES:
            return self.seen[name]
        return self.becomes(name, {key: self.ideal(key) for key in self.world.inputs(name)})

    def becomes(self, name: str, inputs: Mapping[str, str]) -> str:
        for key, text in inputs.items():
            if text.startswith(NONE):
                return f"{NONE}needs {key}, which is not applicable: {text.removeprefix(NONE)}"
        return outcome(name, self.world.numbers[name], inputs, self.world.parameters(name))

    # What happens

    def look(self) -> None:
        """The source is looked at; one that was not there begins a new life, of which the store knows nothing."""
        if not self.is_there:
            self.lived_before |= {one.name for one in self.journal if isinstance(one, Made)}
            self.is_there, self.seen, self.journal, self.runs = True, {}, [], {}
        self.seen["dwi"] = self.content("dwi")
        if self.world.chosen["brain_mask.method"] == "provided":
            self.seen["provided_mask"] = self.content("provided_mask")

    def plan(self, run: str, names: Collection[str]) -> None:
        self.runs[run] = Run(dict.fromkeys(names, "to come"))
        self.journal += [Planned(name, run) for name in NAMES if name in names]

    def lose(self, name: str) -> None:
        self.journal.append(Lost(name))

    def end(self, run: str, failed: Collection[str]) -> None:
        """A run that was under way is over; of what was to come, these failed."""
        one = self.runs.get(run)
        if one is None:
            return  # of an earlier life
        one.under_way = False
        for name, fate in one.fates.items():
            if fate == "to come":
                one.fates[name] = "failed" if name in failed else "not reached"


@dataclass
class Played:
    """What the model says of one run: the steps that began, what was computed, what was found to be lost."""

    began: list[str] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    ended_early: bool = False


class _Ended(Exception):
    """The run is at the place where it is to end early."""


class _Failed(Exception):
    """The step cannot be made."""


def play(
    subject: Subject,
    run: str,
    names: Collection[str],
    order: Sequence[str],
    *,
    force: bool = False,
    end: tuple[str, str] | None = None,
) -> Played:
    """One run of these derivatives, in the order in which Dagster began them; `end` is where and how it ends early."""
    subject.plan(run, names)
    fates, played, memory = subject.runs[run].fates, Played(), set[str]()
    for name in (*order, *(name for name in NAMES if name in names and name not in order)):
        if any(fates[parent] != "made" for parent in subject.world.inputs(name) if parent in names):
            fates[name] = "not reached"
            continue
        played.began.append(name)
        try:
            subject.journal.append(_step(subject, name, played, memory, force, end))
            fates[name] = "made"
        except _Failed:
            fates[name] = "failed"
        except _Ended:
            played.ended_early = True
            if not (end and end[1].startswith("killed")):  # of a killed one nobody knows
                subject.end(run, failed=[name])
            return played
    subject.end(run, failed=[])
    return played


def _step(
    subject: Subject, name: str, played: Played, memory: set[str], force: bool, end: tuple[str, str] | None
) -> Made:
    """What is told of a derivative after its step; `memory` has what the run need not read from the store."""
    inputs: dict[str, str] = {}
    for key in subject.world.inputs(name):
        text = subject.recorded(key)
        if text is None:
            raise _Failed
        inputs[key] = text
    before = subject.made(name)
    lost = any(isinstance(one, Lost) for one in subject.since_made(name))
    if before and not force and not subject.differs(name) and not lost and subject.holds(name):
        return before
    for key, text in inputs.items():
        if key in SOURCES:
            if text != subject.content(key):
                raise _Failed
        elif key not in memory:
            if subject.store.get(key) != Stored(text):
                subject.lose(key)
                played.lost.add(key)
                raise _Failed
            memory.add(key)
    if not any(text.startswith(NONE) for text in inputs.values()):
        played.computed.append(name)
        if end and end[0] == name and end[1] != WRITTEN:
            raise _Ended
        if name in subject.world.broken:
            raise _Failed
    made = Made(name, subject.world.code(name), inputs, subject.becomes(name, inputs))
    subject.store[name] = Stored(made.text)
    if end == (name, WRITTEN):
        raise _Ended
    memory.add(name)
    return made


def update(
    subject: Subject,
    names: Collection[str],
    next_run: Callable[[], tuple[str, Sequence[str]]],
    *,
    force: bool = False,
    trust_log: bool = False,
    end: tuple[str, str] | None = None,
) -> list[Played]:
    """All runs until what is asked for is made, where nothing fails: another one as long as something was found to be
    lost. `next_run` gives the id of the next run that Dagster has, and the steps in the order in which they began."""
    if not trust_log:
        for name in [name for name in names if subject.settled(name) and not subject.holds(name)]:
            subject.lose(name)
    if subject.under_way() and not force:
        return []
    runs: list[Played] = []
    wanted = list(names) if force else subject.unsettled(names)
    while wanted:
        run, order = next_run()
        runs.append(play(subject, run, wanted, order, force=force, end=end))
        if runs[-1].ended_early:
            break  # and with it the whole command
        force = False
        wanted = subject.unsettled(names) if runs[-1].lost & set(names) else []
    return runs
