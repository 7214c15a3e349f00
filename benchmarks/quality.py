"""Quality control: metrics and report of a subject, event log and page of a cohort.

    make bench ARGS="quality"                                        # the event log and the page of 1,000 subjects
    make bench ARGS="quality --subjects 1000,10000"
    make bench ARGS="quality --parts subject --home HOME --subject sub-01"

Parts:
  subject    the metrics by group, and `dwi_qc` and `subject_report` as a run computes them; --home is a project folder
             whose store has the subject's derivatives
  log        the event log of a cohort with and without the derivatives of quality control: events of a run, size of
             the index, the time of `status` and of a tick of the stale-derivatives sensor. The ratio is the price
  cohort     `cohort_qc` of all subjects, again after one new subject, and `cohort_report`

Each measurement is a process of its own. Seconds are wall time, CPU seconds those of the process: on a busy machine,
only these are comparable. `log` takes the least of five repetitions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.process import measure
from kwneuro_assets.threads import thread_count

PARTS = ("subject", "log", "cohort")
BOTH = ("without", "with")


def main(words: list[str]) -> None:
    options = _options(words)
    results: dict[str, Any] = {"machine": machine(options.threads, "")}
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        if "subject" in options.parts:
            results["subject"] = _subject(options)
        for part, measured in (("log", _log), ("cohort", _cohort)):
            if part in options.parts:
                results[part] = [measured(Path(scratch), count, options.threads) for count in options.subjects]
    _print(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def _subject(options: argparse.Namespace) -> dict[str, Any]:
    return {
        what: _measured("subject", [what, options.home.absolute(), options.subject], options.threads)
        for what in ("signal", "metrics", "steps")
    }


def _log(scratch: Path, subjects: int, threads: int) -> dict[str, Any]:
    found: dict[str, Any] = {"subjects": subjects}
    for which in BOTH:
        home = scratch / f"log-{subjects}-{which}"
        written = _measured("log", ["write", home, subjects, which], threads)
        found[which] = {
            **written,
            **{what: _measured("log", [what, home, which], threads) for what in ("status", "tick")},
        }
    return found


def _cohort(scratch: Path, subjects: int, threads: int) -> dict[str, Any]:
    home = scratch / f"cohort-{subjects}"
    _measured("cohort", ["write", home, subjects], threads)
    table = _measured("cohort", ["table", home], threads)
    _measured("cohort", ["add", home], threads)
    again = _measured("cohort", ["table", home], threads)
    return {
        "subjects": subjects,
        "table": table,
        "one_more": again,
        "page": _measured("cohort", ["page", home], threads),
    }


def _measured(what: str, words: list[object], threads: int) -> dict[str, Any]:
    found = measure(f"benchmarks.quality_{what}", words, threads)
    if found.problem:
        sys.exit(f"{what} {' '.join(map(str, words))}: {found.problem}")
    return found.to_json()


def _print(results: dict[str, Any]) -> None:
    console = Console(width=110)
    if subject := results.get("subject"):
        console.print(_table(("step", "seconds", "peak MB"), _subject_rows(subject)))
    for row in results.get("log", []):
        header = (f"{row['subjects']:,} subjects", *BOTH, "ratio")
        console.print(_table(header, [_compared(label, row, *path) for label, path in _LOG_ROWS.items()]))
    for row in results.get("cohort", []):
        columns = (f"{row['subjects']:,} subjects", "seconds", "CPU s", "function s", "peak MB")
        keys = ("seconds", "cpu_seconds", "compute_seconds", "peak_mb")
        found = [[label, *(row[name][key] for key in keys)] for label, name in _COHORT_ROWS.items()]
        console.print(_table(columns, found))


_LOG_ROWS = {
    "events of a run of one subject": ("events",),
    "index of the event log, MB": ("index_mb",),
    "status, CPU s": ("status", "cpu_seconds"),
    "status, s": ("status", "seconds"),
    "tick of the sensor, CPU s": ("tick", "cpu_seconds"),
    "tick of the sensor, s": ("tick", "seconds"),
}
_COHORT_ROWS = {"cohort_qc": "table", "cohort_qc, one new subject": "one_more", "cohort_report": "page"}


def _subject_rows(subject: dict[str, Any]) -> list[list[Any]]:
    steps = subject["steps"]["steps"]
    return [
        *([f"metrics: {name}", seconds, ""] for name, seconds in subject["metrics"]["groups"].items()),
        ["metrics: signal, best of 3", subject["signal"]["seconds"], subject["signal"]["peak_mb"]],
        ["metrics: all", subject["metrics"]["seconds"], subject["metrics"]["peak_mb"]],
        *([f"step {name}", one["seconds"], one["peak_memory_mb"]] for name, one in steps.items()),
        ["the run with reading and writing", subject["steps"]["seconds"], subject["steps"]["peak_mb"]],
    ]


def _compared(label: str, row: dict[str, Any], *path: str) -> list[Any]:
    values = []
    for which in BOTH:
        value = row[which]
        for key in path:
            value = value[key]
        values.append(value)
    return [label, *values, f"{values[1] / values[0]:.2f}"]


def _table(header: tuple[str, ...], rows: list[list[Any]]) -> Table:
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=_parts, help=f"comma-separated [{','.join(PARTS[1:])}]", default=PARTS[1:])
    parser.add_argument("--home", type=Path, help="the project folder of the part `subject`")
    parser.add_argument("--subject", default="sub-01")
    parser.add_argument("--subjects", type=_sizes, default=(1000,), help="comma-separated sizes of the cohort [1000]")
    parser.add_argument("--scratch", type=Path, help="folder for the cohorts; about 0.5 MB per subject")
    parser.add_argument("--threads", type=int, default=thread_count(), help="threads of each process [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args(words)
    if "subject" in options.parts and options.home is None:
        parser.error("the part `subject` needs --home")
    return options


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PARTS)}, found {', '.join(sorted(unknown))}")
    return names


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))
