"""The command `demo`: all derivatives of one subject or a small cohort, and their errors against the known truth."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from dagster import DagsterInstance

from kwneuro_assets.assets import COHORT_DERIVATIVES, derivatives
from kwneuro_assets.cli.console import RunConsole, console, print_results
from kwneuro_assets.cli.demo_tables import print_cohort_scores, print_scores
from kwneuro_assets.cli.project_folder import use_project_folder
from kwneuro_assets.cohort.result import Result
from kwneuro_assets.cohort.run import Request, update_cohort
from kwneuro_assets.cohort.selection import select
from kwneuro_assets.demo.heads import subject_of, write_heads
from kwneuro_assets.demo.phantom import is_complete
from kwneuro_assets.demo.sherbrooke import SUBJECT, write_sherbrooke
from kwneuro_assets.demo.truth import Score, score
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import GROUP, SubjectKey, parse_key
from kwneuro_assets.weights import WeightsError, require

SETTINGS = """\
# Settings of the demo. Keys that are left out have their defaults.
brain_mask:
  method: hd-bet-v1  # its weights are part of its package
ingestion:
  settle_seconds: 0  # the files of the demo are complete before they are ingested
"""
DEMO_NETWORKS = """\
weights:
  demo_networks: true  # small networks for synthetic heads, where TractSeg's own are not installed
"""
TRACTS = "tracts"  # the asset group whose weights the demo can do without
STORED = ("materialized", "skipped")  # outcomes of derivatives that the store has
Dataset = Literal["synthetic", "sherbrooke"]


def run_demo(home: Path, dataset: Dataset, store: str | None = None, subjects: int = 1) -> bool:
    """Write the dataset to `home/source`, compute all derivatives and build the reports; returns whether all succeeded.

    `subjects` is the number of synthetic heads. The derivatives are stored in `home/store`, or in `store`. The folder
    is a project like any other: `kwneuro-assets --home HOME ui` opens it.
    """
    settings = _project(home, dataset, store)
    source = Path(settings.source.url)
    keys = _write(source, dataset, subjects)
    assets = select(settings, None)
    if dataset == "sherbrooke":
        assets = computable(settings, assets)
    with DagsterInstance.get() as instance:
        ingest(instance, settings)
        pages = [derivative.name for derivative in COHORT_DERIVATIVES]
        results = update_cohort(instance, settings, keys, Request([*assets, *pages]), RunConsole)
    store_of_derivatives = DerivativeStore(settings.store.url)
    print_results([_with_note(store_of_derivatives, result) for result in results])
    scores = _scores(store_of_derivatives, source / "truth", keys, results)
    if len(scores) == 1:
        print_scores(scores[keys[0]])
    elif scores:
        print_cohort_scores(scores)
    console.print(f"\nThe derivatives are stored in {settings.store.url}")
    page = store_of_derivatives.path("cohort_report", GROUP)
    console.print(f"The reports of the subjects are linked in {page}", soft_wrap=True)
    console.print(f"Open the UI with: [bold]make ui[/]   (or: kwneuro-assets --home {home} ui)", soft_wrap=True)
    return all(result.succeeded for result in results)


def _project(home: Path, dataset: Dataset, store: str | None) -> PipelineSettings:
    """The settings of the demo project. The environment variables of another project are removed."""
    for variable in ("KWNEURO_SOURCE", "KWNEURO_STORE", "KWNEURO_SETTINGS", "DAGSTER_HOME"):
        os.environ.pop(variable, None)
    if store:
        os.environ["KWNEURO_STORE"] = store
    home.mkdir(parents=True, exist_ok=True)
    file = home / "settings.yaml"
    # A demo of an earlier version wrote SETTINGS alone.
    if not file.exists() or file.read_text(encoding="utf-8") == SETTINGS:
        file.write_text(SETTINGS + (DEMO_NETWORKS if dataset == "synthetic" else ""), encoding="utf-8")
    return use_project_folder(home)


def _write(source: Path, dataset: Dataset, subjects: int) -> list[str]:
    """Write the subjects that are not yet complete in `source`; returns the keys of all."""
    if dataset == "sherbrooke":
        if not (source / SUBJECT).is_dir():
            console.print(f"writing the Sherbrooke subject to {source}")
            write_sherbrooke(source)
        return [SUBJECT]
    absent = [key for key in map(subject_of, range(1, subjects + 1)) if not is_complete(source, key)]
    if absent:
        what = "the synthetic subject" if subjects == 1 else f"{len(absent)} synthetic subjects"
        console.print(f"writing {what} to {source}")
    return write_heads(source, subjects)


def computable(settings: PipelineSettings, assets: Sequence[str]) -> list[str]:
    """The derivatives except tracts whose weights cannot be fetched, or that need one of these; prints which."""
    absent: dict[str, str] = {}
    for derivative in derivatives(settings):
        needed = set(derivative.inputs(settings)) - derivative.may_be_missing
        above = [absent[name] for name in absent if name in needed]
        if above:
            absent[derivative.name] = above[0]
            continue
        try:
            for network in derivative.network_names(settings) if derivative.group == TRACTS else ():
                require(network, Path(settings.weights.folder))
        except WeightsError as error:
            absent[derivative.name] = str(error)
    if absent:
        console.print(f"left out: {', '.join(absent)}: {next(iter(absent.values()))}", soft_wrap=True, markup=False)
    return [asset for asset in assets if asset not in absent]


def _with_note(store: DerivativeStore, result: Result) -> Result:
    """The result, with the note on its networks in the sidecar, such as that they are the demo's."""
    sidecar = store.sidecar(result.asset, parse_key(result.subject)) if result.outcome in STORED else None
    return replace(result, note=sidecar.provenance.networks.get("Note", "")) if sidecar else result


def _scores(
    store: DerivativeStore, truth: Path, keys: Sequence[str], results: Sequence[Result]
) -> Mapping[str, list[Score]]:
    """The scores of the stored derivatives of each subject that has a known truth."""
    scores: dict[str, list[Score]] = {}
    for key in keys:
        stored = [one.asset for one in results if one.subject == key and one.outcome in STORED]
        if (truth / key).is_dir():
            scores[key] = score({name: store.read(name, SubjectKey.parse(key))[0] for name in stored}, truth / key)
    return scores
