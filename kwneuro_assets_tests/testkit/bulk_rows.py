"""Fills in the templates of runs for each subject of a cohort and writes the rows in batches."""

from __future__ import annotations

import base64
import hashlib
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from dagster import DagsterInstance
from dagster._core.events.log import EventLogEntry  # checked with dagster 1.13.27
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable, SnapshotsTable
from dagster._serdes import deserialize_value

from kwneuro_assets.versioning.staleness import State
from kwneuro_assets_tests.testkit.run_templates import (
    NAMES,
    CheckTemplate,
    EventTemplate,
    Row,
    RunTemplate,
    hashed,
    rows_of,
    sql_storage,
)

BATCH = 100  # runs in one transaction: 10 MB
EVENT_SECONDS = 0.1  # between two events of a run
STEP_SECONDS = 20  # between two runs or observations


@dataclass
class SubjectHistory:
    """What the log holds about one subject.

    `kind` is one of KINDS, `states` the states that follow under default settings. The versions are the newest of each
    asset, `dwi` included; `runs` are run ids, oldest first.
    """

    kind: str
    states: Mapping[str, State]
    data_versions: dict[str, str] = field(default_factory=dict)
    code_versions: dict[str, str] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)


class CohortWriter:
    """Fills in templates, step after step; the last of `steps` starts a moment before now."""

    def __init__(
        self, instance: DagsterInstance, cohort: Mapping[str, SubjectHistory], seed: int, figure_bytes: int, steps: int
    ) -> None:
        self._cohort, self._seed, self._figure_bytes = cohort, seed, figure_bytes
        self._random = random.Random(seed)
        self._clock = time.time() - steps * STEP_SECONDS
        self._tables = _Tables(instance)
        self._contents: Counter[str] = Counter()  # by subject: how often its source had new content
        self._newest: dict[str, int] = {}  # by asset, over all subjects, as Dagster's event pointers

    def add_step(self, subject: str, template: RunTemplate, all_events: bool) -> None:
        """Add one step to the history of a subject, with all its events or those that Dagster mirrors to the index."""
        history = self._cohort[subject]
        if template.run is None:
            self._contents[subject] += 1
            values = {"run": ""}
        else:
            values = {"run": str(uuid.UUID(int=self._random.getrandbits(128), version=4))}
            history.runs.append(values["run"])
        figure = base64.b64encode(self._random.randbytes(self._figure_bytes * 3 // 4)).decode()
        values |= {"subject": subject, "figure": figure, **self._versions(subject)}
        for number, event in enumerate(template.events):
            if all_events or event.mirrored:
                self._add_event(event, values, self._clock + number * EVENT_SECONDS, all_events)
        if template.run is not None:
            self._tables.add_run(template, values, self._clock)
        history.data_versions.update(
            {name: version or values[f"version {name}"] for name, version in template.data_versions.items()}
        )
        history.code_versions.update(template.code_versions)
        self._clock += STEP_SECONDS

    def finish(self) -> None:
        self._tables.finish()

    def _versions(self, subject: str) -> dict[str, str]:
        """The versions for the subject's present content; the same content gives the same versions."""
        content = f"{self._seed} {subject} {self._contents[subject]}"
        versions = {name: hashlib.sha256(f"{content} {name}".encode()).hexdigest() for name in ("dwi", *NAMES)}
        hashes = {f"hashed {name}": hashed(version) for name, version in versions.items()}
        return {**{f"version {name}": version for name, version in versions.items()}, **hashes}

    def _add_event(self, event: EventTemplate, values: dict[str, str], moment: float, all_events: bool) -> None:
        pointers = {f"newest {name}": str(storage_id) for name, storage_id in self._newest.items()}
        filled = {**values, **pointers, "time": repr(moment)}
        row = {
            **event.row,
            "run_id": values["run"],
            "event": event.text.fill(filled),
            "timestamp": _utc(moment),
            "partition": values["subject"] if event.asset else None,
        }
        tags = {key: value.fill(filled) for key, value in event.tags}
        storage_id = self._tables.add_event(row, event, tags, all_events)
        if event.check and event.mirrored:
            self._tables.add_check(event.check, row, values["subject"], self._newest)
        if event.asset and event.row["dagster_event_type"] in ("ASSET_MATERIALIZATION", "ASSET_OBSERVATION"):
            self._newest[event.asset] = storage_id


class _Tables:
    """The tables of an instance, written in batches."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._events, self._runs = sql_storage(instance.event_log_storage), sql_storage(instance.run_storage)
        with self._events.index_connection() as connection:
            newest = connection.execute(sql.select(sql.func.max(SqlEventLogStorageTable.c.id))).scalar()
        self._id = newest or 0
        self._index: dict[sql.Table, list[Row]] = {
            table: [] for table in (SqlEventLogStorageTable, AssetEventTagsTable, AssetCheckExecutionsTable)
        }
        self._executions: dict[tuple[str, str, str], Row] = {}  # of checks, by run, asset and check
        self._run_rows: dict[sql.Table, list[Row]] = {RunsTable: [], RunTagsTable: []}
        self._shards: dict[str, list[Row]] = {}
        self._empty_shard: bytes | None = None
        self._last: dict[tuple[str, str], tuple[int, str]] = {}

    def add_event(self, row: Row, event: EventTemplate, tags: Mapping[str, str], all_events: bool) -> int:
        """Returns the id of the event in the index, or the newest id if the event is not in the index."""
        sharded = self._events.is_run_sharded
        if sharded and all_events:
            self._shards.setdefault(row["run_id"], []).append(row)
        if event.mirrored or (all_events and not sharded):
            self._id += 1
            self._index[SqlEventLogStorageTable].append({"id": self._id, **row})
            self._index[AssetEventTagsTable] += [
                {
                    "event_id": self._id,
                    "asset_key": row["asset_key"],
                    "key": key,
                    "value": value,
                    "event_timestamp": row["timestamp"],
                }
                for key, value in tags.items()
            ]
            if event.asset:
                self._last[event.asset, row["dagster_event_type"]] = self._id, row["event"]
        return self._id

    def add_check(self, check: CheckTemplate, row: Row, subject: str, newest: Mapping[str, int]) -> None:
        """The execution of a check has one row, that of its newest event, which was added last.

        `newest` has the ids of the newest materializations by asset: the checked one is among them.
        """
        key = (row["run_id"], check.asset_key, check.name)
        if key not in self._executions:
            self._executions[key] = {"asset_key": check.asset_key, "check_name": check.name, "run_id": row["run_id"]}
            self._index[AssetCheckExecutionsTable].append(self._executions[key])
        self._executions[key] |= {
            "partition": subject,
            "execution_status": check.status,
            "evaluation_event": row["event"],
            "evaluation_event_timestamp": row["timestamp"],
            "evaluation_event_storage_id": self._id,
            "materialization_event_storage_id": newest[check.asset] if check.was_evaluated else None,
        }

    def add_run(self, template: RunTemplate, values: Mapping[str, str], started: float) -> None:
        assert template.run is not None
        run_id, ended = values["run"], started + (len(template.events) - 1) * EVENT_SECONDS
        changed = {
            "run_id": run_id,
            "run_body": template.run_body.fill(values),
            "partition": values["subject"],
            "create_timestamp": _utc(started),
            "update_timestamp": _utc(ended),
            "start_time": started,
            "end_time": ended if template.run["end_time"] else None,
        }
        self._run_rows[RunsTable].append({**template.run, **changed})
        tags = [{"run_id": run_id, "key": key, "value": value.fill(values)} for key, value in template.run_tags]
        self._run_rows[RunTagsTable] += tags
        if len(self._run_rows[RunsTable]) >= BATCH:
            self._flush()

    def finish(self) -> None:
        """Write the remaining rows, and what Dagster stores about the newest events of each asset."""
        self._flush()
        for storage_id, text in sorted(self._last.values()):
            self._events.store_asset_event(deserialize_value(text, EventLogEntry), storage_id)
        with self._events.index_connection() as connection:
            if connection.dialect.name == "postgresql":  # the rows brought their ids; advance the sequence past them
                sequence = sql.func.pg_get_serial_sequence(SqlEventLogStorageTable.name, "id")
                connection.execute(sql.select(sql.func.setval(sequence, self._id)))

    def _flush(self) -> None:
        with self._events.index_connection() as connection:
            _insert(connection, self._index)
        self._executions.clear()
        with self._runs.connect() as connection:
            _insert(connection, self._run_rows)
        for run_id, rows in self._shards.items():
            self._write_shard(run_id, rows)
        self._shards.clear()

    def _write_shard(self, run_id: str, rows: list[Row]) -> None:
        """Write into SQLite's file of this run, or its file of events outside of runs."""
        path = Path(self._events.path_for_shard(run_id))
        if run_id and self._empty_shard:  # copying is fast; Dagster takes 0.1 s to create a file
            path.write_bytes(self._empty_shard)
        else:
            with self._events.run_connection(run_id):
                pass  # Dagster creates the file if there is none
            if run_id:
                self._empty_shard = path.read_bytes()
        engine = sql.create_engine(self._events.conn_string_for_shard(run_id), poolclass=sql.NullPool)
        with engine.begin() as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
        engine.dispose()


def copy_snapshots(instance: DagsterInstance, snapshots: list[Row]) -> None:
    with sql_storage(instance.run_storage).connect() as connection:
        known = {row["snapshot_id"] for row in rows_of(connection, SnapshotsTable)}
        _insert(connection, {SnapshotsTable: [row for row in snapshots if row["snapshot_id"] not in known]})


def _insert(connection: Any, tables: Mapping[sql.Table, list[Row]]) -> None:
    for table, rows in tables.items():
        if rows:
            connection.execute(table.insert(), rows)
            rows.clear()


def _utc(moment: float) -> datetime:
    """UTC without a time zone, as the databases store it."""
    return datetime.fromtimestamp(moment, timezone.utc).replace(tzinfo=None)
