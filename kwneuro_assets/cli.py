"""The commands that Dagster itself lacks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from kwneuro_assets.ingestion.ingest import IngestReport
    from kwneuro_assets.settings import PipelineSettings
    from kwneuro_assets.storage.store import DerivativeStore
    from kwneuro_assets.subjects import SubjectKey

_DEMO_HOMES = {"synthetic": "demo", "sherbrooke": "sherbrooke"}
FAILED = 1
MISUSED = 2
UNSETTLED = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with settings.yaml, source, store and the Dagster instance [default: $KWNEURO_HOME or data].",
)
@click.version_option(package_name="kwneuro-assets")
@click.pass_context
def main(context: click.Context, home: Path | None) -> None:
    """Diffusion MRI derivatives as Dagster assets."""
    context.obj = home


def source_and_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """The two options that say where data come from and go to."""
    for name, what in (("store", "Folder or URL of the derivatives"), ("source", "Folder or URL of the BIDS dataset")):
        variable = f"KWNEURO_{name.upper()}"
        command = click.option(
            f"--{name}", metavar="URL", help=f"{what} [default: ${variable}, the settings, HOME/{name}].",
            expose_value=False, callback=_into_environment(variable),
        )(command)  # fmt: skip
    return command


def _into_environment(variable: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            os.environ[variable] = value

    return keep


@main.command()
@source_and_store
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.pass_obj
def ingest(home: Path | None, as_json: bool) -> None:
    """Look at the source once: add new subjects, observe what changed."""
    with _opened(home) as (instance, settings):
        report = _look(instance, settings)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
        return
    for key in ("added", "changed", "unchanged", "removed"):
        subjects = getattr(report, key)
        click.echo(f"{key:>9}: {len(subjects)}{_some(subjects)}")
    _print_unusable(report)


@main.command()
@source_and_store
@click.option("--subject", "subjects", multiple=True, metavar="KEY", help="Only this one; may be given again.")
@click.option("--yes", is_flag=True, help="Remove them; without it they are only listed.")
@click.pass_obj
def prune(home: Path | None, subjects: tuple[str, ...], yes: bool) -> None:
    """List subjects that are gone from the source; with --yes, remove their derivatives and partitions."""
    from kwneuro_assets.ingestion.prune import find_gone, remove_gone

    with _opened(home) as (instance, settings):
        store = _store(settings)
        gone = find_gone(instance, settings, store, subjects)
        free = [one for one in gone if not one.busy]
        for one in gone:
            held = "; a run of it waits or works, so it stays" if one.busy else ""
            click.echo(f"{one.subject}: {len(one.derivatives)} derivatives{held}")
        if not gone:
            click.echo(f"every subject is still in {settings.source.url}")
        elif yes:
            remove_gone(instance, settings, store, free)
            click.echo(f"removed {len(free)} subjects with {sum(len(one.derivatives) for one in free)} derivatives")
        else:
            click.echo(f"{len(free)} subjects can be removed from {settings.store.url} and from the partitions: --yes")
    if yes and len(free) < len(gone):
        sys.exit(FAILED)


@main.command()
@source_and_store
@click.option("--subject", "subjects", multiple=True, metavar="KEY", help="Only this one; may be given again.")
@click.option("--select", "selection", metavar="NAMES", help="Assets, comma-separated, or Dagster's selection syntax.")
@click.option("--stale", is_flag=True, help="Go by the event log alone: only subjects of which something is not fresh.")
@click.option("--force", is_flag=True, help="Make what is named again, fresh or not.")
@click.pass_obj
def run(home: Path | None, subjects: tuple[str, ...], selection: str | None, stale: bool, force: bool) -> None:
    """Ingest, then make what is not there or not fresh, here and now, without the UI."""
    from kwneuro_assets.assets import GROUP_DERIVATIVE
    from kwneuro_assets.cohort import following_group
    from kwneuro_assets.console import RunConsole, console, print_results
    from kwneuro_assets.running import subjects_to_update, update_group, update_subject
    from kwneuro_assets.selection import select_with_group
    from kwneuro_assets.subjects import GROUP

    if stale and force:
        raise click.UsageError("--stale and --force exclude each other: force makes again what is fresh.")
    with _opened(home) as (instance, settings):
        assets = select_with_group(settings, selection)
        # Who is in the group is decided for all: a run of some subjects makes it only where it is named.
        with_group = GROUP_DERIVATIVE.name in assets and (bool(selection) or not subjects)
        report = _look(instance, settings, subjects)
        _print_unusable(report)
        unusable = {**report.quarantined, **report.arriving}
        unknown = [key for key in subjects if key not in report.usable and key not in unusable]
        for key in unknown:
            click.echo(f"{key}: not in the source {settings.source.url}", err=True)
        results = []

        def update(assets: list[str]) -> None:
            wanted = subjects_to_update(instance, settings, report.usable, assets) if stale else report.usable
            for subject in wanted if assets else []:
                with RunConsole(subject, assets) as shown:
                    made = update_subject(instance, settings, subject, assets, shown, force=force, trust_log=stale)
                    shown.finish(made)
                results.extend(made)

        of_subjects = [name for name in assets if name != GROUP_DERIVATIVE.name]
        if with_group:
            after = following_group(settings)
            update([name for name in of_subjects if name not in after])
            with RunConsole(str(GROUP), [GROUP_DERIVATIVE.name]) as shown:
                made = update_group(instance, settings, shown, anew=bool(selection), force=force)
                shown.finish([made])
            results.append(made)
            update([name for name in of_subjects if name in after])
        else:
            update(of_subjects)
        if not report.usable:
            click.echo(f"no usable subject in {settings.source.url}", err=True)
    if results:
        print_results(results)
        click.echo(f"stored in {settings.store.url}")
    elif report.usable:
        console.print(f"nothing to do: all of {len(report.usable)} subjects is fresh", soft_wrap=True)
    whole = report.usable and all(result.is_there for result in results)
    if not whole or unusable or unknown:
        sys.exit(FAILED)


@main.command()
@source_and_store
@click.option("--subject", "subjects", multiple=True, metavar="KEY", help="Only this one; may be given again.")
@click.option("--why", is_flag=True, help="Say for each derivative that is not fresh why it is not.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.option(
    "--fail-if-stale", is_flag=True, help=f"Exit code {UNSETTLED} where anything is neither fresh nor not-applicable."
)
@click.pass_obj
def status(home: Path | None, subjects: tuple[str, ...], why: bool, as_json: bool, fail_if_stale: bool) -> None:
    """Show what is missing, fresh or stale, by subject and asset."""
    from kwneuro_assets.assets import GROUP_DERIVATIVE
    from kwneuro_assets.cohort import status_of, status_of_group
    from kwneuro_assets.console import print_group, print_set_aside, print_status
    from kwneuro_assets.ingestion.ledger import set_aside
    from kwneuro_assets.subjects import GROUP, PARTITIONS
    from kwneuro_assets.versioning.records import SCAN

    with _opened(home) as (instance, settings):
        known = sorted(instance.get_dynamic_partitions(PARTITIONS))
        aside = {key: one for key, one in set_aside(instance, settings).items() if not subjects or key in subjects}
        unknown = set(subjects) - {*known, *aside}
        if unknown:
            raise click.ClickException(f"no such subject: {', '.join(sorted(unknown))}. `ingest` adds new ones.")
        states = status_of(instance, settings, [key for key in subjects or known if key in known])
        of_group = status_of_group(instance, settings) if settings.csd.group_response else None
    if as_json:
        tree = {key: {name: one.to_json() for name, one in row.items()} for key, row in states.items()}
        for key, one in aside.items():
            tree.setdefault(key, {})[SCAN] = one.to_json()
        if of_group:
            tree[str(GROUP)] = {GROUP_DERIVATIVE.name: of_group.to_json()}
        click.echo(json.dumps(tree, indent=2))
    else:
        print_status(states, why, by_row=bool(subjects))
        if of_group:
            print_group(GROUP_DERIVATIVE.name, of_group)
        print_set_aside(aside)
    every = [*(one for row in states.values() for one in row.values()), *([of_group] if of_group else [])]
    if fail_if_stale and not all(one.settled for one in every):
        sys.exit(UNSETTLED)


@main.command()
@source_and_store
@click.argument("subjects", nargs=-1, required=True, metavar="SUBJECT [OTHER]")
@click.option("--asset", "assets", multiple=True, metavar="NAME", help="Only this one; may be given again.")
@click.option("--versus-settings", is_flag=True, help="Compare with what would be made now, not with another subject.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.pass_obj
def diff(
    home: Path | None, subjects: tuple[str, ...], assets: tuple[str, ...], versus_settings: bool, as_json: bool
) -> None:
    """Say what differs in how the derivatives of SUBJECT and OTHER were made; exit code 1 where anything does."""
    from kwneuro_assets.comparison import versus_present, versus_subject
    from kwneuro_assets.console import print_differences
    from kwneuro_assets.selection import select

    if len(subjects) != (1 if versus_settings else 2):
        raise click.UsageError("expected two subjects, or one with --versus-settings")
    with _opened(home) as (instance, settings):
        names = select(settings, ",".join(assets) or None)
        store, keys = _store(settings), _keys(subjects)
        if versus_settings:
            found = versus_present(instance, settings, store, keys[0], names)
        else:
            found = versus_subject(store, keys[0], keys[1], names)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_differences(found)
    if any(found.values()):
        sys.exit(FAILED)


@main.command()
@source_and_store
@click.option("--subject", "subjects", multiple=True, metavar="KEY", help="Only this one; may be given again.")
@click.pass_obj
def verify(home: Path | None, subjects: tuple[str, ...]) -> None:
    """Compare every file of the store with its checksum; exit code 1 where one differs."""
    from kwneuro_assets.console import FileProgress
    from kwneuro_assets.storage.checking import verify_store

    with _errors_in_one_sentence():
        store = _store(_settled(home))
        with FileProgress("verifying") as progress:
            found = verify_store(store, _keys(subjects), progress.update)
        for problem in found.problems:
            click.echo(problem, err=True)
        click.echo(
            f"{found.derivatives} derivatives of {found.subjects} subjects in {store.root}: "
            + (f"{len(found.problems)} damaged; of the others, " if found.problems else "")
            + f"all {found.files} files are as they were stored"
        )
    if found.problems:
        sys.exit(FAILED)


@main.command()
@source_and_store
@click.option("--subject", "subjects", multiple=True, required=True, metavar="KEY", help="May be given again.")
@click.option("--to", "target", required=True, metavar="URL", help="Folder or URL that the derivatives are copied to.")
@click.option("--select", "selection", metavar="NAMES", help="Assets, comma-separated, or Dagster's selection syntax.")
@click.pass_obj
def export(home: Path | None, subjects: tuple[str, ...], target: str, selection: str | None) -> None:
    """Copy subjects' derivatives, each file checked on the way; what comes out is a BIDS dataset of its own."""
    from kwneuro_assets.console import FileProgress
    from kwneuro_assets.selection import select
    from kwneuro_assets.storage.checking import export_subjects
    from kwneuro_assets.storage.store import DerivativeStore

    with _errors_in_one_sentence():
        settings = _settled(home)
        copy = DerivativeStore(target, settings.source.url)
        with FileProgress("copying") as progress:
            assets = select(settings, selection) if selection else None
            found = export_subjects(_store(settings), copy, _keys(subjects), assets, progress.update)
        for problem in found.problems:
            click.echo(problem, err=True)
        click.echo(
            f"{found.whole} derivatives of {found.subjects} subjects, {found.files} files, copied to {copy.root}"
        )
    if found.problems:
        sys.exit(FAILED)


