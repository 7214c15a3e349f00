"""The demo: one subject, every derivative, and how close they come to the truth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from dagster import DagsterInstance
from rich.table import Table

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.console import RunConsole, console, print_results
from kwneuro_assets.demo.phantom import write_phantom
from kwneuro_assets.demo.sherbrooke import write_sherbrooke
from kwneuro_assets.demo.truth import score
from kwneuro_assets.home import settle
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.running import Result, update_subject
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.weights import WeightsError, require

SUBJECT = "sub-01"
SETTINGS = """\
# Settings of the demo; every key that is left out has its default.
brain_mask:
  method: hd-bet-v1  # the network whose weights come with its package
ingestion:
  settle_seconds: 0  # the demo has written its files whole before it looks
"""
TRACT_NETWORKS = {
    "tract_masks": "tractseg-masks",
    "tract_endings": "tractseg-endings",
    "tract_orientations": "tractseg-orientations",
}


def tour(home: Path, dataset: Literal["synthetic", "sherbrooke"], store: str | None = None) -> bool:
    """Make the demo's dataset below `home` and all its derivatives, there or in `store`; True where all that could be
    made was.

    The folder becomes a project like any other: `kwneuro-assets --home HOME ui` opens it.
    """
    settings = _project(home, store)
    source = Path(settings.source.url)
    if not (source / SUBJECT).is_dir():
        console.print(f"writing the {dataset} subject to {source}")
        (write_phantom if dataset == "synthetic" else write_sherbrooke)(source)
    assets = _makeable(settings)
    with DagsterInstance.get() as instance:
        ingest(instance, settings)
        with RunConsole(SUBJECT, assets) as shown:
            results = update_subject(instance, settings, SUBJECT, assets, shown)
            shown.finish(results)
    print_results(results)
    _print_truth(settings, source / "truth" / SUBJECT, results)
    console.print(f"\nThe derivatives lie in {settings.store.url}")
    console.print(f"Open the UI with: [bold]make ui[/]   (or: kwneuro-assets --home {home} ui)", soft_wrap=True)
    return all(result.is_there for result in results)


def _project(home: Path, store: str | None) -> PipelineSettings:
    """The demo is a project of its own, whatever the environment says of another."""
    for variable in ("KWNEURO_SOURCE", "KWNEURO_STORE", "KWNEURO_SETTINGS", "DAGSTER_HOME"):
        os.environ.pop(variable, None)
    if store:
        os.environ["KWNEURO_STORE"] = store
    home.mkdir(parents=True, exist_ok=True)
    file = home / "settings.yaml"
    if not file.exists():
        file.write_text(SETTINGS, encoding="utf-8")
    return settle(home)


def _makeable(settings: PipelineSettings) -> list[str]:
    """All derivatives but those whose weights are neither here nor reachable, which is told in one line."""
    absent: dict[str, str] = {}
    for asset, network in TRACT_NETWORKS.items():
        try:
            if asset == "tract_orientations" and "tract_masks" in absent:
                absent[asset] = absent["tract_masks"]
            else:
                require(network, Path(settings.weights.folder))
        except WeightsError as error:
            absent[asset] = str(error)
    if absent:
        console.print(f"left out: {', '.join(absent)}: {next(iter(absent.values()))}", soft_wrap=True, markup=False)
    return [derivative.name for derivative in DERIVATIVES if derivative.name not in absent]


def _print_truth(settings: PipelineSettings, truth: Path, results: list[Result]) -> None:
    if not truth.is_dir():
        return
    store, subject = DerivativeStore(settings.store.url), SubjectKey.parse(SUBJECT)
    there = [result.asset for result in results if result.outcome in ("made", "fresh")]
    made = {name: store.read(name, subject)[0] for name in there}
    table = Table("against the known truth", "", "", box=None, pad_edge=False, show_header=True)
    for row in score(made, truth):
        table.add_row(*row)
    console.print()
    console.print(table)
