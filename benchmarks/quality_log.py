"""The event log of a cohort with or without quality control, and what reads it.

    python -m benchmarks.quality_log write HOME SUBJECTS with|without    # events of one run, and bytes of the log
    python -m benchmarks.quality_log status HOME with|without            # the status of all subjects
    python -m benchmarks.quality_log tick HOME with|without              # a tick of the stale-derivatives sensor

`without` leaves the derivatives of the group `quality` and their checks out of the pipeline, and so out of the log.
Each is timed REPETITIONS times in one process.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.process import report

REPETITIONS = 5
QUALITY = "quality"  # the asset group
# Nothing that the sensor would request, as in benchmarks.automation: the tick is the reading of the states.
FRACTIONS = {"changed": 0.0, "missing": 0.0, "new": 0.0, "never_succeeded": 0.0, "running": 0.0}
SETTINGS = "automation: {attempts: 1}\n"


def leave_out_quality() -> None:
    """Remove the derivatives of quality control; other modules must not have been imported yet."""
    from kwneuro_assets import assets

    others = [one for one in assets.ALL_DERIVATIVES if one.group != QUALITY]
    assets.ALL_DERIVATIVES = tuple(others)
    assets.DERIVATIVES = tuple(one for one in assets.DERIVATIVES if one.group != QUALITY)
    assets.COHORT_DERIVATIVES = ()  # type: ignore[assignment]
    assets.GROUP_DERIVATIVES = (assets.GROUP_DERIVATIVE,)  # type: ignore[assignment]


def _write(instance: Any, home: Path, subjects: str) -> dict[str, Any]:
    from kwneuro_assets_tests.testkit.event_log import write_cohort
    from kwneuro_assets_tests.testkit.run_templates import templates

    write_cohort(instance, int(subjects), fractions=FRACTIONS)
    events = templates()[0]["complete"].events
    files = [file for file in (home / "dagster").rglob("*") if file.is_file()]
    return {
        "events": len(events),
        "events_by_step": Counter(str(event.row["step_key"] or "run") for event in events),
        "events_by_type": Counter(str(event.row["dagster_event_type"]) for event in events),
        "index_mb": round(sum(file.stat().st_size for file in files if file.name.startswith("index.db")) / 1e6, 1),
    }


def _status(instance: Any, home: Path) -> dict[str, Any]:
    from kwneuro_assets.assets import derivatives
    from kwneuro_assets.cohort.status import status_of_usable
    from kwneuro_assets.settings import load_settings

    settings = load_settings()
    assert {one.name for one in derivatives(settings)} == set(next(iter(status_of_usable(instance, settings).values())))
    return _repeated(lambda: status_of_usable(instance, settings))


def _tick(instance: Any, home: Path) -> dict[str, Any]:
    from kwneuro_assets_tests.testkit.ticking import requested_steps, tick

    if requested_steps(tick(instance)):
        sys.exit("expected a tick that requests nothing")
    return _repeated(lambda: tick(instance))


def _repeated(call: Callable[[], object]) -> dict[str, Any]:
    """The least of the repetitions: other processes only add to it."""
    wall, cpu = [], []
    for _ in range(REPETITIONS):
        started, worked = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - worked)
    return {"seconds": round(min(wall), 3), "cpu_seconds": round(min(cpu), 3)}


ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {"write": _write, "status": _status, "tick": _tick}


def main(what: str, home: Path, *words: str) -> None:
    if words[-1] == "without":
        leave_out_quality()
    from dagster import DagsterInstance

    from kwneuro_assets.cli.project_folder import use_project_folder

    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.yaml").write_text(SETTINGS)
    os.environ["DAGSTER_HOME"] = str(home.absolute() / "dagster")  # not the instance of this environment
    use_project_folder(home)
    with DagsterInstance.get() as instance:
        report({"seconds": 0, **ACTIONS[what](instance, home, *words[:-1])})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
