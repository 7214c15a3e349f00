"""The chain from DWI to DTI and NODDI by `kwneuro-assets run`, and the parts of its time.

    python -m benchmarks.chain run       # the command in this process, with timed functions
    python -m benchmarks.chain parts     # then the parts of the run's time, from Dagster's event log

Both use the project that the environment names. If a timed function does not exist, its time counts as part of the
remainder.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.peers import Setting
from benchmarks.process import Measured, measure, report

SELECTED = "denoised_dwi,mean_b0,brain_mask,dti,noddi"
SETTINGS = """\
source: {{url: {source}}}
store: {{url: {store}}}
brain_mask: {{method: provided}}
denoising: {{method: patch2self}}  # for preprocessed data, too, as the peers do
ingestion: {{settle_seconds: 0}}  # no files are being copied
"""


def measured(setting: Setting) -> Measured:
    """The command from the start to the end of its process, with the parts of its time as `parts`."""
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
    parts_of_time = {name: round(seconds, 2) for name, seconds in _parts(found, logged.details).items()}
    details = {"cpu_seconds": found.cpu, "parts": parts_of_time, "steps": logged.details["steps"]}
    return Measured(found.wall, found.peak_mb, found.wall, found.cpu, details=details)


def from_start_to_end(found: Measured) -> Measured:
    """The time of a peer's chain from the start to the end of its process, too."""
    if found.problem:
        return found
    return Measured(found.wall, found.peak_mb, found.wall, found.cpu, details={"cpu_seconds": found.cpu})


class Clocks:
    """Replaces functions by timed versions and sums their seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, owner: Any, name: str, what: str) -> None:
        self.seconds.setdefault(what, 0.0)
        function: Callable[..., Any] | None = getattr(owner, name, None)
        if function is None:
            return

        @functools.wraps(function)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds[what] += time.perf_counter() - started

        setattr(owner, name, timed)


def run() -> None:
    """Run the command and report the seconds in timed functions."""
    import psutil

    born = psutil.Process().create_time()
    # Import here what the command imports on use, to replace its functions.
    from kwneuro_assets.assets.mechanism import execution
    from kwneuro_assets.cli.main import main as command
    from kwneuro_assets.ingestion import ingest

    clocks = Clocks()
    clocks.add(ingest, "ingest", "ingest")
    clocks.add(execution, "load_input", "inputs")
    clocks.add(execution, "data_version", "versions")
    clocks.add(execution, "draw_figure", "figures")
    started = time.time()
    try:
        command(["run", "--select", SELECTED], standalone_mode=False)
    except SystemExit as end:
        sys.exit(f"kwneuro-assets run ended with exit code {end.code}")
    report({"seconds": 0, "born": born, "started": started, "clocks": clocks.seconds})


def parts() -> None:
    """Report the first and last event of the run, the recorded seconds of its steps, and the seconds of writing."""
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
    for moment, event in events:  # steps are sequential
        if event.event_type_value == "STEP_OUTPUT":
            output = moment
        elif event.event_type_value == "ASSET_MATERIALIZATION":
            written += moment - output
            recorded: Any = event.step_materialization_data.materialization.metadata["seconds"]
            steps[str(event.step_key)] = float(recorded.value)
    moments = [moment for moment, _ in events]
    report({"seconds": 0, "first": min(moments), "last": max(moments), "written": written, "steps": steps})


def _parts(found: Measured, logged: Mapping[str, Any]) -> dict[str, float]:
    """The seconds of each part of the command's time; their sum is the entire time."""
    born, started, clocks = (found.details[name] for name in ("born", "started", "clocks"))
    within = {
        "steps: reading inputs": clocks["inputs"],
        "steps: computing (recorded seconds)": sum(logged["steps"].values()),
        "steps: data versions": clocks["versions"],
        "steps: figures": clocks["figures"],
        "steps: writing the store": logged["written"],
    }
    return {
        "process start and imports": started - born,
        "ingest: reading and checking every source file": clocks["ingest"],
        "settings, status and definitions before the run": logged["first"] - started - clocks["ingest"],
        **within,
        "Dagster's events and other overhead": logged["last"] - logged["first"] - sum(within.values()),
        "after the run: results, exit": born + found.wall - logged["last"],
    }


if __name__ == "__main__":
    {"run": run, "parts": parts}[sys.argv[1]]()
