"""Detection of runs whose process has ended without reporting it, for example after it was killed."""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
import time
import uuid
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

PROCESS_TAG = ".dagster/kwneuro_process"  # the UI hides tags with this prefix
BACKFILL_STEP, RESCAN_STEP = "request_stale_backfill", "rescan"  # steps of this package that compute no derivative
_UNFINISHED = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
_PROCESS = re.compile(r"(?P<namespace>[^:]+):(?P<id>[1-9]\d{0,9}):(?P<started>\d+)")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ENDED = "ended"  # the start time of a zombie: it has ended, and its parent has not waited for it


def this_process() -> str:
    """A unique identifier of this process: `namespace:process id:start time`."""
    return f"{_namespace()}:{os.getpid()}:{_start_time(os.getpid())}"


def mark_process(context: AssetExecutionContext | OpExecutionContext) -> None:
    """Record in the tags of the run that this process runs it. Each step calls this first."""
    if context.run.tags.get(PROCESS_TAG) != this_process():
        context.instance.add_run_tags(context.run.run_id, {PROCESS_TAG: this_process()})


def end_dead_runs(instance: DagsterInstance) -> list[str]:
    """Report unfinished runs as failed if their process has ended; returns their ids.

    Dagster does not check this: such a run would count as running forever and block its place in the queue. Only runs
    of this machine (since its last boot) and of this container are checked: process ids are unique only within these.
    """
    ended = []
    for record in instance.get_run_records(RunsFilter(statuses=_UNFINISHED)):
        run = record.dagster_run
        process = _recorded_process(instance, run)
        if process is not None and _has_ended(process):
            instance.report_run_failed(run, f"The process of this run has ended without reporting it ({process}).")
            ended.append(run.run_id)
        elif process is None and _has_not_started_a_step(instance, record):
            instance.report_run_failed(run, f"No step started within {_start_timeout(instance)} s of its start.")
            ended.append(run.run_id)
    return ended


def _recorded_process(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """The process that runs it, from its tags. A re-executed run has those of its parent until a step starts."""
    process = run.tags.get(PROCESS_TAG)
    parent = instance.get_run_by_id(run.parent_run_id) if process and run.parent_run_id else None
    return None if parent and parent.tags.get(PROCESS_TAG) == process else process


def _has_ended(process: str) -> bool:
    """Whether a process has ended; False if it is in another namespace, as that cannot be known here."""
    match = _PROCESS.fullmatch(process)
    if match is None or match["namespace"] != _namespace():
        return False
    try:
        os.kill(int(match["id"]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it exists and belongs to another user
        pass
    now = _start_time(int(match["id"]))
    return now is not None and now != match["started"]


def _has_not_started_a_step(instance: DagsterInstance, record: RunRecord) -> bool:
    """Whether a run of this package started and then ended before its first step could record its process."""
    run = record.dagster_run
    started = run.status == DagsterRunStatus.STARTED and record.start_time is not None
    if (
        not started
        or time.time() - (record.start_time or 0) < _start_timeout(instance)
        or not run.execution_plan_snapshot_id
    ):
        return False
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    return {*NAMES, BACKFILL_STEP, RESCAN_STEP}.issuperset(plan.step_keys_to_execute)


def _start_timeout(instance: DagsterInstance) -> int:
    """Seconds within which a started run must start its first step: `run_monitoring.start_timeout_seconds`."""
    return instance.run_monitoring_start_timeout_seconds


def _namespace() -> str:
    """The scope within which a process id and a start time identify a process.

    On Linux that is a boot of the kernel, a PID namespace (each container has its own) and a time namespace. Linux
    reuses the numbers of namespaces, but only after all processes of the earlier one have ended. If the namespace
    cannot be determined, each call returns another value, so that no process is judged by it.
    """
    if sys.platform != "linux":
        return f"{socket.gethostname()}/{uuid.getnode():x}"
    try:
        if os.readlink("/proc/self") == str(os.getpid()):  # otherwise /proc belongs to another namespace
            namespaces = [os.stat("/proc/self/ns/pid").st_ino]
            if os.path.exists("/proc/self/ns/time"):  # since Linux 5.6
                namespaces.append(os.stat("/proc/self/ns/time").st_ino)
            return "/".join([_BOOT_ID.read_text().strip(), *map(str, namespaces)])
    except OSError:
        pass
    return f"unknown/{secrets.token_hex(8)}"


def _start_time(process_id: int) -> str | None:
    """The start time of a process, independent of clock corrections; None if it cannot be read."""
    if sys.platform != "linux":
        try:
            return f"{psutil.Process(process_id).create_time():.0f}"
        except psutil.Error:
            return None
    try:
        state, *numbers = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended by now, or /proc hides the processes of other users
        return None
    return _ENDED if state in "ZX" else numbers[18]  # clock ticks since boot
