"""Times each derivation against a peer, in one run, each in a process of its own, and prints a table.

    make bench                                  # the synthetic head
    make bench ARGS="--source DATASET --subject sub-01 --json out.json"
    make bench ARGS="storage --help"            # the store against plain compression and transfer
    make bench ARGS="cohort --help"             # the status of thousands of subjects
    make bench ARGS="automation --help"         # a tick of the sensor over thousands of subjects
    make bench ARGS="ingestion --help"          # ticks of the ingestion sensor over thousands of subjects
    make bench ARGS="bits --help"               # what changes the last bits of a derivative

The mask is the dataset's own or the synthetic head's true one, so that no network is timed but where asked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import automation, bits, cohort, ingestion, storage
from benchmarks.steps import STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a BIDS dataset with a brain mask; the synthetic head by default")
    parser.add_argument("--subject", default="sub-01")
    parser.add_argument("--steps", default=",".join(STEPS), help="comma-separated")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = arguments.source or _synthetic(Path(scratch))
        rows = [_measured(step, source, arguments.subject) for step in arguments.steps.split(",")]
    _print(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _synthetic(folder: Path) -> Path:
    from kwneuro_assets.demo.phantom import write_phantom

    source = write_phantom(folder)
    mask = source / "sub-01" / "dwi" / "sub-01_desc-brain_mask.nii.gz"
    mask.write_bytes((source / "truth" / "sub-01" / "mask.nii.gz").read_bytes())
    return source


def _measured(step: str, source: Path, subject: str) -> dict[str, object]:
    """The figures of a step and of its peer, each from a fresh process."""
    ours = _run(step, "ours", source, subject)
    theirs = _run(step, "peer", source, subject) if STEPS[step].peer else {}
    return {
        "step": step,
        "seconds": ours["seconds"],
        "peak_mb": ours["peak_mb"],
        "peer": STEPS[step].peer_name,
        "peer_seconds": theirs.get("seconds"),
        "peer_peak_mb": theirs.get("peak_mb"),
    }


def _run(step: str, which: str, source: Path, subject: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.steps", step, which, str(source), subject]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{step} ({which}) failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _print(rows: list[dict[str, object]]) -> None:
    table = Table("step", "seconds", "peak MB", "peer", "seconds", "peak MB", "peer / ours", box=None, pad_edge=False)
    for row in rows:
        ratio = f"{row['peer_seconds'] / row['seconds']:.1f}" if row["peer_seconds"] else ""  # type: ignore[operator]
        cells = [row["step"], row["seconds"], row["peak_mb"], row["peer"], row["peer_seconds"], row["peer_peak_mb"]]
        table.add_row(*("" if cell is None else str(cell) for cell in cells), ratio)
    Console().print(table)


OTHERS = {
    "storage": storage.main,
    "cohort": cohort.main,
    "automation": automation.main,
    "ingestion": ingestion.main,
    "bits": bits.main,
}


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in OTHERS:
        OTHERS[sys.argv[1]](sys.argv[2:])
    else:
        main()
