"""Output of the commands: progress during a run, tables after it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType

from dagster import AssetExecutionContext
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from kwneuro_assets.cohort.result import Result
from kwneuro_assets.ingestion.ingest_index import ScannedSubject
from kwneuro_assets.versioning.staleness import SHORT, CohortStatus, Status, count_states

LINE_SECONDS = 10  # between two progress lines of one step, if there is no terminal for bars
COLUMNS = 6  # subjects per table of states
MANY_SUBJECTS = 20  # for more, the number of subjects per state is printed instead of the states of each subject
_DONE = float("inf")  # in place of the time of the last line: the step is reported as computed
_COLORS = {
    "materialized": "green", "skipped": "green", "fresh": "green", "not-applicable": "blue",
    "missing": "yellow", "stale": "yellow",
    "stale-upstream": "yellow", "running": "cyan", "failed": "red", "upstream-failed": "red",
}  # fmt: skip

console = Console(highlight=False)
if not console.is_terminal:
    console.width = 120  # a log or pipe has no width; rich's default of 80 breaks the tables


class RunConsole:
    """Displays the steps of one subject while they run: bars on a terminal, lines elsewhere.

    Steps in `added` (upstream derivatives) appear when they start.
    """

    def __init__(self, subject: str, assets: Sequence[str], added: Collection[str] = ()) -> None:
        self._subject = subject
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        width = max(map(len, assets))
        self._tasks: dict[str, TaskID] = {
            name: self._bars.add_task(
                f"{subject} {name:<{width}}", total=1.0, start=False, state="queued", visible=name not in added
            )
            for name in assets
        }
        self._line_times: dict[str, float] = {}

    def __enter__(self) -> RunConsole:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def report(self, context: AssetExecutionContext, fraction: float) -> None:
        """Display the fraction of a step that is done."""
        name, now = context.asset_key.to_user_string(), time.monotonic()
        task = self._tasks[name]
        if fraction <= 0:
            self._bars.start_task(task)
        self._bars.update(task, completed=fraction, state=f"{fraction:.0%}", visible=True)
        if fraction >= 1:
            self._bars.stop_task(task)
        if not console.is_terminal:
            self._line(name, fraction, now)

    def finish(self, results: Sequence[Result]) -> None:
        """Display the outcome of each step."""
        for result in results:
            if result.subject == self._subject:
                task = self._tasks[result.asset]
                self._bars.update(task, state=_colored(result.outcome))
                self._bars.stop_task(task)

    def _line(self, name: str, fraction: float, now: float) -> None:
        if fraction < 1 and name in self._line_times and now - self._line_times[name] < LINE_SECONDS:
            return
        state = "started" if fraction <= 0 else "computed" if fraction >= 1 else f"{fraction:.0%}"
        if fraction < 1 or self._line_times[name] is not _DONE:
            console.print(f"{self._subject} {name}: {state}")
        self._line_times[name] = _DONE if fraction >= 1 else now


class FileProgress:
    """Progress over many derivatives: a bar on a terminal, lines at intervals elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar = Progress(
            TextColumn(what), BarColumn(), TextColumn("{task.completed}/{task.total} derivatives"), TimeElapsedColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task(what, total=None)
        self._line_time = time.monotonic()

    def __enter__(self) -> FileProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """Display how many of the derivatives are done."""
        self._bar.update(self._task, completed=done, total=total)
        if not console.is_terminal and time.monotonic() - self._line_time >= LINE_SECONDS:
            console.print(f"{self._what}: {done} of {total} derivatives")
            self._line_time = time.monotonic()


def print_results(results: Sequence[Result]) -> None:
    """Print outcome, computing time and data version of each derivative, then the reasons.

    For many subjects, skipped derivatives are only counted.
    """
    added = ["added"] if any(result.added for result in results) else []
    noted = ["note"] if any(result.note for result in results) else []
    table = Table("subject", "asset", "outcome", "seconds", "data version", *added, *noted, box=None, pad_edge=False)
    many = len({result.subject for result in results}) > MANY_SUBJECTS
    shown = [result for result in results if not (many and result.outcome == "skipped")]
    for result in shown:
        seconds = "" if result.seconds is None else f"{result.seconds:.1f}"
        more = [*(["upstream" if result.added else ""] if added else []), *([result.note] if noted else [])]
        table.add_row(
            result.subject, result.asset, _colored(result.outcome), seconds, result.data_version[:SHORT], *more
        )
    console.print(table)
    if len(shown) < len(results):
        console.print(f"{len(results) - len(shown)} derivatives skipped: they were up to date")
    for result in shown:
        if result.reason:
            console.print(
                f"{result.subject} {result.asset}: {result.outcome}: {result.reason}", soft_wrap=True, markup=False
            )


def print_status(states: CohortStatus, why: bool, by_row: bool = False) -> None:
    """Print the states by subject, or their numbers by asset for many subjects unless `by_row`.

    `why` adds the reasons; one that several subjects share is printed once.
    """
    if not states:
        console.print("no subjects: `kwneuro-assets ingest` adds those of the source")
        return
    assets = list(next(iter(states.values())))
    if by_row or len(states) <= MANY_SUBJECTS:
        subjects = list(states)
        for start in range(0, len(subjects), COLUMNS):
            shown = subjects[start : start + COLUMNS]
            table = Table("asset", *shown, box=None, pad_edge=False)
            for name in assets:
                table.add_row(name, *(_colored(states[subject][name].state) for subject in shown))
            console.print(table)
    else:
        counts = count_states(states)
        present = [state for state in _COLORS if any(state in of_asset for of_asset in counts.values())]
        table = Table("asset", *present, title=f"{len(states)} subjects", box=None, pad_edge=False)
        for name in assets:
            table.add_row(name, *(str(counts[name].get(state, 0)) for state in present))  # type: ignore[call-overload]
        console.print(table)
    if not why:
        return
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for subject, row in states.items():
        for name, status in row.items():
            for reason in status.why:
                reasons.setdefault((name, status.state, reason), []).append(subject)
    for (name, state, reason), sharing in reasons.items():
        who = sharing[0] if len(sharing) == 1 else f"{len(sharing)} subjects (e.g. {sharing[0]})"
        console.print(f"{who} {name}: {state}: {reason}", soft_wrap=True, markup=False)


def print_group(name: str, status: Status) -> None:
    """Print the state of a group derivative and its reasons."""
    console.print(f"\n{name} of the group: {_colored(status.state)}")
    for reason in status.why:
        console.print(f"{name}: {reason}", soft_wrap=True, markup=False)


def print_warnings(warned: Mapping[str, Sequence[str]]) -> None:
    """Print what was repaired or is doubtful in the files of subjects."""
    if warned:
        console.print(f"\n{len(warned)} subjects with warnings", style="yellow")
    for key in list(warned)[:MANY_SUBJECTS]:
        for warning in warned[key]:
            console.print(f"{key}: {warning}", soft_wrap=True, markup=False)
    if len(warned) > MANY_SUBJECTS:
        console.print(f"and {len(warned) - MANY_SUBJECTS} more (all with --json)")


def print_unusable(unusable: Mapping[str, ScannedSubject]) -> None:
    """Print the subjects that are quarantined or removed from the source, the newest first, with the reasons."""
    for problem in ("quarantined", "removed"):
        listed = [key for key, one in unusable.items() if one.problem == problem]
        listed.sort(key=lambda key: -unusable[key].since)
        if listed:
            console.print(f"\n{len(listed)} {problem}", style="yellow")
        for key in listed[:MANY_SUBJECTS]:
            console.print(f"{printable(key)}: {unusable[key].explanation}", soft_wrap=True, markup=False)
        if len(listed) > MANY_SUBJECTS:
            console.print(f"and {len(listed) - MANY_SUBJECTS} more (all with --json)")


def printable(name: str) -> str:
    """The name of a folder, quoted if it has characters that cannot be printed."""
    return name if name.isprintable() else repr(name)


def print_differences(found: Mapping[str, Sequence[str]]) -> None:
    """Print the differences by asset, then the assets without differences."""
    for name, differences in found.items():
        for difference in differences:
            console.print(f"{name}: {difference}", soft_wrap=True, markup=False)
    same = [name for name, differences in found.items() if not differences]
    if same:
        console.print(f"computed in the same way: {', '.join(same)}", soft_wrap=True)


def _colored(state: str) -> str:
    return f"[{_COLORS[state]}]{state}[/]"
