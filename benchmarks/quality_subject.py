"""The time of a subject's QC metrics and report, from a project whose store has its derivatives.

    python -m benchmarks.quality_subject metrics HOME SUBJECT    # the groups of metrics, in memory
    python -m benchmarks.quality_subject steps HOME SUBJECT      # `dwi_qc` and `subject_report` as steps of a run
    python -m benchmarks.quality_subject signal HOME SUBJECT     # `metrics` of the DWI alone, three times

The run is forced, and reads and writes files: its seconds per step are those that the materialization records, without
reading inputs, the figure and writing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dagster import DagsterInstance

from benchmarks.process import report, timed
from kwneuro_assets.cli.project_folder import use_project_folder
from kwneuro_assets.cohort.run import update_subject
from kwneuro_assets.imaging import Dwi, Volume
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.read_source import read_dwi
from kwneuro_assets.qc import row
from kwneuro_assets.qc.signal import signal_metrics
from kwneuro_assets.settings import PipelineSettings, load_settings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.records import recorded

STEPS = ("dwi_qc", "subject_report")
REPETITIONS = 3


def _metrics(settings: PipelineSettings, subject: SubjectKey, _: DagsterInstance) -> dict[str, Any]:
    inputs, reading = timed(lambda: _inputs(settings, subject))
    seconds = _Seconds()
    row._Groups = seconds.groups()  # type: ignore[misc]
    _table, timing = timed(lambda: row.qc_row(**inputs))
    return {**timing, "reading_seconds": reading["seconds"], "groups": seconds.of_group}


class _Seconds:
    """The wall seconds of each group of metrics."""

    def __init__(self) -> None:
        self.of_group: dict[str, float] = {}

    def groups(self) -> type[row._Groups]:
        of_group = self.of_group

        class Timed(row._Groups):
            def result(self, group: str, compute: Callable[[], Any]) -> Any:
                started = time.perf_counter()
                result = super().result(group, compute)
                of_group[group] = round(of_group.get(group, 0) + time.perf_counter() - started, 3)
                return result

        return Timed


def _inputs(settings: PipelineSettings, subject: SubjectKey) -> dict[str, Any]:
    """The arguments of `qc_row`; derivatives that the store does not have are None."""
    dataset, store = SourceDataset(settings.source), DerivativeStore(settings.store.url)
    names = ("mean_b0", "brain_mask", "dti", "noddi", "fiber_response", "csd_peaks", "tract_masks")
    stored = {
        name: store.read(name, subject)[0] if store.sidecar(name, subject) else None
        for name in ("denoised_dwi", *names)
    }
    return {"raw": read_dwi(dataset, dataset.series(subject))[0], "denoised": stored.pop("denoised_dwi"), **stored}


def _signal(settings: PipelineSettings, subject: SubjectKey, _: DagsterInstance) -> dict[str, Any]:
    inputs = _inputs(settings, subject)
    raw, denoised, mask = (inputs[name] for name in ("raw", "denoised", "brain_mask"))
    assert isinstance(raw, Dwi)
    assert isinstance(mask, Volume)
    found = [timed(lambda: signal_metrics(raw, denoised, mask))[1] for _ in range(REPETITIONS)]
    return {**min(found, key=lambda one: one["seconds"]), "voxels": int((mask.array > 0).sum())}


def _steps(settings: PipelineSettings, subject: SubjectKey, instance: DagsterInstance) -> dict[str, Any]:
    key = str(subject)
    results, timing = timed(lambda: update_subject(instance, settings, key, STEPS, force=True))
    if failed := [f"{one.asset}: {one.reason}" for one in results if not one.succeeded]:
        sys.exit("; ".join(failed))
    return {**timing, "steps": {name: _recorded(instance, name, key) for name in STEPS}}


def _recorded(instance: DagsterInstance, name: str, subject: str) -> dict[str, Any]:
    known = recorded(instance, name, subject)
    assert known is not None
    return {key: known.values.get(key) for key in ("seconds", "peak_memory_mb", "stored_mb")}


ACTIONS: dict[str, Callable[[PipelineSettings, SubjectKey, DagsterInstance], dict[str, Any]]] = {
    "metrics": _metrics, "signal": _signal, "steps": _steps,
}  # fmt: skip


def main(what: str, home: Path, subject: str) -> None:
    os.environ["DAGSTER_HOME"] = str(home.absolute() / "dagster")  # not the instance of this environment
    use_project_folder(home)
    with DagsterInstance.get() as instance:
        report(ACTIONS[what](load_settings(), SubjectKey.parse(subject), instance))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
