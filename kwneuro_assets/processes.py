"""Which process makes a run, so that one that was killed is not waited for."""

from __future__ import annotations

import functools
import socket

import psutil
from dagster import AssetExecutionContext, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

PROCESS_TAG = "kwneuro/process"
_UNFINISHED = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


@functools.cache
def this_process() -> str:
    """Machine, process id and the second in which it began: no later process has the same."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def mark_process(context: AssetExecutionContext) -> None:
    """Tell in the run's tags that this process makes it."""
    if PROCESS_TAG not in context.run.tags:
        context.instance.add_run_tags(context.run_id, {PROCESS_TAG: this_process()})


def end_dead_runs(instance: DagsterInstance) -> list[str]:
    """Report as failed the unfinished runs whose process on this machine is gone; returns their ids.

    Dagster itself does not look: such a run would count as running for ever, and keep its place in the queue.
    """
    ended = []
    for run in instance.get_runs(RunsFilter(statuses=_UNFINISHED)):
        if _is_dead(run):
            instance.report_run_failed(run, f"The process that made it is gone ({run.tags[PROCESS_TAG]}).")
            ended.append(run.run_id)
    return ended


def _is_dead(run: DagsterRun) -> bool:
    host, _, process = run.tags.get(PROCESS_TAG, "").rpartition(":")[0].rpartition(":")
    if host != socket.gethostname():
        return False
    began = float(run.tags[PROCESS_TAG].rpartition(":")[2])
    try:
        return abs(psutil.Process(int(process)).create_time() - began) > 1
    except psutil.NoSuchProcess:
        return True