@main.command()
@source_and_store
@click.option("--port", default=3000, show_default=True, help="Port on 127.0.0.1.")
@click.pass_obj
def ui(home: Path | None, port: int) -> None:
    """Open Dagster's UI on this project: `dagster dev` on 127.0.0.1."""
    with _opened(home):
        pass  # what an earlier UI left unfinished is told as failed, and blocks no queue
    command = [sys.executable, "-m", "dagster", "dev", "-m", "kwneuro_assets.definitions", "-h", "127.0.0.1"]
    os.execv(sys.executable, [*command, "-p", str(port)])


@main.command()
@click.option("--dataset", type=click.Choice(["synthetic", "sherbrooke"]), default="synthetic", show_default=True)
@click.option("--store", metavar="URL", help="Folder or URL of the derivatives [default: HOME/store].")
@click.pass_obj
def demo(home: Path | None, dataset: Literal["synthetic", "sherbrooke"], store: str | None) -> None:
    """Make a synthetic subject with known truth and every derivative of it (or DIPY's Sherbrooke dataset)."""
    from kwneuro_assets.demo.tour import tour

    with _errors_in_one_sentence():
        sys.exit(0 if tour(home or Path("data", _DEMO_HOMES[dataset]), dataset, store) else FAILED)


@main.group()
def weights() -> None:
    """Weights of the networks: where they are, fetch them, verify them."""


