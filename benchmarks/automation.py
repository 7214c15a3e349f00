"""Times a tick of the automation sensor over a cohort, and checks what it asks for.

    make bench ARGS="automation"                                  # 10,000 subjects, written first: two minutes, 1.6 GB
    make bench ARGS="automation --subjects 1000 --scratch DIR"    # the cohort is kept there, and used the next time

Three ticks, each in a fresh process, as after a restart of the code server: over a cohort with nothing to do (some
subjects wait for a person, as they failed too often or were made under other settings; of some the run has died, which
is told by this tick), then with 50 subjects whose data changed, then with the runs of these 50 in the queue. A tick is
all that the code server does of it, Dagster's own checks of the requests included; each is timed twice.
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

from benchmarks.event_log import NAMES, write_cohort
from kwneuro_assets.home import settle
from kwneuro_assets.versioning.records import DATA_VERSION_TAG
from kwneuro_assets_tests.ticking import asked, create_runs, tick

CHANGED = 50
FRESH = "fresh.json"  # in a cohort's folder, written last: the subjects with nothing to do
# What automation would make is left out; what failed has failed as often as it may.
SHARES = {"changed": 0.0, "missing": 0.0, "new": 0.0}
SETTINGS = "automation: {attempts: 1}\n"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=10_000)
    parser.add_argument("--scratch", type=Path, help="folder in which the cohort is kept for the next time")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary) / "home"
        kept = (arguments.scratch or Path(temporary)).absolute() / f"cohort-{arguments.subjects}"
        if not (kept / FRESH).exists():
            _apart("write", kept, arguments.subjects)
        shutil.copytree(kept, home)
        rows = [_row("nothing to do", _apart("tick", home), [])]
        changed = _apart("change", home)
        rows.append(_row(f"{CHANGED} changed", _apart("tick", home), changed))
        _apart("queue", home)
        rows.append(_row(f"these {CHANGED} in the queue", _apart("tick", home), []))
    _print(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    if not all(row["right"] for row in rows):
        sys.exit("a tick asked for what it should not, or not for all that it should")


def _row(tick: str, found: dict[str, Any], subjects: list[str]) -> dict[str, Any]:
    right = found["asked"] == dict.fromkeys(subjects, ",".join(NAMES))  # all of it follows from the series
    return {"tick": tick, **found, "asked": len(found["asked"]), "right": right}


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table("tick", "seconds", "again", "peak MB", "runs asked for", "as expected", box=None, pad_edge=False)
    for row in rows:
        figures = [str(row[key]) for key in ("tick", "seconds", "again", "peak_mb", "asked")]
        table.add_row(*figures, "yes" if row["right"] else "NO")
    Console().print(table)
    for row in rows:
        print(f"{row['tick']}: {row['told']}")


def _apart(what: str, home: Path, *words: object) -> Any:
    """What one of ACTIONS says, done in a fresh process, in the environment of the project folder `home`."""
    foreign = ("KWNEURO_", "DAGSTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    command = [sys.executable, "-m", "benchmarks.automation", what, str(home), *map(str, words)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} failed")
    return json.loads(done.stdout.splitlines()[-1])


def _write(instance: DagsterInstance, home: Path, subjects: str) -> None:
    cohort = write_cohort(instance, int(subjects), shares=SHARES)
    (home / FRESH).write_text(json.dumps([key for key, one in cohort.items() if one.kind == "fresh"]))


def _tick(instance: DagsterInstance, home: Path) -> dict[str, Any]:
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        told = tick(instance)
        seconds.append(round(time.perf_counter() - started, 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {
        "seconds": seconds[0],
        "again": seconds[1],
        "peak_mb": round(peak),
        "asked": asked(told),
        "told": told.skip_message or f"{len(told.run_requests or [])} runs are asked for",
    }


def _change(instance: DagsterInstance, home: Path) -> list[str]:
    """Other content of the series of some subjects that are fresh, as `ingest` records it; says which."""
    chosen = sorted(random.Random(0).sample(json.loads((home / FRESH).read_text()), CHANGED))
    for subject in chosen:
        seen = AssetObservation("dwi", partition=subject, tags={DATA_VERSION_TAG: "0" * 64})
        instance.report_runless_asset_event(seen)
    return chosen


def _queue(instance: DagsterInstance, home: Path) -> None:
    create_runs(instance, tick(instance))


ACTIONS: dict[str, Callable[..., Any]] = {"write": _write, "tick": _tick, "change": _change, "queue": _queue}


def _act(what: str, home: Path, *words: str) -> Any:
    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.yaml").write_text(SETTINGS)
    settle(home)
    with DagsterInstance.get() as instance:
        return ACTIONS[what](instance, home, *words)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ACTIONS:
        print(json.dumps(_act(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])))
    else:
        main(sys.argv[1:])
