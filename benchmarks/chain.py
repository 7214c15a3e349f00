"""The whole chain to DTI and NODDI by `kwneuro-assets run`, and where its time goes.

    python -m benchmarks.chain run       # the command in this process, with clocks around what it calls
    python -m benchmarks.chain parts     # then, from Dagster's event log: what became of the time within the run

Each in the project that the environment names. Where one of the clocked functions is no longer there, its time falls to
the rest.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.peers import Setting
from benchmarks.process import Measured, measure, tell

SELECTED = "denoised_dwi,mean_b0,brain_mask,dti,noddi"
SETTINGS = """\
source: {{url: {source}}}
store: {{url: {store}}}
brain_mask: {{method: provided}}
denoising: {{method: patch2self}}  # of preprocessed data too: the peers do
ingestion: {{settle_seconds: 0}}  # nobody copies anything into it
"""


def measured(setting: Setting) -> Measured:
    """The command from the start of its process to its end, with the parts of its time as `parts`."""
    home = setting.out("chain", "ours") / "home"
    home.mkdir()
    (home / "settings.yaml").write_text(SETTINGS.format(source=setting.dataset.folder, store=home / "store"))
    environment = {"KWNEURO_SETTINGS": str(home / "settings.yaml"), "DAGSTER_HOME": str(home / "dagster")}
    for variable in ("KWNEURO_SOURCE", "KWNEURO_STORE", "KWNEURO_HOME"):
        environment[variable] = ""
    found = measure("benchmarks.chain", ["run"], setting.threads, environment=environment)
    logged = measure("benchmarks.chain", ["parts"], setting.threads, environment=environment)
    for one in (found, logged):
        if one.problem:
            return one
    shares = {name: round(seconds, 2) for name, seconds in _parts(found, logged.details).items()}
    details = {"cpu_seconds": found.cpu, "parts": shares, "steps": logged.details["steps"]}
    return Measured(found.wall, found.peak_mb, found.wall, found.cpu, details=details)


def whole(found: Measured) -> Measured:
    """A peer's chain counts from the start of its process to its end, too."""
    if found.problem:
        return found
    return Measured(found.wall, found.peak_mb, found.wall, found.cpu, details={"cpu_seconds": found.cpu})


class Clocks:
    """Seconds spent in functions that are replaced by themselves with a clock."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def put(self, owner: Any, name: str, what: str) -> None:
        self.seconds.setdefault(what, 0.0)
        function: Callable[..., Any] | None = getattr(owner, name, None)
        if function is None:
            return

        @functools.wraps(function)
        def clocked(*words: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*words, **named)
            finally:
                self.seconds[what] += time.perf_counter() - started

        setattr(owner, name, clocked)


def run() -> None:
    """The command, and the seconds that it spent in what is clocked."""
    import psutil

    born = psutil.Process().create_time()
    # What the command imports only when it is needed is imported here in any case, to be clocked.
    from kwneuro_assets.assets import derivative
    from kwneuro_assets.cli import main as command
    from kwneuro_assets.ingestion import ingest

    clocks = Clocks()
    clocks.put(ingest, "ingest", "ingest")
    clocks.put(derivative, "_loaded", "inputs")
    clocks.put(derivative, "data_version", "versions")
    clocks.put(derivative.Derivative, "_figure", "pictures")
    started = time.time()
    try:
        command(["run", "--select", SELECTED], standalone_mode=False)
    except SystemExit as end:
        sys.exit(f"kwneuro-assets run ended with exit code {end.code}")
    tell({"seconds": 0, "born": born, "started": started, "clocks": clocks.seconds})


def parts() -> None:
    """Of the run: its first and last event, the seconds that its steps record, and those of writing to the store."""
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        events = [
            (entry.timestamp, entry.dagster_event)
            for record in instance.get_run_records()
            for entry in instance.all_logs(record.dagster_run.run_id)
            if entry.dagster_event
        ]
    steps: dict[str, float] = {}
    written, output = 0.0, 0.0
    for moment, event in events:  # one step after the other
        if event.event_type_value == "STEP_OUTPUT":
            output = moment
        elif event.event_type_value == "ASSET_MATERIALIZATION":
            written += moment - output
            recorded: Any = event.step_materialization_data.materialization.metadata["seconds"]
            steps[str(event.step_key)] = float(recorded.value)
    moments = [moment for moment, _ in events]
    tell({"seconds": 0, "first": min(moments), "last": max(moments), "written": written, "steps": steps})


def _parts(found: Measured, logged: Mapping[str, Any]) -> dict[str, float]:
    """The seconds of each part of the command's time, which add up to all of it."""
    born, started, spent = (found.details[name] for name in ("born", "started", "clocks"))
    within = {
        "steps: reading inputs": spent["inputs"],
        "steps: computing (their own seconds)": sum(logged["steps"].values()),
        "steps: data versions": spent["versions"],
        "steps: pictures": spent["pictures"],
        "steps: writing the store": logged["written"],
    }
    return {
        "process start and imports": started - born,
        "ingest: every source file read and checked": spent["ingest"],
        "settings, status and definitions before the run": logged["first"] - started - spent["ingest"],
        **within,
        "Dagster's events and bookkeeping": logged["last"] - logged["first"] - sum(within.values()),
        "after the run: results, end of process": born + found.wall - logged["last"],
    }


if __name__ == "__main__":
    {"run": run, "parts": parts}[sys.argv[1]]()