@weights.command("list")
@click.pass_obj
def list_weights(home: Path | None) -> None:
    """Show where each network's weights are."""
    from kwneuro_assets.weights import NETWORKS, locate

    folder = Path(_settled(home).weights.folder)
    for name in NETWORKS:
        click.echo(f"{name:<22} {locate(name, folder) or 'absent'}")


@weights.command()
@click.argument("networks", nargs=-1)
@click.pass_obj
def fetch(home: Path | None, networks: tuple[str, ...]) -> None:
    """Fetch the weights of NETWORKS, or of all, that are not here yet."""
    from kwneuro_assets.weights import NETWORKS
    from kwneuro_assets.weights import fetch as fetch_network

    folder = Path(_settled(home).weights.folder)
    with _errors_in_one_sentence():
        for name in networks or NETWORKS:
            with click.progressbar(length=1000, label=name) as bar:
                where = fetch_network(name, folder, lambda share, bar=bar: bar.update(round(1000 * share) - bar.pos))
            click.echo(f"{name}: {where}")


@weights.command("verify")
@click.pass_obj
def verify_weights(home: Path | None) -> None:
    """Compare the weights that are here with their checksums."""
    from kwneuro_assets.weights import NETWORKS, locate
    from kwneuro_assets.weights import verify as verify_network

    folder = Path(_settled(home).weights.folder)
    with _errors_in_one_sentence():
        for name in NETWORKS:
            where = locate(name, folder)
            if where is None:
                click.echo(f"{name}: absent")
                continue
            for file, digest in verify_network(name, where).items():
                click.echo(f"{name}: {where / file}: {digest}")


