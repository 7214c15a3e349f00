"""Detection of ended processes, with real processes in their own namespaces."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dagster import DagsterInstance, job, op

from kwneuro_assets.launchers.liveness import PROCESS_TAG, end_dead_runs, this_process

LIVE = "from kwneuro_assets.launchers.liveness import this_process; print(this_process(), flush=True); input()"
CHECK = """
import os, sys, time
from kwneuro_assets.launchers.liveness import _has_ended, this_process

reader, writer = os.pipe()
child = os.fork()
if not child:
    os.write(writer, this_process().encode())
    time.sleep(600)
inside = os.read(reader, 1000).decode()
print(_has_ended(sys.argv[1]), _has_ended(inside))
os.kill(child, 9)
os.waitpid(child, 0)
print(_has_ended(inside))
"""
PID, PID_BUT_NOT_PROC, TIME = (
    ("--pid", "--fork", "--kill-child", "--mount-proc"),
    ("--pid", "--fork", "--kill-child"),
    ("--time", "--boottime", "1000", "--fork", "--kill-child"),
)
NAMESPACES = pytest.mark.parametrize("namespace", [PID, PID_BUT_NOT_PROC, TIME], ids=["pid", "no own /proc", "time"])


@pytest.fixture
def ended_runs(tmp_path: Path) -> Iterator[Callable[[str], list[str]]]:
    """Returns, for a process, the ids of its runs that `end_dead_runs` reports as failed."""

    @job
    def any_job() -> None:
        op(name="step")(lambda: None)()

    with DagsterInstance.local_temp(str(tmp_path)) as instance:

        def end_runs_of(process: str) -> list[str]:
            run = instance.create_run_for_job(any_job, tags={PROCESS_TAG: process})
            ended = end_dead_runs(instance)
            assert ended in ([], [run.run_id])
            instance.delete_run(run.run_id)
            return ended

        yield end_runs_of


def command(namespace: tuple[str, ...], code: str) -> list[str]:
    """The command of Python in new namespaces; skips the test if none can be created."""
    tried = subprocess.run(["unshare", *namespace, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"namespaces cannot be created here: {tried.stderr.strip()}")
    return ["unshare", *namespace, sys.executable, "-c", code]


@contextmanager
def live(command: list[str]) -> Iterator[str]:
    """The identifier of a process that runs until the block ends."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.stdin.close()


@NAMESPACES
def test_a_live_run_in_another_namespace_of_this_host_is_not_ended(
    ended_runs: Callable[[str], list[str]], namespace: tuple[str, ...]
) -> None:
    with live(command(namespace, LIVE)) as process:
        assert process.count(":") == 2
        assert ended_runs(process) == []


@NAMESPACES
def test_within_a_namespace_only_ended_processes_of_that_namespace_count_as_ended(
    namespace: tuple[str, ...],
) -> None:
    done = subprocess.run([*command(namespace, CHECK), this_process()], capture_output=True, text=True, check=True)
    ended = str(namespace != PID_BUT_NOT_PROC)  # without its own /proc, no process can be checked
    assert done.stdout.split() == ["False", "False", ended]


def test_a_zombie_process_has_ended(
    ended_runs: Callable[[str], list[str]],
) -> None:
    with subprocess.Popen([sys.executable, "-c", LIVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        process = child.stdout.readline().decode().strip()
        assert ended_runs(process) == []
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert ended_runs(process) != []
    assert ended_runs(process) != []


NAMESPACE = this_process().split(":")[0]
UNKNOWN = {
    "of an earlier version, no such process": f"{socket.gethostname()}:999999999:1@a-boot",
    "of an earlier version, live process": f"{socket.gethostname()}:{os.getpid()}:1@a-boot",
    "of another boot, or of a host with the same name": f"00000000{NAMESPACE[8:]}:{os.getpid()}:1",
    "without a start time": f"{NAMESPACE}:{os.getpid()}:None",
    "without a process id": f"{NAMESPACE}:0:1",
    "empty": "",
    "another format": ":::",
}


@pytest.mark.parametrize("process", UNKNOWN.values(), ids=list(UNKNOWN))
def test_a_process_that_cannot_be_identified_never_counts_as_ended(
    ended_runs: Callable[[str], list[str]], process: str
) -> None:
    assert ended_runs(process) == []


def test_a_process_of_another_user_that_proc_hides_has_not_ended(
    ended_runs: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr("kwneuro_assets.launchers.liveness._start_time", lambda process_id: None)
    monkeypatch.setattr(os, "kill", refused)
    assert ended_runs(f"{NAMESPACE}:4321:1") == []
