"""The command `report`: pages about subjects and the cohort."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

import click

from kwneuro_assets.cli.exit_codes import FAILED
from kwneuro_assets.cli.project import open_project, project_store, source_and_store_options


@click.command()
@source_and_store_options
@click.option(
    "--subject", "subjects", multiple=True, metavar="KEY",
    help="Only the report of this subject, without the cohort page; can be repeated.",
)  # fmt: skip
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
@click.pass_obj
def report(home: Path | None, subjects: tuple[str, ...], opens: bool) -> None:
    """Build the reports of the subjects and the cohort page.

    A report shows what exists: QC metrics and asset checks, figures, a viewer, parameters, versions, provenance and a
    methods text. Nothing is computed but QC metrics and pages; `run` computes the derivatives. The pages are at the
    root of the store: sub-01.html, group.html.

    The exit code is 1 if a page could not be built.
    """
    from kwneuro_assets.assets import COHORT_DERIVATIVES
    from kwneuro_assets.assets.cohort_qc import ratings_of
    from kwneuro_assets.cli.console import RunConsole, print_results
    from kwneuro_assets.cohort.run import Request, update_cohort
    from kwneuro_assets.ingestion.ingest_index import unusable_subjects, usable_subjects
    from kwneuro_assets.storage.pages import local_page
    from kwneuro_assets.subjects import GROUP, StoreKey, SubjectKey

    with open_project(home) as (instance, settings):
        known = usable_subjects(instance, settings)
        unusable = unusable_subjects(instance, settings)
        for key in subjects:
            if key not in known:
                reason = unusable[key].reason if key in unusable else "`ingest` adds new subjects"
                raise click.ClickException(f"{key} has no report: {reason}")
        if not known:
            raise click.ClickException(f"there are no subjects yet: `run` ingests {settings.source.url}")
        if not subjects:
            ratings_of(settings.cohort)  # a file that cannot be read ends the command before it computes anything
        pages = [] if subjects else [derivative.name for derivative in COHORT_DERIVATIVES]
        request = Request(["dwi_qc", "subject_report", *pages], only=True, with_group=not subjects)
        results = update_cohort(instance, settings, subjects or known, request, RunConsole)
        store = project_store(settings)
        keys: list[StoreKey] = [SubjectKey.parse(key) for key in subjects] if subjects else [GROUP]
        asset = "subject_report" if subjects else "cohort_report"
        built = [one for one in results if one.outcome != "skipped"]
        if built:
            print_results(built)
        for owner in keys:
            if store.sidecar(asset, owner) is not None:
                click.echo(f"{asset} of {owner}: {store.path(asset, owner)}")
                if opens:
                    webbrowser.open(local_page(store, asset, owner).resolve().as_uri())
    if not all(one.succeeded for one in results):
        sys.exit(FAILED)
