"""What the command line shows: progress while it computes, tables when it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from dagster import AssetExecutionContext
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from kwneuro_assets.ingestion.ledger import Seen
from kwneuro_assets.running import Result
from kwneuro_assets.versioning.cohort import CohortStatus, Status, counted

LINE_SECONDS = 10  # between two lines of one step where there is no terminal for bars
COLUMNS = 6  # subjects beside each other in a table of states
MANY_SUBJECTS = 20  # above it, a table of counts takes the place of one row per subject
_DONE = float("inf")  # the time of a step that has been told as computed
_SHORT = 12  # digits of a version that a person compares
_COLOURS = {
    "made": "green", "fresh": "green", "not-applicable": "blue", "missing": "yellow", "stale": "yellow",
    "stale-upstream": "yellow", "running": "cyan", "failed": "red", "skipped": "red",
}  # fmt: skip

console = Console(highlight=False)
if not console.is_terminal:
    console.width = 120  # a log or a pipe has no width of its own; 80 would break the tables


class RunConsole:
    """Shows one subject's steps while they run: a bar each on a terminal, a line each elsewhere."""

    def __init__(self, subject: str, assets: Sequence[str]) -> None:
        self._subject = subject
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        width = max(map(len, assets))
        self._tasks: dict[str, TaskID] = {
            name: self._bars.add_task(f"{subject} {name:<{width}}", total=1.0, start=False, state="waits")
            for name in assets
        }
        self._told: dict[str, float] = {}

    def __enter__(self) -> RunConsole:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def report(self, context: AssetExecutionContext, fraction: float) -> None:
        name, now = context.asset_key.to_user_string(), time.monotonic()
        task = self._tasks[name]
        if fraction <= 0:
            self._bars.start_task(task)
        self._bars.update(task, completed=fraction, state=f"{fraction:.0%}")
        if fraction >= 1:
            self._bars.stop_task(task)
        if not console.is_terminal:
            self._line(name, fraction, now)

    def finish(self, results: Sequence[Result]) -> None:
        """Mark every step with what became of it."""
        for result in results:
            if result.subject == self._subject:
                task = self._tasks[result.asset]
                self._bars.update(task, state=_coloured(result.outcome))
                self._bars.stop_task(task)

    def _line(self, name: str, fraction: float, now: float) -> None:
        if fraction < 1 and name in self._told and now - self._told[name] < LINE_SECONDS:
            return
        state = "starts" if fraction <= 0 else "computed" if fraction >= 1 else f"{fraction:.0%}"
        if fraction < 1 or self._told[name] is not _DONE:
            console.print(f"{self._subject} {name}: {state}")
        self._told[name] = _DONE if fraction >= 1 else now


class FileProgress:
    """How far work on many derivatives is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar = Progress(
            TextColumn(what), BarColumn(), TextColumn("{task.completed}/{task.total} derivatives"), TimeElapsedColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task(what, total=None)
        self._told = time.monotonic()

    def __enter__(self) -> FileProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
        if not console.is_terminal and time.monotonic() - self._told >= LINE_SECONDS:
            console.print(f"{self._what}: {done} of {total} derivatives")
            self._told = time.monotonic()


def print_results(results: Sequence[Result]) -> None:
    """The outcome of each derivative with its time and data version, and the reason of each that was not made; of many
    subjects those that were fresh are only counted."""
    table = Table("subject", "asset", "outcome", "seconds", "data version", box=None, pad_edge=False)
    many = len({result.subject for result in results}) > MANY_SUBJECTS
    shown = [result for result in results if not (many and result.outcome == "fresh")]
    for result in shown:
        seconds = "" if result.seconds is None else f"{result.seconds:.1f}"
        table.add_row(
            result.subject, result.asset, _coloured(result.outcome), seconds, result.data_version[:_SHORT]
        )  # fmt: skip
    console.print(table)
    if len(shown) < len(results):
        console.print(f"{len(results) - len(shown)} derivatives were fresh")
    for result in shown:
        if result.reason:
            console.print(
                f"{result.subject} {result.asset}: {result.outcome}: {result.reason}", soft_wrap=True, markup=False
            )


def print_status(states: CohortStatus, why: bool, by_row: bool = False) -> None:
    """States by subject, or their counts by asset where subjects are many and not asked for one by one; with the
    reasons where asked, which many subjects share."""
    if not states:
        console.print("no subjects yet: `kwneuro-assets ingest` looks for them")
        return
    assets = list(next(iter(states.values())))
    if by_row or len(states) <= MANY_SUBJECTS:
        subjects = list(states)
        for start in range(0, len(subjects), COLUMNS):
            shown = subjects[start : start + COLUMNS]
            table = Table("asset", *shown, box=None, pad_edge=False)
            for name in assets:
                table.add_row(name, *(_coloured(states[subject][name].state) for subject in shown))
            console.print(table)
    else:
        counts = counted(states)
        seen = [state for state in _COLOURS if any(state in of_asset for of_asset in counts.values())]
        table = Table("asset", *seen, title=f"{len(states)} subjects", box=None, pad_edge=False)
        for name in assets:
            table.add_row(name, *(str(counts[name].get(state, 0)) for state in seen))  # type: ignore[call-overload]
        console.print(table)
    if not why:
        return
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for subject, row in states.items():
        for name, status in row.items():
            for reason in status.why:
                reasons.setdefault((name, status.state, reason), []).append(subject)
    for (name, state, reason), alike in reasons.items():
        who = alike[0] if len(alike) == 1 else f"{len(alike)} subjects (such as {alike[0]})"
        console.print(f"{who} {name}: {state}: {reason}", soft_wrap=True, markup=False)


def print_group(name: str, status: Status) -> None:
    """The state of what is made of all subjects together, with what there is to say of it."""
    console.print(f"\n{name} of all subjects: {_coloured(status.state)}")
    for reason in status.why:
        console.print(f"{name}: {reason}", soft_wrap=True, markup=False)


def print_set_aside(aside: Mapping[str, Seen]) -> None:
    """The subjects that are left alone, the newest first, with the reason of each."""
    for mark in ("quarantined", "removed"):
        listed = sorted((key for key, one in aside.items() if one.mark == mark), key=lambda key: -aside[key].since)
        if listed:
            console.print(f"\n{len(listed)} {mark}", style="yellow")
        for key in listed[:MANY_SUBJECTS]:
            console.print(f"{shown_name(key)}: {aside[key].sentence}", soft_wrap=True, markup=False)
        if len(listed) > MANY_SUBJECTS:
            console.print(f"and {len(listed) - MANY_SUBJECTS} more (all with --json)")


def shown_name(name: str) -> str:
    """The name of a folder, which may be no word at all."""
    return name if name.isprintable() else repr(name)


def print_differences(found: Mapping[str, Sequence[str]]) -> None:
    """By asset, what differs."""
    for name, differences in found.items():
        for difference in differences:
            console.print(f"{name}: {difference}", soft_wrap=True, markup=False)
    same = [name for name, differences in found.items() if not differences]
    if same:
        console.print(f"made in the same way: {', '.join(same)}", soft_wrap=True)


def _coloured(state: str) -> str:
    return f"[{_COLOURS[state]}]{state}[/]"
