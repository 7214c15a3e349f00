"""Measures the microstructure steps against their peers, each in a process of its own, and prints tables.

    make bench                                        # the synthetic head, whole
    make bench ARGS="--slices 6 --voxels 2000"        # cut down: some minutes
    make bench ARGS="--source DATASET --subject sub-01 --json out.json"
    make bench ARGS="--kwneuro PYTHON"                # an interpreter that has kwneuro, where this one has not
    make bench ARGS="--growth"                        # how time grows with voxels, volumes and cores
    make bench ARGS="storage --help"                  # the store against plain compression and transfer
    make bench ARGS="cohort --help"                   # the status of thousands of subjects
    make bench ARGS="automation --help"               # a tick of the sensor over thousands of subjects
    make bench ARGS="ingestion --help"                # ticks of the ingestion sensor over thousands of subjects
    make bench ARGS="bits --help"                     # what changes the last bits of a derivative
    make bench ARGS="noise --help"                    # fibre directions at several levels of noise
    make bench ARGS="directions --help"               # fibre directions and tissue shares against a phantom's truth

The dataset brings its brain mask, so that no network is timed. Of the peers DIPY is there; AMICO, MRtrix3 (on the
PATH) and kwneuro are measured where they are installed. All get the same number of threads and of processors.

Steps:
  denoise           read, Patch2Self, write, with its accuracy: against scikit-learn's exact fit, and against the truth
                    where the dataset has <source>/truth/<subject>/noise_free_dwi.nii.gz
  tensor            fit, FA and MD, in memory; MRtrix3's commands are timed with their reading and writing
  noddi             the dictionary included, in memory
  chain             `kwneuro-assets run` of DTI and NODDI with all before them, with the parts of its time
  response, response and csd, csd
                    the fibre response; that with deconvolution and peaks; these alone; MRtrix3's with our response
  multi-tissue      deconvolution of all shells and peaks, with our responses given to both, ours of order 10, MRtrix3's
                    of order 8, its default
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import comparison, tables
from benchmarks.choice import names_of
from benchmarks.dataset import Dataset
from benchmarks.machine import machine
from benchmarks.peers import PEERS, Setting, interpreter_with_kwneuro
from benchmarks.process import measure
from kwneuro_assets.threads import thread_count

OTHERS = ("storage", "cohort", "automation", "ingestion", "bits", "noise", "directions")


def main() -> None:
    arguments = _arguments()
    python, version = interpreter_with_kwneuro(arguments.kwneuro)
    told: dict[str, Any] = {"machine": machine(arguments.threads, version)}
    with tempfile.TemporaryDirectory() as scratch:
        choice = {"source": arguments.source and str(arguments.source.absolute())}
        choice |= {name: getattr(arguments, name) for name in ("subject", "slices", "voxels")}
        cut = measure("benchmarks.cutting", [scratch, json.dumps(choice)], arguments.threads)
        if cut.problem:
            sys.exit(f"the dataset cannot be used: {cut.problem}")
        told["dataset"] = {"source": str(arguments.source or "synthetic head"), **cut.details}
        dataset = Dataset(Path(scratch) / "source", cut.details["subject"])
        setting = Setting(dataset, arguments.threads, Path(scratch), python)
        tables.print_machine(told["machine"], told["dataset"])
        told["warm_up"] = comparison.warmed_up(setting, () if arguments.growth else arguments.steps)
        tables.print_warm_up(told["warm_up"])
        if arguments.growth:
            _grow(setting, arguments.steps, told)
        else:
            _compare(setting, arguments.steps, told)
    if arguments.json:
        arguments.json.write_text(json.dumps(told, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="a BIDS dataset with a brain mask; the synthetic head by default")
    parser.add_argument("--subject", default="sub-01")
    parser.add_argument("--slices", type=_count, help="only so many axial slices about the middle of the brain")
    parser.add_argument("--voxels", type=_count, help="fit models only in so many voxels about the mask's middle")
    parser.add_argument("--threads", type=_count, default=thread_count(), help="of each process [%(default)s]")
    parser.add_argument("--kwneuro", metavar="PYTHON", help="an interpreter that has kwneuro")
    parser.add_argument(
        "--steps", type=names_of(PEERS, "step"), default=list(PEERS), help=f"comma-separated [{','.join(PEERS)}]"
    )
    parser.add_argument("--growth", action="store_true", help="tell how our times grow, in place of the peers'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _compare(setting: Setting, steps: list[str], told: dict[str, Any]) -> None:
    told["steps"] = []
    with tables.console.status("") as status:
        for step in steps:
            told["steps"].append(comparison.compared(step, setting, status.update))
        if "denoise" in steps:
            status.update("denoise: accuracy")
            told["denoising"] = comparison.accuracy(setting)
    tables.print_comparison(told["steps"])
    if "denoise" in steps:
        tables.print_accuracy(told["denoising"])
    for row in told["steps"]:
        tables.print_parts(row)


def _grow(setting: Setting, steps: list[str], told: dict[str, Any]) -> None:
    from benchmarks.growth import STEPS, grown

    with tables.console.status(""):
        told["growth"] = grown(setting, [step for step in STEPS if step in steps])
    tables.print_growth(told["growth"])


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in OTHERS:
        importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
    else:
        main()
