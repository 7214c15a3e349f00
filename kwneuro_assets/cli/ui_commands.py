"""Commands for a first impression: ui, demo."""

from __future__ import annotations

import os
import signal
import sys
from importlib.resources import files
from pathlib import Path
from typing import Literal

import click

from kwneuro_assets.cli.exit_codes import FAILED
from kwneuro_assets.cli.project import errors_as_messages, open_project, source_and_store_options

_DEMO_HOMES = {"synthetic": "demo", "sherbrooke": "sherbrooke"}

# `dg dev`, which supersedes `dagster dev`, calls the same function with the same processes, ports and signals. It would
# add 17 packages (23 MB, among them the client of Dagster+) to every installation, and its other commands need the
# pyproject.toml of a checkout. So developers have `dg`, and this command hides the hint to it.
_DAGSTER_DEV = ("-W", "ignore:Function `dev_command` is superseded", "-m", "dagster", "dev")


@click.command()
@source_and_store_options
@click.option("--port", default=3000, show_default=True, help="Port on 127.0.0.1.")
@click.pass_obj
def ui(home: Path | None, port: int) -> None:
    """Open Dagster's UI and daemon for this project.

    The UI is at http://127.0.0.1:PORT until Ctrl-C. The daemon starts queued runs, and runs the sensors and schedules
    that are switched on under Automation. Runs that an earlier UI left unfinished are reported as failed first.
    """
    with open_project(home):
        pass  # completes the environment and reports dead runs
    # The workspace file names the code location `kwneuro_assets`; with `-m`, its name would be that of the module.
    workspace = str(files("kwneuro_assets").joinpath("workspace.yaml"))
    # Ignored in the background of a shell script; Dagster would then ignore SIGTERM, too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = [*_DAGSTER_DEV, "-w", workspace, "-h", "127.0.0.1", "-p", str(port)]
    os.execv(sys.executable, [sys.executable, *arguments])


@click.command()
@click.option(
    "--dataset", type=click.Choice(["synthetic", "sherbrooke"]), default="synthetic", show_default=True,
    help="A synthetic subject with known truth, or DIPY's Sherbrooke dataset, which is downloaded.",
)  # fmt: skip
@click.option(
    "--subjects", type=click.IntRange(1, 99), default=1, show_default=True, metavar="N",
    help="Number of synthetic subjects; they differ in size, proportions, pose and cortex.",
)  # fmt: skip
@click.option("--store", metavar="URL", help="Folder or URL of the derivatives [default: HOME/store].")
@click.pass_obj
def demo(home: Path | None, dataset: Literal["synthetic", "sherbrooke"], subjects: int, store: str | None) -> None:
    """Compute all derivatives of a demo subject, or of a small cohort.

    Writes the subjects to HOME/source [default of HOME: data/demo or data/sherbrooke], computes all derivatives and,
    for synthetic subjects, compares them with the known truth. Derivatives that are up to date are skipped. The folder
    is a project like any other.

    Where TractSeg's networks are not installed, synthetic subjects use small networks of this package that know
    synthetic heads only; nothing is downloaded.
    """
    from kwneuro_assets.cli.demo import run_demo

    if dataset == "sherbrooke" and subjects > 1:
        raise click.UsageError(
            "--subjects: the Sherbrooke dataset has one subject; more than one needs --dataset synthetic."
        )
    with errors_as_messages():
        sys.exit(0 if run_demo(home or Path("data", _DEMO_HOMES[dataset]), dataset, store, subjects) else FAILED)
