"""Times ticks of the stale-derivatives sensor over a cohort, and checks the requested runs.

    make bench ARGS="automation"                                  # 10,000 subjects: two minutes to write, 1.6 GB
    make bench ARGS="automation --subjects 1000 --scratch DIR"    # stores the cohort in DIR for later benchmarks

There are three ticks, each in a new process, as after a restart of the code server. In the first, nothing is new: some
subjects failed too often or are stale after a change of settings, and for some the run has died, which this tick
detects. Only the QC of subjects whose derivative failed for good is requested. In the second, the data of 50 subjects
have changed. In the third, all these runs are queued. A tick is everything that the code server does, including
Dagster's checks of the requests. Each tick is timed twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dagster import AssetObservation, DagsterInstance
from rich.console import Console
from rich.table import Table

from kwneuro_assets.cli.project_folder import use_project_folder
from kwneuro_assets.versioning.records import DATA_VERSION_TAG
from kwneuro_assets_tests.testkit.event_log import KINDS, NAMES, write_cohort
from kwneuro_assets_tests.testkit.run_templates import OF_WHATEVER_EXISTS
from kwneuro_assets_tests.testkit.ticking import create_runs, requested_steps, tick

CHANGED = 50
SUBJECTS = "subjects.json"  # in the folder of a cohort, written last: the subjects of each kind
# No subjects that the sensor would materialize; failed derivatives have used all attempts.
FRACTIONS = {"changed": 0.0, "missing": 0.0, "new": 0.0}
# Kinds with a failed derivative that has no value: the sensor requests what is computed without it.
LACKING = ("never_succeeded", "running")
SETTINGS = "automation: {attempts: 1, max_runs: 1000}\n"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=10_000)
    parser.add_argument("--scratch", type=Path, help="folder that stores the cohort for later benchmarks")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "home"
        stored = (arguments.scratch or Path(temporary)).absolute() / f"cohort-{arguments.subjects}"
        if not (stored / SUBJECTS).exists():
            _in_new_process("write", stored, arguments.subjects)
        shutil.copytree(stored, home)
        kinds = json.loads((stored / SUBJECTS).read_text())
        lacking = dict.fromkeys([key for kind in LACKING for key in kinds[kind]], ",".join(OF_WHATEVER_EXISTS))
        rows = [_row("nothing new", _in_new_process("tick", home), lacking)]
        # Every derivative is downstream of dwi.
        changed = lacking | dict.fromkeys(_in_new_process("change", home), ",".join(NAMES))
        rows.append(_row(f"{CHANGED} changed", _in_new_process("tick", home), changed))
        _in_new_process("queue", home)
        rows.append(_row("all these runs queued", _in_new_process("tick", home), {}))
    _print(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    if not all(row["correct"] for row in rows):
        sys.exit("a tick did not request the expected runs")


def _row(tick: str, found: dict[str, Any], expected: dict[str, str]) -> dict[str, Any]:
    """`expected` has the comma-separated derivatives of each requested run, by subject."""
    return {"tick": tick, **found, "requested": len(found["requested"]), "correct": found["requested"] == expected}


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("tick", "seconds", "again", "peak MB", "requested runs", "as expected", box=None, pad_edge=False)
    for row in rows:
        values = [str(row[key]) for key in ("tick", "seconds", "again", "peak_mb", "requested")]
        table.add_row(*values, "yes" if row["correct"] else "NO")
    Console().print(table)
    for row in rows:
        print(f"{row['tick']}: {row['message']}")


def _in_new_process(what: str, home: Path, *words: object) -> Any:
    """The result of one of ACTIONS in a new process, in the environment of the project folder `home`."""
    foreign = ("KWNEURO_", "DAGSTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    command = [sys.executable, "-m", "benchmarks.automation", what, str(home), *map(str, words)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} failed")
    return json.loads(done.stdout.splitlines()[-1])


def _write(instance: DagsterInstance, home: Path, subjects: str) -> None:
    cohort = write_cohort(instance, int(subjects), fractions=FRACTIONS)
    kinds = {kind: [key for key, one in cohort.items() if one.kind == kind] for kind in KINDS}
    (home / SUBJECTS).write_text(json.dumps(kinds))


def _tick(instance: DagsterInstance, home: Path) -> dict[str, Any]:
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        data = tick(instance)
        seconds.append(round(time.perf_counter() - started, 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {
        "seconds": seconds[0],
        "again": seconds[1],
        "peak_mb": round(peak),
        "requested": requested_steps(data),
        "message": data.skip_message or f"{len(data.run_requests or [])} runs requested",
    }


def _change(instance: DagsterInstance, home: Path) -> list[str]:
    """Record new content of `dwi` for some fresh subjects, as `ingest` does; returns the subjects."""
    chosen = sorted(random.Random(0).sample(json.loads((home / SUBJECTS).read_text())["fresh"], CHANGED))
    for subject in chosen:
        observation = AssetObservation("dwi", partition=subject, tags={DATA_VERSION_TAG: "0" * 64})
        instance.report_runless_asset_event(observation)
    return chosen


def _queue(instance: DagsterInstance, home: Path) -> None:
    create_runs(instance, tick(instance))


ACTIONS: dict[str, Callable[..., Any]] = {"write": _write, "tick": _tick, "change": _change, "queue": _queue}


def _act(what: str, home: Path, *words: str) -> Any:
    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.yaml").write_text(SETTINGS)
    use_project_folder(home)
    with DagsterInstance.get() as instance:
        return ACTIONS[what](instance, home, *words)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ACTIONS:
        print(json.dumps(_act(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])))
    else:
        main(sys.argv[1:])
