"""`kwneuro-assets run` of one subject in this process, and the steps that it recorded.

    python -m benchmarks.subject_run run      # the command, for all derivatives of a subject
    python -m benchmarks.subject_run steps    # seconds and peak memory (MB) of each step, from the event log

Both use the project that the environment names.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.process import report, report_problem


def run() -> None:
    from kwneuro_assets.cli.main import main as command

    try:
        command(["run"], standalone_mode=False)
    except SystemExit as end:
        if end.code:
            report_problem(f"kwneuro-assets run ended with exit code {end.code}: {_failures()}")
            return
    report({"seconds": 0})


def steps() -> None:
    report({"seconds": 0, "steps": [_step(*one) for one in _materializations()]})


def _step(name: str, metadata: Any) -> dict[str, Any]:
    found = {"step": name, "seconds": float(metadata["seconds"].value)}
    memory = metadata.get("peak_memory_mb")
    return {**found, "peak_mb": int(memory.value)} if memory else found


def _materializations() -> list[tuple[str, Any]]:
    """The name and metadata of each derivative of a subject, in the order in which they were computed."""
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        events = [
            (entry.timestamp, entry.dagster_event)
            for record in instance.get_run_records()
            for entry in instance.all_logs(record.dagster_run.run_id)
            if entry.dagster_event and entry.dagster_event.event_type_value == "ASSET_MATERIALIZATION"
        ]
    found = []
    for _, event in sorted(events, key=lambda one: one[0]):
        one: Any = event.step_materialization_data.materialization
        if "seconds" in one.metadata:
            found.append((str(one.asset_key.to_user_string()), one.metadata))
    return found


def _failures() -> str:
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        messages = [
            f"{event.step_key}: {event.step_failure_data.error.message.strip()}"
            for record in instance.get_run_records()
            for entry in instance.all_logs(record.dagster_run.run_id)
            if (event := entry.dagster_event) and event.is_step_failure and event.step_failure_data.error
        ]
    return "; ".join(messages) or "no step failed"


if __name__ == "__main__":
    {"run": run, "steps": steps}[sys.argv[1]]()
