"""The command `kwneuro-assets`: what Dagster's own commands do not do."""

from __future__ import annotations

from pathlib import Path

import click

from kwneuro_assets.cli.report_commands import report
from kwneuro_assets.cli.run_commands import diff, run, status
from kwneuro_assets.cli.source_commands import ingest, prune
from kwneuro_assets.cli.store_commands import export, verify
from kwneuro_assets.cli.ui_commands import demo, ui
from kwneuro_assets.cli.weights_commands import weights


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="The project folder [default: $KWNEURO_HOME or data].",
)
@click.version_option(package_name="kwneuro-assets")
@click.pass_context
def main(context: click.Context, home: Path | None) -> None:
    """Compute diffusion MRI derivatives as Dagster assets.

    A project folder (--home) has settings.yaml, the BIDS dataset in source, the derivatives in store and the Dagster
    instance in dagster. The settings and environment variables can name other places.

    \b
    First steps:
      kwneuro-assets demo                 compute all for a synthetic subject
      kwneuro-assets --home HOME run      compute all for the subjects in HOME/source
      kwneuro-assets --home HOME status   show what is missing, fresh or stale
      kwneuro-assets --home HOME report   build the reports and the cohort page
      kwneuro-assets --home HOME ui       open Dagster's UI

    \b
    Exit codes:
      0  success
      1  something failed, is damaged or differs
      2  the arguments, settings, source or store cannot be used
      3  derivatives are out of date (status --fail-if-stale)
    """
    context.obj = home


for command in (demo, ingest, run, status, report, ui, diff, verify, export, prune, weights):
    main.add_command(command)
