"""Which process makes a run, so that one that was killed is not waited for."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

import psutil
from dagster import AssetExecutionContext, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

PROCESS_TAG = "kwneuro/process"
_UNFINISHED = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """Machine, process id and the moment in which it began: no later process has the same."""
    return f"{_machine()}:{os.getpid()}:{_began(os.getpid())}"


def mark_process(context: AssetExecutionContext) -> None:
    """Tell in the run's tags that this process makes it."""
    if PROCESS_TAG not in context.run.tags:
        context.instance.add_run_tags(context.run.run_id, {PROCESS_TAG: this_process()})


def end_dead_runs(instance: DagsterInstance) -> list[str]:
    """Report as failed the unfinished runs whose process on this machine is gone; returns their ids.

    Dagster itself does not look: such a run would count as running for ever, and keep its place in the queue.
    Machines that share an instance are told apart by their host names.
    """
    ended = []
    for run in instance.get_runs(RunsFilter(statuses=_UNFINISHED)):
        if _is_dead(run):
            instance.report_run_failed(run, f"The process that made it is gone ({run.tags[PROCESS_TAG]}).")
            ended.append(run.run_id)
    return ended


def _is_dead(run: DagsterRun) -> bool:
    machine, _, process = run.tags.get(PROCESS_TAG, "").partition(":")
    pid, _, began = process.partition(":")
    return machine == _machine() and _began(int(pid)) != began


@functools.cache
def _machine() -> str:
    return socket.gethostname()


def _began(pid: int) -> str | None:
    """When a process began, in a form that a corrected clock does not move, if there is one; None where it is gone."""
    try:
        # Linux: ticks since the machine was started, and which start that was.
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else f"{numbers[18]}@{_BOOT_ID.read_text().strip()}"
    except OSError:
        pass
    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return None
