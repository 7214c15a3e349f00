"""Templates of event-log rows: what Dagster writes for one subject, with placeholders for what differs.

Dagster executes a few runs of one tiny subject in memory: the project's own assets and their mechanism, with stand-ins
for results that take a network or minutes. Subject key, run id, versions, event pointers, times and figures in the rows
become placeholders.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sqlalchemy as sql
from dagster import AssetSelection, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, Definitions
from dagster._core.events import (  # checked with dagster 1.13.27
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable, SnapshotsTable
from dagster._serdes import deserialize_value, serialize_value

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.assets.mechanism.building import build_asset
from kwneuro_assets.assets.mechanism.freshness import FORCE_TAG
from kwneuro_assets.assets.source import build_source_assets
from kwneuro_assets.definitions import build
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.resources.network_weights import digests_in_use
from kwneuro_assets.resources.step_networks import StepNetworks
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.records import CODE_VERSION_TAG, DATA_VERSION_TAG
from kwneuro_assets_tests.testkit.small_dataset import write_dataset, write_series
from kwneuro_assets_tests.testkit.stand_ins import STAND_INS, failing, not_applicable, with_stand_in

Row = dict[str, Any]

MODEL = "sub-modelofacohort"  # the subject of Dagster's runs; no other text of an event contains its key
OLD_SETTINGS: dict[str, dict[str, object]] = {"dti": {"max_bvalue": 1000}, "csd": {"max_peaks": 3}}
FIRST_STEPS = ("denoised_dwi", "mean_b0")  # in the order of execution
SELECTED = (*FIRST_STEPS, "brain_mask", "dti")
NAMES = tuple(derivative.name for derivative in DERIVATIVES)
OF_WHATEVER_EXISTS = tuple(derivative.name for derivative in DERIVATIVES if derivative.may_be_missing)


class TextTemplate:
    """A text with named placeholders."""

    def __init__(self, text: str) -> None:
        self._parts = text.split("\0")  # no JSON text contains it: literal, name, literal, ...

    def fill(self, values: Mapping[str, str]) -> str:
        parts = self._parts.copy()
        parts[1::2] = [values[name] for name in parts[1::2]]
        return "".join(parts)


@dataclass(frozen=True)
class CheckTemplate:
    """What an event says about an asset check: it is planned, or was evaluated."""

    asset: str
    asset_key: str  # as in the database
    name: str
    status: str  # of the execution
    was_evaluated: bool


@dataclass(frozen=True)
class EventTemplate:
    """A row of `event_logs`, the event's text and its tags."""

    row: Row  # without the columns that differ
    text: TextTemplate
    tags: tuple[tuple[str, TextTemplate], ...]
    asset: str | None
    check: CheckTemplate | None
    mirrored: bool  # in the index of a storage that has a file for each run


@dataclass(frozen=True)
class RunTemplate:
    """A run, or an observation outside a run, and the versions that it records; "" for versions that differ."""

    events: tuple[EventTemplate, ...]
    run: Row | None
    run_body: TextTemplate
    run_tags: tuple[tuple[str, TextTemplate], ...]
    data_versions: Mapping[str, str]
    code_versions: Mapping[str, str]

    @property
    def succeeded(self) -> bool:
        return self.run is not None and self.run["status"] == DagsterRunStatus.SUCCESS.value


@functools.cache
def templates() -> tuple[dict[str, RunTemplate], list[Row]]:
    """The templates by name, and the job and plan snapshots that their runs refer to."""
    with tempfile.TemporaryDirectory() as folder, DagsterInstance.ephemeral() as scratch:
        write_dataset(Path(folder) / "source", [MODEL])
        model = _ModelSubject(scratch, Path(folder))
        ingest(scratch, model.settings())
        first_scan = model.template("")
        write_series(Path(folder) / "source", MODEL, brightness=2)
        ingest(scratch, model.settings())
        complete = model.run()
        found = {
            "first scan": first_scan,
            "observe": model.template("", skipped=len(first_scan.events)),
            "complete": model.template(complete),
            "in progress": model.template(complete, finished_steps=len(FIRST_STEPS)),
            "old settings": model.template(model.run(tree=OLD_SETTINGS)),
            "failing": model.template(model.run(csd_peaks=failing)),
            "selection": model.template(model.run(SELECTED)),
            "not applicable": model.template(model.run(noddi=not_applicable, fiber_response=not_applicable)),
        }
        with sql_storage(scratch.run_storage).connect() as connection:
            snapshots = [_without_id(row) for row in rows_of(connection, SnapshotsTable)]
        return found, snapshots


