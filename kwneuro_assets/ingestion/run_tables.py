"""The gradient table of each run, read from its bval and bvec file before the image is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from kwneuro_assets.imaging import GradientTable, InvalidData
from kwneuro_assets.imaging.errors import located
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs, require_sane_bvalues
from kwneuro_assets.ingestion.series import Run, Series
from kwneuro_assets.ingestion.source_file import TextFile, read_text
from kwneuro_assets.settings import SourceSettings, parse_volumes


@dataclass(frozen=True)
class RunTable:
    """The b-values and b-vectors of one run.

    Attributes:
        bvals: All b-values of the run, in s/mm^2.
        chosen: The indices of the volumes that are not excluded.
        table: The gradient table of all volumes (FSL frame), or the error that it raises.
        warnings: What is doubtful.
    """

    bvals: NDArray[np.float64]
    chosen: tuple[int, ...]
    table: GradientTable | InvalidData
    warnings: tuple[str, ...] = ()

    @property
    def gradients(self) -> GradientTable:
        """The gradient table of the volumes that are not excluded. Raises InvalidData if it cannot be used."""
        if isinstance(self.table, InvalidData):
            raise self.table
        return self.table.selected(list(self.chosen))


Texts = Mapping[UPath, TextFile]


def read_texts(series: Series) -> Texts:
    """The bval and bvec files of all runs, each read once: runs may share one by BIDS's inheritance principle."""
    return {path: read_text(path) for run in series.runs for path in (run.bval, run.bvec)}


def run_tables(series: Series, texts: Texts, settings: SourceSettings) -> list[RunTable]:
    """The table of each run. Raises InvalidData if a bval file cannot be used, or if no volume is left."""
    excluded, traces = parse_volumes(settings.exclude_volumes or "")
    tables = []
    start = 0
    for run in series.runs:
        table = _run_table(run, texts, settings.b0_threshold, {index - start for index in excluded}, traces)
        start += len(table.bvals)
        tables.append(table)
    if not any(table.chosen for table in tables):
        raise InvalidData(
            "DWI series",
            expected="some volumes",
            found="all volumes excluded",
            remedy="Check source.exclude_volumes.",
        ).at(series.image_paths)
    with located(", ".join(dict.fromkeys(str(run.bval) for run in series.runs))):
        require_sane_bvalues(np.concatenate([table.bvals[list(table.chosen)] for table in tables]))
    return tables


def unknown_volumes(tables: list[RunTable], settings: SourceSettings) -> list[str]:
    """A warning if the settings exclude volumes that do not exist."""
    count = sum(len(table.bvals) for table in tables)
    unknown = sorted(index for index in parse_volumes(settings.exclude_volumes or "")[0] if index >= count)
    named = ", ".join(map(str, unknown))
    return [f"source.exclude_volumes names {named}, but there are {count} volumes"] if unknown else []


def excluded_volumes(tables: list[RunTable]) -> list[int]:
    """The indices of the excluded volumes in the joined runs."""
    excluded, start = list[int](), 0
    for table in tables:
        excluded += [start + index for index in range(len(table.bvals)) if index not in table.chosen]
        start += len(table.bvals)
    return excluded


def _run_table(run: Run, texts: Texts, threshold: float, excluded: set[int], traces: bool) -> RunTable:
    with located(run.bval):
        bvals = parse_bvals(texts[run.bval].text)
    is_excluded = np.isin(np.arange(len(bvals)), list(excluded))
    try:
        with located(run.bvec):
            bvecs = parse_bvecs(texts[run.bvec].text, len(bvals))
        if traces:
            is_excluded |= (bvals > threshold) & ~bvecs.any(axis=1)
        # Excluded volumes need not be valid; the others keep their indices, which error messages name.
        table = GradientTable(
            np.where(is_excluded, 0, bvals), np.where(is_excluded[:, None], 0, bvecs), b0_threshold=threshold
        )
    except InvalidData as error:
        # Raised only when the number of volumes in the image shows that the bval file is not the wrong one.
        wrong = error.at(run.bval if error.problem == "b-values" else run.bvec)
        return RunTable(bvals, tuple(range(len(bvals))), wrong)
    undefined = int(np.count_nonzero(~np.isfinite(bvecs).all(axis=1) & ~is_excluded))
    warning = f"{run.bvec.name}: the b-vectors of {undefined} b=0 volumes are not finite: set to zero"
    chosen = tuple(np.flatnonzero(~is_excluded).tolist())
    return RunTable(bvals, chosen, table, (warning,) if undefined else ())
