"""Commands about the state of derivatives: run, status, diff."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kwneuro_assets.cli.exit_codes import FAILED, OUT_OF_DATE
from kwneuro_assets.cli.project import open_project, project_store, source_and_store_options, subject_keys
from kwneuro_assets.cli.source_commands import print_problems, scan_source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kwneuro_assets.ingestion.ingest_index import ScannedSubject
    from kwneuro_assets.versioning.staleness import CohortStatus, Status


@click.command()
@source_and_store_options
@click.option("--subject", "subjects", multiple=True, metavar="KEY", help="Only this subject; can be repeated.")
@click.option(
    "--select", "selection", metavar="NAMES",
    help="Assets, comma-separated, or Dagster's selection syntax; upstream derivatives that are missing or out of date "
    "are added.",
)  # fmt: skip
@click.option("--only", is_flag=True, help="Only what --select names; upstream derivatives are not added.")
@click.option("--stale", is_flag=True, help="Trust the event log; do not check that the store has each derivative.")
@click.option(
    "--force", is_flag=True,
    help="Rematerialize the selected derivatives even if they are up to date; upstream ones only if they are not.",
)  # fmt: skip
@click.pass_obj
def run(
    home: Path | None, subjects: tuple[str, ...], selection: str | None, only: bool, stale: bool, force: bool
) -> None:
    """Ingest, then materialize what is missing or out of date.

    Runs in this process, without the UI, one subject after the other. Derivatives that are up to date are skipped.

    \b
    The outcomes are
      materialized     computed and stored
      skipped          already up to date
      not-applicable   cannot exist for this subject (such as NODDI of one shell)
      failed           the reason is printed
      upstream-failed  a derivative upstream failed, or another run is active

    The exit code is 1 if a derivative failed or a subject cannot be used.
    """
    from kwneuro_assets.assets import GROUP_DERIVATIVES
    from kwneuro_assets.cli.console import RunConsole, console, print_results
    from kwneuro_assets.cohort.run import Request, update_cohort
    from kwneuro_assets.cohort.selection import select_with_group
    from kwneuro_assets.subjects import GROUP

    if stale and force:
        raise click.UsageError("--stale and --force exclude each other: --force rematerializes what is up to date.")
    if only and not selection:
        raise click.UsageError("--only requires --select.")
    if str(GROUP) in subjects:
        names = ",".join(derivative.name for derivative in GROUP_DERIVATIVES)
        raise click.UsageError(
            f"{GROUP} is no subject: --select {names} without --subject materializes its derivatives."
        )
    with open_project(home) as (instance, settings):
        named = select_with_group(settings, selection)
        # The group response affects all subjects: a run of some subjects computes it only if it is selected.
        of_group = {derivative.name for derivative in GROUP_DERIVATIVES}
        group_selected = bool(selection) and not of_group.isdisjoint(named)
        request = Request(
            named, only=only, force=force, trust_log=stale,
            with_group=group_selected or not subjects, refresh_group=group_selected,
        )  # fmt: skip
        report = scan_source(instance, settings, subjects)
        print_problems(report)
        unusable = {**report.quarantined, **report.arriving}
        unknown = [key for key in subjects if key not in report.usable and key not in unusable]
        for key in unknown:
            click.echo(f"{key}: not in the source {settings.source.url}", err=True)
        results = update_cohort(instance, settings, report.usable, request, RunConsole)
        if not report.usable:
            click.echo(f"no usable subject in {settings.source.url}", err=True)
    if results:
        print_results(results)
        click.echo(f"stored in {settings.store.url}")
    elif report.usable:
        console.print(f"nothing to do: {len(report.usable)} subjects are up to date", soft_wrap=True)
    succeeded = report.usable and all(result.succeeded for result in results)
    if not succeeded or unusable or unknown:
        sys.exit(FAILED)


@click.command()
@source_and_store_options
@click.option("--subject", "subjects", multiple=True, metavar="KEY", help="Only this subject; can be repeated.")
@click.option("--why", is_flag=True, help="Also print why derivatives are not fresh.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--fail-if-stale", is_flag=True,
    help=f"Exit with code {OUT_OF_DATE} if a derivative is neither fresh nor not-applicable.",
)  # fmt: skip
@click.pass_obj
def status(home: Path | None, subjects: tuple[str, ...], why: bool, as_json: bool, fail_if_stale: bool) -> None:
    """Show the state of each derivative by subject.

    Reads only Dagster's event log: `ingest` records changes of the source first. For many subjects, the number of
    subjects in each state is printed; --subject prints the states of a subject.

    \b
    The states are
      fresh            up to date
      missing          not materialized, or no longer in the store
      stale            settings, software or an input changed
      stale-upstream   a derivative upstream is not up to date
      failed           the last attempt failed
      running          a run of it is queued or running
      not-applicable   cannot exist for this subject

    --json prints {subject: {asset: {"state", "why", "data_version", "code_version"}}}.
    """
    from kwneuro_assets.assets import GROUP_DERIVATIVE, GROUP_DERIVATIVES
    from kwneuro_assets.cli.console import print_group, print_status, print_unusable, print_warnings
    from kwneuro_assets.cohort.status import status_of, status_of_group
    from kwneuro_assets.ingestion.ingest_index import scanned_subjects
    from kwneuro_assets.subjects import GROUP
    from kwneuro_assets.versioning.partitions import PARTITIONS

    with open_project(home) as (instance, settings):
        known = sorted(instance.get_dynamic_partitions(PARTITIONS))
        scanned = {
            key: one for key, one in scanned_subjects(instance, settings).items() if not subjects or key in subjects
        }
        unusable = {key: one for key, one in scanned.items() if one.problem}
        warned = {key: one for key, one in scanned.items() if one.warnings and not one.problem and key in known}
        unknown = set(subjects) - {*known, *unusable, str(GROUP)}
        if unknown:
            raise click.ClickException(f"no such subject: {', '.join(sorted(unknown))}. `ingest` adds new subjects.")
        states = status_of(instance, settings, [key for key in subjects or known if key in known])
        shown = GROUP_DERIVATIVES if str(GROUP) in subjects else (GROUP_DERIVATIVE,) * settings.csd.group_response
        of_group = {derivative.name: status_of_group(instance, settings, derivative) for derivative in shown}
    if as_json:
        click.echo(json.dumps(_status_tree(states, unusable, warned, of_group), indent=2))
    else:
        if states or not of_group:
            print_status(states, why, by_row=bool(subjects))
        for name, one in of_group.items():
            print_group(name, one)
        print_warnings({key: one.warnings for key, one in warned.items()})
        print_unusable(unusable)
    every = [*(one for row in states.values() for one in row.values()), *of_group.values()]
    if fail_if_stale and not all(one.is_up_to_date for one in every):
        sys.exit(OUT_OF_DATE)


def _status_tree(
    states: CohortStatus,
    unusable: Mapping[str, ScannedSubject],
    warned: Mapping[str, ScannedSubject],
    of_group: Mapping[str, Status],
) -> dict[str, dict[str, object]]:
    """What `status --json` prints."""
    from kwneuro_assets.subjects import GROUP
    from kwneuro_assets.versioning.source_names import SCAN

    tree: dict[str, dict[str, object]] = {
        key: {name: one.to_json() for name, one in row.items()} for key, row in states.items()
    }
    for key, scanned in unusable.items():
        tree.setdefault(key, {})[SCAN] = scanned.to_json()
    for key, scanned in warned.items():
        tree[key][SCAN] = scanned.to_json()
    if of_group:
        tree[str(GROUP)] = {name: one.to_json() for name, one in of_group.items()}
    return tree


@click.command()
@source_and_store_options
@click.argument("subjects", nargs=-1, required=True, metavar="SUBJECT [OTHER]")
@click.option("--asset", "assets", multiple=True, metavar="NAME", help="Only this asset; can be repeated.")
@click.option(
    "--versus-settings", is_flag=True, help="Compare with the current settings and inputs, not with another subject."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def diff(
    home: Path | None, subjects: tuple[str, ...], assets: tuple[str, ...], versus_settings: bool, as_json: bool
) -> None:
    """Compare how the derivatives of two subjects were computed.

    Compares algorithm version, parameters, libraries, weights and inputs, as the sidecars in the store have them; the
    data themselves are not compared. The exit code is 1 if anything differs.
    """
    from kwneuro_assets.cli.console import print_differences
    from kwneuro_assets.cohort.comparison import compare_subjects, compare_with_settings
    from kwneuro_assets.cohort.selection import select

    if len(subjects) != (1 if versus_settings else 2):
        raise click.UsageError("expected two subjects, or one subject and --versus-settings")
    with open_project(home) as (instance, settings):
        names = select(settings, ",".join(assets) or None)
        store, keys = project_store(settings), subject_keys(subjects)
        if versus_settings:
            found = compare_with_settings(instance, settings, store, keys[0], names)
        else:
            found = compare_subjects(store, keys[0], keys[1], names)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_differences(found)
    if any(found.values()):
        sys.exit(FAILED)