@dataclass(frozen=True)
class _ModelSubject:
    """The subject that Dagster runs, and the rows that it has written."""

    instance: DagsterInstance
    root: Path

    def settings(self, tree: Mapping[str, Mapping[str, object]] | None = None) -> PipelineSettings:
        urls = {"source": {"url": str(self.root / "source")}, "store": {"url": str(self.root / "store")}}
        return PipelineSettings.model_validate({**urls, **(tree or {})})

    def run(
        self,
        assets: tuple[str, ...] = NAMES,
        tree: Mapping[str, Mapping[str, object]] | None = None,
        **computed: Callable[[], Value],
    ) -> str:
        """Execute a run of these assets and return its id; `computed` replaces stand-ins."""
        settings = self.settings(tree)
        real = build(settings)
        stand_ins = {**STAND_INS, **computed}
        definitions = Definitions(
            assets=[
                *build_source_assets(settings),
                *(build_asset(with_stand_in(one, stand_ins), settings) for one in DERIVATIVES),
            ],
            resources=real.resources,
            executor=real.executor,
        )
        selected = AssetSelection.assets(*assets).resolve(definitions.resolve_asset_graph())
        job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=selected)
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        with patch.object(StepNetworks, "verified_digests", _digests_without_download):
            return job.execute_in_process(
                instance=self.instance,
                partition_key=MODEL,
                raise_on_error=False,
                run_config=quiet,
                tags={FORCE_TAG: "true"},  # rematerialize the results of an earlier run
            ).run_id

    def template(self, run_id: str, finished_steps: int | None = None, skipped: int = 0) -> RunTemplate:
        """The template of a run, or ("") of the events outside of runs after the first `skipped`.

        With `finished_steps`, the state of the run when the next step started.
        """
        with sql_storage(self.instance.event_log_storage).index_connection() as connection:
            rows = rows_of(connection, SqlEventLogStorageTable, run_id=run_id)[skipped:]
            tags = rows_of(connection, AssetEventTagsTable)
        with sql_storage(self.instance.run_storage).connect() as connection:
            runs = rows_of(connection, RunsTable, run_id=run_id)
            run_tags = rows_of(connection, RunTagsTable, run_id=run_id)
        if finished_steps is not None:
            starts = [at for at, row in enumerate(rows) if row["dagster_event_type"] == "STEP_START"]
            rows, runs = rows[: starts[finished_steps] + 1], [_started(runs[0])]
        recorded = [found for row in rows if (found := _recorded(row))]
        data_versions = {
            found.asset_key.to_user_string(): found.tags[DATA_VERSION_TAG] if "not_applicable" in found.metadata else ""
            for found in recorded
        }
        constant = {name for name, version in data_versions.items() if version}
        parameterized = _Parameterization(run_id, str(self.root), tags, constant)
        return RunTemplate(
            events=tuple(_event(row, tags, parameterized) for row in rows),
            run=_without_id(runs[0]) if runs else None,
            run_body=parameterized(runs[0]["run_body"] if runs else ""),
            run_tags=tuple((row["key"], parameterized(row["value"])) for row in run_tags),
            data_versions=data_versions,
            code_versions={
                found.asset_key.to_user_string(): found.tags[CODE_VERSION_TAG]
                for found in recorded
                if CODE_VERSION_TAG in found.tags
            },
        )


