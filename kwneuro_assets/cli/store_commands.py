"""Commands about the store: verify, export."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kwneuro_assets.cli.exit_codes import FAILED
from kwneuro_assets.cli.project import (
    errors_as_messages,
    project_settings,
    project_store,
    source_and_store_options,
    store_keys,
)


@click.command()
@source_and_store_options
@click.option(
    "--subject", "subjects", multiple=True, metavar="KEY",
    help="Only this subject; can be repeated. `group` is the cohort as a whole.",
)  # fmt: skip
@click.pass_obj
def verify(home: Path | None, subjects: tuple[str, ...]) -> None:
    """Compare every file of the store with its checksum.

    Prints each missing or damaged file with the command that rematerializes it. The exit code is 1 if there is one.
    """
    from kwneuro_assets.cli.console import FileProgress
    from kwneuro_assets.storage.checking import verify_store

    with errors_as_messages():
        store = project_store(project_settings(home))
        with FileProgress("verifying") as progress:
            found = verify_store(store, store_keys(subjects), progress.update)
        for problem in found.problems:
            click.echo(problem, err=True)
        damaged = f"{len(found.problems)} damaged; of the others, " if found.problems else ""
        click.echo(
            f"{found.derivatives} derivatives of {found.subjects} subjects in {store.root}: "
            f"{damaged}all {found.files} files are intact"
        )
    if found.problems:
        sys.exit(FAILED)


@click.command()
@source_and_store_options
@click.option(
    "--subject", "subjects", multiple=True, required=True, metavar="KEY",
    help="The subject to copy; can be repeated. `group` is the cohort as a whole.",
)  # fmt: skip
@click.option("--to", "target", required=True, metavar="URL", help="Folder or URL of the copy.")
@click.option("--select", "selection", metavar="NAMES", help="Assets, comma-separated, or Dagster's selection syntax.")
@click.option(
    "--split-bundles", "split", is_flag=True,
    help="Also write one file per bundle of tract masks, endings and orientation maps.",
)  # fmt: skip
@click.pass_obj
def export(home: Path | None, subjects: tuple[str, ...], target: str, selection: str | None, split: bool) -> None:
    """Copy derivatives of subjects to another folder or URL.

    Each file is verified while it is copied. The copy is a complete BIDS derivatives dataset, and a store that all
    commands accept as --store. The exit code is 1 if a derivative was missing or damaged; it is not copied then.
    """
    from kwneuro_assets.cli.console import FileProgress
    from kwneuro_assets.cohort.selection import select_for
    from kwneuro_assets.storage.checking import export_subjects
    from kwneuro_assets.storage.store import DerivativeStore

    with errors_as_messages():
        settings = project_settings(home)
        copy = DerivativeStore(target, settings.source.url)
        with FileProgress("copying") as progress:
            keys = store_keys(subjects)
            assets = select_for(settings, selection, keys) if selection else None
            found = export_subjects(project_store(settings), copy, keys, assets, progress.update, split=split)
        for problem in found.problems:
            click.echo(problem, err=True)
        click.echo(
            f"{found.intact} derivatives of {found.subjects} subjects, {found.files} files, copied to {copy.root}"
        )
    if found.problems:
        sys.exit(FAILED)
