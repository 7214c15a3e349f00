"""The time of an entire subject, from the DWI to all tract derivatives, through Dagster, and the part of each step.

    make bench ARGS="subject --source DATASET --weights FOLDER"
    make bench ARGS="subject --source DATASET --weights FOLDER --kwneuro PYTHON --json subject.json"

Runs `kwneuro-assets run` in a new project folder, with the brain mask by HD-BET 1. Seconds and peak memory of a step
are those that its materialization records; its memory includes what earlier steps left in the process.
--weights is a folder of TractSeg's weights under TractSeg's names; random numbers replace those that are missing, in
networks of TractSeg's own size: the time does not depend on them. --source is a BIDS dataset, by default the synthetic
head of the demo.

With --kwneuro, the interpreter of kwneuro (with its extras noddi and tractseg) runs the same steps, as in its notebook,
with single-tissue CSD. Its TractSeg uses the same weights. It takes the brain mask of the dataset, because its brain
extraction needs the weights of HD-BET 2: its total is without that step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.choice import add_weights, plain
from benchmarks.dataset import Dataset
from benchmarks.machine import machine
from benchmarks.peers import interpreter_with_kwneuro
from benchmarks.process import Measured, measure
from kwneuro_assets.threads import thread_count

SETTINGS = """\
source: {{url: {source}}}
store: {{url: {store}}}
weights: {{folder: {home}/weights}}
brain_mask: {{method: hd-bet-v1}}
denoising: {{method: patch2self}}  # for preprocessed data, too, as the peer does
ingestion: {{settle_seconds: 0}}  # no files are being copied
"""
REST = "ingesting, reading, figures, writing, Dagster"


def main(words: list[str]) -> None:
    options = _options(words)
    python, version = interpreter_with_kwneuro(options.kwneuro)
    results: dict[str, Any] = {"machine": machine(options.threads, version)}
    with tempfile.TemporaryDirectory() as scratch, tables.console.status("") as status:
        folder = Path(scratch)
        status.update("inputs")
        dataset, results["dataset"] = _inputs(folder, options)
        status.update("our steps")
        ours = measured(folder, dataset, options.threads)
        results["ours"] = ours.to_json()
        if python:
            status.update("kwneuro's steps")
            results["kwneuro"] = _kwneuro(folder, dataset, options.threads, python).to_json()
    tables.print_machine(results["machine"], results["dataset"])
    tables.print_subject(results["ours"], results.get("kwneuro"))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def measured(folder: Path, dataset: Dataset, threads: int) -> Measured:
    """The command from the start to the end of its process, with seconds and peak memory of each step as `steps`."""
    home = folder / "home"
    home.mkdir()
    (home / "settings.yaml").write_text(SETTINGS.format(source=dataset.folder, store=home / "store", home=home))
    environment = {
        "KWNEURO_SETTINGS": str(home / "settings.yaml"),
        "DAGSTER_HOME": str(home / "dagster"),
        "TRACTSEG_WEIGHTS_DIR": str(folder / "weights"),
        **dict.fromkeys(("KWNEURO_SOURCE", "KWNEURO_STORE", "KWNEURO_HOME"), ""),
    }
    found = measure("benchmarks.subject_run", ["run"], threads, environment=environment)
    recorded = measure("benchmarks.subject_run", ["steps"], threads, environment=environment)
    for one in (found, recorded):
        if one.problem:
            return one
    return Measured(found.wall, found.peak_mb, found.wall, found.cpu, details=with_rest(found.wall, recorded.details))


def with_rest(wall: float, details: Mapping[str, Any]) -> dict[str, Any]:
    """The steps, with the rest of the time of the process as the last one."""
    steps = [dict(step) for step in details["steps"]]
    rest = wall - sum(step["seconds"] for step in steps)
    return {"steps": [*steps, {"step": REST, "seconds": round(rest, 2)}]}


def _kwneuro(folder: Path, dataset: Dataset, threads: int, python: str) -> Measured:
    out = folder / "kwneuro"
    out.mkdir()
    words = ["subject", dataset.folder, dataset.subject, out]
    environment = {"TRACTSEG_WEIGHTS_DIR": str(folder / "weights")}
    found = measure("benchmarks.kwneuro_peer", words, threads, python=python, environment=environment)
    if found.problem:
        return found
    return Measured(found.wall, found.peak_mb, found.wall, found.cpu, details=found.details)


def _inputs(folder: Path, options: argparse.Namespace) -> tuple[Dataset, dict[str, Any]]:
    """The dataset with one subject and the folder of the weights."""
    choice = {**plain(options, "source", "subject"), "slices": options.slices, "voxels": None}
    cut = measure("benchmarks.cutting", [folder, json.dumps(choice)], options.threads)
    only = {"only_weights": True, **plain(options, "weights", "cache")}
    weights = measure("benchmarks.network_inputs", [folder, json.dumps(only)], options.threads)
    for one in (cut, weights):
        if one.problem:
            raise SystemExit(f"the inputs cannot be written: {one.problem}")
    described = {"source": choice["source"] or "synthetic head", **cut.details, **weights.details}
    return Dataset(folder / "source", cut.details["subject"]), described


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks subject",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", type=Path, help="a BIDS dataset with a brain mask; the synthetic head by default")
    parser.add_argument("--subject", default="sub-01")
    parser.add_argument(
        "--slices", type=int, help="number of axial slices about the middle of the brain; all by default"
    )
    add_weights(parser)
    parser.add_argument("--threads", type=int, default=thread_count(), help="threads of each process [%(default)s]")
    parser.add_argument("--kwneuro", metavar="PYTHON", help="an interpreter with kwneuro")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return parser.parse_args(words)
