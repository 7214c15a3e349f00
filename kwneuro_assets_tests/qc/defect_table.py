"""The tables of defects in docs/quality.md, measured.

`python -m kwneuro_assets_tests.qc.defect_table PHANTOM FOLDER` prints them as Markdown. PHANTOM is a dataset that
`../shared/tools/realistic_phantom.py PHANTOM --b0s 6` has written; heads of a cohort are written to FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from kwneuro_assets.demo.head_shape import HeadShape
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.checks import evaluate
from kwneuro_assets.qc.cohort_table import cohort_table
from kwneuro_assets.qc.outliers import MAX_Z, outliers
from kwneuro_assets.settings.quality import QualityLimitSettings
from kwneuro_assets_tests.testkit.defects import DEFECTS, Scan, demo_scan, quality_of, read_scan

Row = Mapping[str, Cell]

COHORT = 14  # heads; 10 is the smallest group that is judged
COHORT_VOXEL = 6.0  # mm
STRONGEST = 4  # outliers of a defect that the table of the cohort names


def cohort_of(folder: Path, count: int = COHORT) -> list[Scan]:
    """Clean heads that differ in size, proportions, pose, cortex and noise."""
    shapes = [HeadShape.random(np.random.default_rng([17, number])) for number in range(count)]
    return [
        demo_scan(folder / f"head{number}", COHORT_VOXEL, head=shape, seed=number)
        for number, shape in enumerate(shapes)
    ]


def in_cohort(rows: Sequence[Row], row: Row) -> dict[str, float]:
    """The robust z-scores beyond the limit of a subject with this row, in place of the last of the cohort."""
    table = cohort_table({f"sub-{number:02d}": one for number, one in enumerate([*rows[:-1], row])})
    found = outliers(table)
    return {
        name: float(z)
        for name, z, is_beyond in zip(found.columns, found.z[-1], found.beyond[-1], strict=True)
        if is_beyond
    }


def subject_table(scan: Scan) -> Iterator[str]:
    """Each defect of one subject: the checks that fail, and their metrics without and with the defect."""
    clean = quality_of(scan)
    yield "| defect | check | metric | limit | clean | with the defect |"
    yield "|---|---|---|---|---|---|"
    for defect in (None, *DEFECTS):
        row = quality_of(defect.make(scan)) if defect else clean
        name = defect.name if defect else "none"
        checks = [one for one in evaluate(row, QualityLimitSettings()) if not one.passed]
        if not checks:
            yield f"| {name} | none | | | | |"
        for check in checks:
            for one in check.warnings:
                yield (
                    f"| {name} | {check.name} | `{one.metric}` | {one.limit} | {shown(clean.get(one.metric))} | "
                    f"{shown(one.value)} |"
                )
                name = ""


def defects_in_cohort(scans: list[Scan]) -> Iterator[str]:
    """Each defect of one subject among clean ones: the metrics with the largest robust z."""
    rows = [quality_of(scan) for scan in scans]
    yield f"| defect | outliers | largest robust z (limit {MAX_Z}) |"
    yield "|---|---|---|"
    for defect in (None, *DEFECTS):
        beyond = in_cohort(rows, quality_of(defect.make(scans[-1])) if defect else rows[-1])
        strongest = sorted(beyond, key=lambda name: -abs(beyond[name]))[:STRONGEST]
        named = ", ".join(f"`{name}` {beyond[name]:+.0f}" for name in strongest)
        yield f"| {defect.name if defect else 'none'} | {len(beyond)} | {named} |"


def shown(value: Cell) -> str:
    if value is None:
        return "n/a"
    return value if isinstance(value, str) else f"{value:.3g}"


if __name__ == "__main__":
    for line in subject_table(read_scan(Path(sys.argv[1]))):
        print(line, flush=True)
    print()
    for line in defects_in_cohort(cohort_of(Path(sys.argv[2]))):
        print(line, flush=True)
