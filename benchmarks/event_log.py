"""Writes the event log of a cohort into a new project folder.

make bench ARGS="event_log HOME --subjects 10000"
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path
from typing import get_args

from dagster import DagsterInstance

from kwneuro_assets.cli.project_folder import use_project_folder
from kwneuro_assets_tests.testkit.event_log import RunLogs, write_cohort


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="a new project folder; its Dagster instance is HOME/dagster")
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure-bytes", type=int, default=6000)
    parser.add_argument(
        "--run-logs", choices=get_args(RunLogs), default="unfinished", help="runs whose events are all written"
    )
    arguments = vars(parser.parse_args(words))
    home = arguments.pop("home")
    os.environ["DAGSTER_HOME"] = str(home.absolute() / "dagster")  # not the instance of this environment
    use_project_folder(home)
    started = time.perf_counter()
    with DagsterInstance.get() as instance:
        cohort = write_cohort(instance, **arguments)
    seconds = time.perf_counter() - started
    kinds = Counter(history.kind for history in cohort.values())
    size = sum(file.stat().st_size for file in (home / "dagster").rglob("*") if file.is_file())
    print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    print(f"{len(cohort)} subjects in {seconds:.0f} s, {size / 1e6:.0f} MB")