def _digests_without_download(networks: StepNetworks) -> dict[str, str]:
    """Those of the installed weights: stand-ins use no network, so that none has to be downloaded."""
    return digests_in_use(networks.names, networks.settings)


class _Parameterization:
    """Replaces what differs between subjects by placeholders; versions of assets in `constant` do not differ."""

    def __init__(self, run_id: str, root: str, tags: list[Row], constant: set[str]) -> None:
        self._texts = {MODEL: "\0subject\0", root: "data"}
        if run_id:
            self._texts[run_id] = "\0run\0"
        for row in tags:
            name, version = _asset(row["asset_key"]), row["value"]
            if name not in constant:
                self._texts[version] = f"\0version {name}\0"
                self._texts[hashed(version)] = f"\0hashed {name}\0"

    def __call__(self, text: str) -> TextTemplate:
        for literal, placeholder in self._texts.items():
            text = text.replace(literal, placeholder)
        text = re.sub(r'("timestamp": )[\d.]+', "\\1\0time\0", text)
        # The materialization that was checked is the newest one of the asset at this moment.
        text = re.sub(r'(AssetCheckEvaluation", .*?"path": \["(\w+)"\].*?"storage_id": )\d+', "\\1\0newest \\2\0", text)
        text = re.sub(r'("dagster/input_event_pointer/(\w+)": ")\d+', "\\1\0newest \\2\0", text)
        return TextTemplate(re.sub(r"(image/webp;base64,)[\w+/=]+", "\\1\0figure\0", text))


def _event(row: Row, tags: list[Row], parameterized: _Parameterization) -> EventTemplate:
    return EventTemplate(
        row={name: row[name] for name in ("dagster_event_type", "step_key", "asset_key")},
        text=parameterized(row["event"]),
        tags=tuple((tag["key"], parameterized(tag["value"])) for tag in tags if tag["event_id"] == row["id"]),
        asset=_asset(row["asset_key"]),
        check=_check(row),
        mirrored=row["dagster_event_type"] in _MIRRORED,
    )


_MIRRORED = {
    event_type.value for event_type in (*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS)
}


def _check(row: Row) -> CheckTemplate | None:
    if row["dagster_event_type"] not in {event_type.value for event_type in ASSET_CHECK_EVENTS}:
        return None
    event = deserialize_value(row["event"], EventLogEntry).get_dagster_event()
    check: Any = event.event_specific_data
    was_evaluated = event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION
    if not was_evaluated:
        status = AssetCheckExecutionRecordStatus.PLANNED
    elif check.passed:
        status = AssetCheckExecutionRecordStatus.SUCCEEDED
    else:
        status = AssetCheckExecutionRecordStatus.FAILED
    key = check.asset_key
    return CheckTemplate(key.to_user_string(), key.to_string(), check.check_name, status.value, was_evaluated)


def _recorded(row: Row) -> Any:
    """The materialization or observation in a row of events, if there is one."""
    event = deserialize_value(row["event"], EventLogEntry)
    return event.asset_materialization or event.asset_observation


def _started(run: Row) -> Row:
    status = DagsterRunStatus.STARTED
    body = deserialize_value(run["run_body"], DagsterRun).with_status(status)
    return {**run, "status": status.value, "run_body": serialize_value(body), "end_time": None}


def sql_storage(storage: object) -> Any:
    """A storage in an SQL database, which has more methods than its declared type."""
    return storage


def rows_of(connection: Any, table: sql.Table, **where: object) -> list[Row]:
    query = sql.select(table).filter_by(**where).order_by(table.c.id)
    return [dict(row) for row in connection.execute(query).mappings()]


def hashed(version: str) -> str:
    """What Dagster records as the version of a partitioned parent: a hash over the versions of its partitions."""
    return hashlib.sha256(version.encode()).hexdigest()


def _without_id(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "id"}


def _asset(key: str | None) -> str | None:
    """The name of an asset from its key in a database: `["dti"]`."""
    return key.strip('["]') if key else None
