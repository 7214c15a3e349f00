"""Commands about the source dataset: ingest, prune."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kwneuro_assets.cli.exit_codes import FAILED
from kwneuro_assets.cli.project import open_project, project_store, source_and_store_options

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from kwneuro_assets.ingestion.ingest_report import IngestReport
    from kwneuro_assets.settings import PipelineSettings

_MAX_IGNORED = 20  # ignored files that are printed


@click.command()
@source_and_store_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def ingest(home: Path | None, as_json: bool) -> None:
    """Scan the source: add new subjects and record what changed.

    New subjects become partitions of all assets. A changed scan gets a new data version, which makes the derivatives
    computed from it stale. Subjects whose files cannot be used are quarantined: they are reported with the reason and
    computed only after the files are corrected. Nothing is computed or removed.

    Prints the number of added, changed, unchanged and removed subjects, and warnings to stderr.
    """
    with open_project(home) as (instance, settings):
        report = scan_source(instance, settings)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
        return
    if report.no_subjects:
        click.echo(report.no_subjects)
    else:
        for key in ("added", "changed", "unchanged", "removed"):
            subjects = getattr(report, key)
            click.echo(f"{key:>9}: {len(subjects)}{_some(subjects)}")
    print_problems(report)


@click.command()
@source_and_store_options
@click.option("--subject", "subjects", multiple=True, metavar="KEY", help="Only this subject; can be repeated.")
@click.option("--yes", is_flag=True, help="Remove them; without this option they are only listed.")
@click.pass_obj
def prune(home: Path | None, subjects: tuple[str, ...], yes: bool) -> None:
    """List or remove subjects that are no longer in the source.

    With --yes, their derivatives are removed from the store, and their partitions from Dagster. A subject that has a
    queued or running run, or is in the source again, is not removed; the exit code is then 1.
    """
    from kwneuro_assets.cohort.prune import find_orphaned, remove_orphaned

    with open_project(home) as (instance, settings):
        store = project_store(settings)
        orphaned = find_orphaned(instance, settings, store, subjects)
        removable = [one for one in orphaned if not one.busy]
        for one in orphaned:
            busy = "; not removable now: a run of it is queued or running" if one.busy else ""
            click.echo(f"{one.subject}: {len(one.derivatives)} derivatives{busy}")
        if not orphaned:
            click.echo(f"all subjects are in the source {settings.source.url}: nothing to remove")
        elif yes:
            removed = remove_orphaned(instance, settings, store, removable)
            for subject in sorted({one.subject for one in removable} - {one.subject for one in removed}):
                click.echo(f"{subject}: not removed: a run of it has started, or it is in the source again")
            removable = removed
            count = sum(len(one.derivatives) for one in removed)
            click.echo(f"removed {len(removed)} subjects with {count} derivatives")
        else:
            click.echo(
                f"{len(removable)} subjects can be removed from {settings.store.url} and from Dagster with --yes"
            )
    if yes and len(removable) < len(orphaned):
        sys.exit(FAILED)


def scan_source(instance: DagsterInstance, settings: PipelineSettings, subjects: tuple[str, ...] = ()) -> IngestReport:
    """Import DICOM series and ingest the source, or only these subjects; prints messages to stderr."""
    from kwneuro_assets.ingestion.dicom_import import convert_dicom
    from kwneuro_assets.ingestion.ingest import ingest

    for message in convert_dicom(settings):
        click.echo(message, err=True)
    return ingest(instance, settings, subjects or None, on_message=lambda message: click.echo(message, err=True))


def print_problems(report: IngestReport) -> None:
    """Print unusable subjects, warnings and ignored files to stderr."""
    from kwneuro_assets.cli.console import printable

    for key, reason in {**report.quarantined, **report.arriving}.items():
        click.echo(f"{printable(key)}: cannot be used: {reason}", err=True)
    for key, warnings in report.warnings.items():
        for warning in warnings:
            click.echo(f"{key}: warning: {warning}", err=True)
    for path, why in list(report.ignored.items())[:_MAX_IGNORED]:
        click.echo(f"{printable(path)}: ignored: {why}", err=True)
    if len(report.ignored) > _MAX_IGNORED:
        click.echo(f"and {len(report.ignored) - _MAX_IGNORED} more ignored (`ingest --json` lists all)", err=True)


def _some(subjects: list[str], most: int = 5) -> str:
    shown = ", ".join(subjects[:most])
    return f" ({shown}{', ...' if len(subjects) > most else ''})" if subjects else ""
