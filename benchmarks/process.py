"""A measurement in a separate process: its seconds, its memory, and the results that it reports.

This module uses the standard library only: peers run in other interpreters, and the parent must be small for a correct
peak memory of its children (the kernel counts what a child shares with its parent before it executes another program).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).absolute().parents[1]
# Read by this project, OpenMP (and DIPY), OpenBLAS, MKL, numba and MRtrix3.
VARIABLES = (
    "KWNEURO_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
    "MRTRIX_NTHREADS",
)  # fmt: skip
MARK = "results: "  # prefix of the results; C code of a peer may print other lines

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured:
    """The results of a process, or a `problem`: `seconds` without reading its input, `wall` for the entire process."""

    seconds: float = 0.0
    peak_mb: int = 0
    wall: float = 0.0
    cpu: float = 0.0  # CPU seconds of the process and its children
    problem: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        if self.problem:
            return {"problem": self.problem}
        return {"seconds": self.seconds, "peak_mb": self.peak_mb, **self.details}


def measure(
    module: str,
    words: Iterable[object],
    threads: int,
    *,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Measured:
    """Run `module` with the arguments `words` on `threads` processors; it calls `report` or `report_problem`.

    If the process fails, the problem is its exit code and the last line of its standard error.
    """
    variables = {**os.environ, **dict.fromkeys(VARIABLES, str(threads)), **(environment or {})}
    command = [python, "-m", module, *map(str, words)]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors, pinned(threads):
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=ROOT, env=variables)
        usage = wait_for(process)
        wall = time.perf_counter() - started
        lines, error_lines = _lines(output), _lines(errors)
    if process.returncode:
        return Measured(problem=f"failed with exit code {process.returncode}: {(error_lines or lines or [''])[-1]}")
    results = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    if not results:
        return Measured(problem=f"reported no results: {(error_lines or lines or [''])[-1]}")
    result = dict(json.loads(results[-1]))
    if "problem" in result:
        return Measured(problem=result["problem"])
    peak = result.pop("peak_mb", round(usage.ru_maxrss / 1024))
    cpu = round(usage.ru_utime + usage.ru_stime, 2)
    return Measured(result.pop("seconds"), peak, round(wall, 2), cpu, details=result)


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Context in which new processes run on `threads` processors, also those that ignore the variables."""
    if not hasattr(os, "sched_setaffinity"):  # macOS: only the variables apply
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wait_for(process: subprocess.Popen[Any]) -> resource.struct_rusage:
    """Wait for a process; returns the usage of it and its children, with `ru_maxrss` (KB) of the largest."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def timed(function: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """The result of a function without its output, and its seconds, CPU seconds and the peak memory of this process."""
    with (
        Path(os.devnull).open("w") as devnull,
        contextlib.redirect_stdout(devnull),
        contextlib.redirect_stderr(devnull),
    ):
        started, worked = time.perf_counter(), time.process_time()
        result = function()
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result, {"seconds": round(seconds, 3), "cpu_seconds": round(worked, 3), "peak_mb": round(peak)}


def report(results: Mapping[str, Any]) -> None:
    """Send results, including `seconds`, to the measuring process."""
    print(f"\n{MARK}{json.dumps(dict(results))}", flush=True)


def report_problem(reason: str) -> None:
    """Report why there is no measurement."""
    report({"problem": reason})


def _lines(file: Any) -> list[str]:
    file.seek(0)
    return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
