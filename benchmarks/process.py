"""A measurement in a process of its own: its seconds, its memory, and what it tells besides.

Nothing but the standard library here: peers run in other interpreters, and a small parent keeps the peak memory of
its children true (the kernel counts what a child shares with its parent before it becomes another program).
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
# Who heeds which: this project, OpenMP (and DIPY), OpenBLAS, MKL, numba, MRtrix3.
VARIABLES = (
    "KWNEURO_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
    "MRTRIX_NTHREADS",
)  # fmt: skip
MARK = "figures: "  # of the line that counts: what a peer's C code prints may come before or after it

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured:
    """What a process told: `seconds` without the reading of its input, `wall` with all; or a `problem` in words."""

    seconds: float = 0.0
    peak_mb: int = 0
    wall: float = 0.0
    cpu: float = 0.0  # seconds of all processors, of the whole process and those it started
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
    """Run `module` with those words on `threads` processors; it speaks by `tell` or `tell_problem`.

    The exit code and the last line of the errors become the problem of a process that failed.
    """
    variables = {**os.environ, **dict.fromkeys(VARIABLES, str(threads)), **(environment or {})}
    command = [python, "-m", module, *map(str, words)]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors, pinned(threads):
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, cwd=ROOT, env=variables)
        usage = wait_for(process)
        wall = time.perf_counter() - started
        lines, complaints = _lines(output), _lines(errors)
    if process.returncode:
        return Measured(problem=f"failed with exit code {process.returncode}: {(complaints or lines or [''])[-1]}")
    figures = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    if not figures:
        return Measured(problem=f"told no figures: {(complaints or lines or [''])[-1]}")
    told = dict(json.loads(figures[-1]))
    if "problem" in told:
        return Measured(problem=told["problem"])
    peak = told.pop("peak_mb", round(usage.ru_maxrss / 1024))
    cpu = round(usage.ru_utime + usage.ru_stime, 2)
    return Measured(told.pop("seconds"), peak, round(wall, 2), cpu, details=told)


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """What is started meanwhile runs on so many processors, whether or not it heeds a variable."""
    if not hasattr(os, "sched_setaffinity"):  # macOS: the variables have to do
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wait_for(process: subprocess.Popen[Any]) -> resource.struct_rusage:
    """Wait, and tell what that process and its own children used; `ru_maxrss` is that of the largest of them, in KB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def timed(function: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """What a function gives, silently, with its seconds, all processors' and this process's peak memory so far."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        started, worked = time.perf_counter(), time.process_time()
        result = function()
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result, {"seconds": round(seconds, 3), "cpu_seconds": round(worked, 3), "peak_mb": round(peak)}


def tell(figures: Mapping[str, Any]) -> None:
    """Hand the figures, `seconds` among them, to the process that measures."""
    print(f"\n{MARK}{json.dumps(dict(figures))}", flush=True)


def tell_problem(reason: str) -> None:
    """Say why there is nothing to measure."""
    tell({"problem": reason})


def _lines(file: Any) -> list[str]:
    file.seek(0)
    return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
