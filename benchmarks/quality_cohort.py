"""The table of the cohort's QC metrics and the cohort page, from an event log and a store as runs leave them.

    python -m benchmarks.quality_cohort write HOME SUBJECTS    # a project folder with the QC rows of a cohort
    python -m benchmarks.quality_cohort table HOME             # materialize `cohort_qc`
    python -m benchmarks.quality_cohort add HOME               # one more subject
    python -m benchmarks.quality_cohort page HOME              # materialize `cohort_report`

Each prints seconds, CPU seconds and peak memory of its process without imports; those of `table` and `page` include
the run of Dagster, and `compute_seconds` are those of the derivative's function alone.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dagster import AssetMaterialization, DagsterInstance

from benchmarks.process import report, timed
from kwneuro_assets.assets import COHORT_DERIVATIVES
from kwneuro_assets.cli.project_folder import use_project_folder
from kwneuro_assets.cohort.run import update_group
from kwneuro_assets.imaging import Table
from kwneuro_assets.imaging.table import Cell, Kind
from kwneuro_assets.qc.catalog import CATALOG, data_dictionary
from kwneuro_assets.settings import load_settings
from kwneuro_assets.settings.bundles import BUNDLES
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import CODE_VERSION_TAG, DATA_VERSION_TAG, INPUT_DATA_VERSIONS, recorded
from kwneuro_assets_tests.testkit.event_log import KINDS, write_cohort

ALL_FRESH = {name: 0.0 for name in KINDS if name != "fresh"}
VALUES = {"shell": ("1000", "2000", "3000"), "bundle": BUNDLES}  # of the fields in names of columns
NEW = "sub-99999"


def row(subject: str) -> Table:
    """A QC row with all metrics of the catalog, for three shells and 72 bundles, of real size."""
    draw = random.Random(subject)
    kinds = {column: metric.kind for metric in CATALOG for column in _columns(metric.name)}
    return Table.from_rows([{column: _cell(kind, draw) for column, kind in kinds.items()}], kinds)


def _columns(name: str) -> list[str]:
    fields = [field for field in VALUES if f"{{{field}}}" in name]
    chosen = itertools.product(*(VALUES[field] for field in fields))
    return [name.format(**dict(zip(fields, values, strict=True))) for values in chosen]


def _cell(kind: Kind, draw: random.Random) -> Cell:
    if kind == "text":
        return "none"
    return draw.randrange(100) if kind == "integer" else float(f"{draw.gauss(1, 0.1):.5g}")


def _write(instance: DagsterInstance, subjects: str) -> None:
    for key, history in write_cohort(instance, int(subjects), fractions=ALL_FRESH, figure_bytes=100).items():
        _store(key, history.data_versions["dwi_qc"], history.code_versions["dwi_qc"])


def _store(key: str, data_version: str, code_version: str) -> None:
    table = row(key)
    provenance = Provenance("QC metrics", code_version, data_version, bids=data_dictionary(table))
    DerivativeStore(load_settings().store.url).write("dwi_qc", SubjectKey.parse(key), table, provenance)


def _add(instance: DagsterInstance) -> None:
    instance.add_dynamic_partitions(PARTITIONS, [NEW])
    version = hashlib.sha256(NEW.encode()).hexdigest()
    known = recorded(instance, "dwi_qc", instance.get_dynamic_partitions(PARTITIONS)[0])
    assert known is not None
    tags = {DATA_VERSION_TAG: version, CODE_VERSION_TAG: known.code_version or ""}
    metadata = {INPUT_DATA_VERSIONS: dict(known.input_data_versions)}
    instance.report_runless_asset_event(AssetMaterialization("dwi_qc", partition=NEW, tags=tags, metadata=metadata))
    _store(NEW, version, known.code_version or "")


def _materialize(instance: DagsterInstance, name: str) -> dict[str, Any]:
    derivative = next(one for one in COHORT_DERIVATIVES if one.name == name)
    result = update_group(instance, load_settings(), derivative, refresh=True)
    known = recorded(instance, name, None)
    if known is None or result.outcome != "materialized":
        sys.exit(f"{name}: {result.outcome}: {result.reason}")
    shown = ("subjects", "metrics", "size_mb")
    return {
        "compute_seconds": round(known.values["seconds"], 2),
        **{key: known.values[key] for key in shown if key in known.values},
    }


ACTIONS: dict[str, Callable[..., Any]] = {
    "write": _write,
    "add": _add,
    "table": lambda instance: _materialize(instance, "cohort_qc"),
    "page": lambda instance: _materialize(instance, "cohort_report"),
}


def main(what: str, home: Path, *words: str) -> None:
    (home / "source").mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home.absolute() / "dagster")  # not the instance of this environment
    use_project_folder(home)
    with DagsterInstance.get() as instance:
        details, timing = timed(lambda: ACTIONS[what](instance, *words))
    report({**timing, **(details or {})})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