@contextmanager
def _opened(home: Path | None) -> Iterator[tuple[DagsterInstance, PipelineSettings]]:
    """The project's settings and instance, with errors that a person can act on told in one sentence."""
    from dagster import DagsterInstance

    from kwneuro_assets.processes import end_dead_runs

    with _errors_in_one_sentence():
        settings = _settled(home)
        with DagsterInstance.get() as instance:
            end_dead_runs(instance)
            yield instance, settings


def _settled(home: Path | None) -> PipelineSettings:
    from kwneuro_assets.home import settle

    with _errors_in_one_sentence():
        return settle(home)


@contextmanager
def _errors_in_one_sentence() -> Iterator[None]:
    from kwneuro_assets.errors import ActionableError

    try:
        yield
    except ActionableError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(MISUSED)


def _store(settings: PipelineSettings) -> DerivativeStore:
    from kwneuro_assets.storage.store import DerivativeStore

    return DerivativeStore(settings.store.url, settings.source.url, settings.store.verify)


def _keys(subjects: tuple[str, ...]) -> list[SubjectKey]:
    from kwneuro_assets.subjects import SubjectKey

    return [SubjectKey.parse(key) for key in subjects]


def _look(instance: DagsterInstance, settings: PipelineSettings, subjects: tuple[str, ...] = ()) -> IngestReport:
    """One whole look at the source; what is waited for is told on stderr."""
    from kwneuro_assets.ingestion.ingest import ingest
    from kwneuro_assets.ingestion.scanner import convert_dicom

    for told in convert_dicom(settings):
        click.echo(told, err=True)
    return ingest(instance, settings, subjects or None, tell=lambda sentence: click.echo(sentence, err=True))


def _print_unusable(report: IngestReport) -> None:
    from kwneuro_assets.console import shown_name

    for key, reason in {**report.quarantined, **report.arriving}.items():
        click.echo(f"{shown_name(key)}: cannot be used: {reason}", err=True)
    for key, told in report.warnings.items():
        for warning in told:
            click.echo(f"{key}: warning: {warning}", err=True)


def _some(subjects: list[str], most: int = 5) -> str:
    shown = ", ".join(subjects[:most])
    return f" ({shown}{', ...' if len(subjects) > most else ''})" if subjects else ""


if __name__ == "__main__":
    main()
