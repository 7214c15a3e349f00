"""Which process makes a run, so that one that was killed is not waited for."""

from __future__ import annotations

import functools
import os
import socket
import time
from pathlib import Path

import psutil
from dagster import (
    AssetExecutionContext,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    OpExecutionContext,
    RunRecord,
    RunsFilter,
)

from kwneuro_assets.storage.names import NAMES

PROCESS_TAG = ".dagster/kwneuro_process"  # so begin the tags that the UI does not show
ASKING_STEP, LOOKING_STEP = "ask_for_what_is_stale", "look_at_everything"  # the steps of ours that make no derivative
BEGIN_SECONDS = 600  # in which a run that has started begins its first step: a second, on a machine that is not stuck
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


def mark_process(context: AssetExecutionContext | OpExecutionContext) -> None:
    """Tell in the run's tags that this process makes it: the first that each step does."""
    if context.run.tags.get(PROCESS_TAG) != this_process():
        context.instance.add_run_tags(context.run.run_id, {PROCESS_TAG: this_process()})


def end_dead_runs(instance: DagsterInstance) -> list[str]:
    """Report as failed the unfinished runs whose process on this machine is gone; returns their ids.

    Dagster itself does not look: such a run would count as running for ever, and keep its place in the queue.
    Machines that share an instance are told apart by their host names.
    """
    ended = []
    for record in instance.get_run_records(RunsFilter(statuses=_UNFINISHED)):
        run = record.dagster_run
        process = _told(instance, run)
        if process is not None and _is_gone(process):
            instance.report_run_failed(run, f"The process that made it is gone ({process}).")
            ended.append(run.run_id)
        elif process is None and _never_began(instance, record):
            instance.report_run_failed(run, f"No step of it began within {BEGIN_SECONDS} seconds of its start.")
            ended.append(run.run_id)
    return ended


def _told(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """The process that a run told. One that was executed again begins with the tags of the first."""
    process = run.tags.get(PROCESS_TAG)
    parent = instance.get_run_by_id(run.parent_run_id) if process and run.parent_run_id else None
    return None if parent and parent.tags.get(PROCESS_TAG) == process else process


def _is_gone(process: str) -> bool:
    """Whether a process of this machine has ended; of another machine nothing is known here."""
    machine, _, rest = process.partition(":")
    process_id, _, began = rest.partition(":")
    return machine == _machine() and _began(int(process_id)) != began


def _never_began(instance: DagsterInstance, record: RunRecord) -> bool:
    """Whether a run of ours ended between its start and its first step, and so could not tell its process."""
    run = record.dagster_run
    started = run.status == DagsterRunStatus.STARTED and record.start_time is not None
    if not started or time.time() - (record.start_time or 0) < BEGIN_SECONDS or not run.execution_plan_snapshot_id:
        return False
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    return {*NAMES, ASKING_STEP, LOOKING_STEP}.issuperset(plan.step_keys_to_execute)


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
