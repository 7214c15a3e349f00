"""Fills a Dagster instance with the history of a whole cohort, in the form in which Dagster writes it.

    python -m benchmarks.event_log HOME --subjects 10000

Dagster itself makes a few runs of one tiny subject first, in memory: the project's own assets and their mechanism, with
stand-ins for what takes a network or minutes. The rows that it writes are the forms; here they are filled in for each
subject and written in bulk, with other keys, run ids, versions, event pointers, times and pictures.
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import io
import os
import random
import re
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import sqlalchemy as sql
from dagster import AssetSelection, DagsterInstance, DagsterRun, DagsterRunStatus, Definitions
from dagster._core.events import ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS  # checked with dagster 1.13.27
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable, SnapshotsTable
from dagster._serdes import deserialize_value, serialize_value

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.assets.derivative import FORCE_TAG, Derivative
from kwneuro_assets.definitions import build
from kwneuro_assets.errors import ActionableError
from kwneuro_assets.home import settle
from kwneuro_assets.imaging import MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.source import source_assets
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.subjects import PARTITIONS
from kwneuro_assets.versioning.cohort import State
from kwneuro_assets.versioning.content import Value
from kwneuro_assets.versioning.records import CODE_VERSION_TAG, DATA_VERSION_TAG
from kwneuro_assets_tests.small_dataset import AFFINES, head, write_dataset, write_series

RunLogs = Literal["unfinished", "all"]
Row = dict[str, Any]

MODEL = "sub-modelofacohort"  # the subject that Dagster runs; its name must occur nowhere else in an event
OLD_SETTINGS: dict[str, dict[str, object]] = {"dti": {"max_bvalue": 1000}, "csd": {"peaks": 3}}
FIRST_STEPS = ("denoised_dwi", "mean_b0")  # in the order of execution
SELECTED = (*FIRST_STEPS, "brain_mask", "dti")
NAMES = tuple(derivative.name for derivative in DERIVATIVES)

BATCH = 100  # runs in one transaction: 10 MB
EVENT_SECONDS, STEP_SECONDS = 0.1, 20  # from one event to the next, from one run or observation to the next


@dataclass(frozen=True)
class Kind:
    """What befell a subject, in order, and the states that follow; every other derivative is fresh, or stale-upstream
    below one that is not. A step is `first look` or `observe` (content that is new), or the name
    of a form of run."""

    share: float
    steps: tuple[str, ...]
    states: Mapping[str, State] = field(default_factory=dict)


KINDS: dict[str, Kind] = {
    "fresh": Kind(0.0, ("first look", "whole")),  # what the shares of the others leave
    "remade": Kind(0.10, ("first look", "whole", "observe", "whole")),
    "changed": Kind(
        0.02,
        ("first look", "whole", "observe"),
        {"denoised_dwi": "stale", "fiber_response": "stale", "csd_peaks": "stale"},
    ),
    "outdated": Kind(0.02, ("first look", "old settings"), {"dti": "stale", "csd_peaks": "stale"}),
    "failed": Kind(0.01, ("first look", "whole", "failing"), {"csd_peaks": "failed"}),
    "never_succeeded": Kind(
        0.005,
        ("first look", "failing"),
        {"csd_peaks": "failed", **dict.fromkeys(("tract_masks", "tract_endings", "tract_orientations"), "missing")},
    ),
    "running": Kind(0.002, ("first look", "under way"), dict.fromkeys(set(NAMES) - set(FIRST_STEPS), "running")),
    "missing": Kind(0.03, ("first look", "selection"), dict.fromkeys(set(NAMES) - set(SELECTED), "missing")),
    "new": Kind(0.01, ("first look",), dict.fromkeys(NAMES, "missing")),
    "not_applicable": Kind(
        0.05,
        ("first look", "not applicable"),
        dict.fromkeys(set(NAMES) - set(SELECTED), "not-applicable"),
    ),
}


@dataclass
class Written:
    """The history of one subject: its kind, the states that follow under default settings, the newest versions in the
    log (of `dwi` too) and its runs, oldest first."""

    kind: str
    states: Mapping[str, State]
    data_versions: dict[str, str] = field(default_factory=dict)
    code_versions: dict[str, str] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)


def write_cohort(
    instance: DagsterInstance,
    subjects: int,
    *,
    seed: int = 0,
    picture_bytes: int = 6000,
    run_logs: RunLogs = "unfinished",
    shares: Mapping[str, float] | None = None,
) -> dict[str, Written]:
    """Write the history of `sub-00001` and so on into an instance on SQLite or Postgres; returns it by subject.

    `shares` gives the share of subjects of each of KINDS, where it is not the default. A picture has `picture_bytes`
    bytes in base64. All events of a run are written for all runs or, by default, for those that have not succeeded; of
    the others those that tell of assets and of the run's state, which are all that Dagster reads of them for a
    cohort. Raises ValueError for shares of no known kind or above 1, and for an instance that has subjects.
    """
    if instance.get_dynamic_partitions(PARTITIONS):
        raise ValueError("this instance has subjects: a cohort is written into an empty one")
    keys = [f"sub-{number:05d}" for number in range(1, subjects + 1)]
    cohort = {key: Written(kind, _states(KINDS[kind])) for key, kind in _kinds(keys, seed, shares or {}).items()}
    for start in range(0, subjects, 1000):  # a statement takes only so many values
        instance.add_dynamic_partitions(PARTITIONS, keys[start : start + 1000])
    rounds = range(max(len(kind.steps) for kind in KINDS.values()))
    plays = [
        (key, KINDS[written.kind].steps[index])
        for index in rounds
        for key, written in cohort.items()
        if index < len(KINDS[written.kind].steps)
    ]
    forms, snapshots = _forms()
    _copy_snapshots(instance, snapshots)
    writer = _Writer(instance, cohort, seed, picture_bytes, len(plays))
    for key, step in plays:
        writer.play(key, forms[step], logged=run_logs == "all" or not forms[step].succeeded)
    writer.finish()
    return cohort


def _kinds(keys: list[str], seed: int, shares: Mapping[str, float]) -> dict[str, str]:
    known = set(KINDS) - {"fresh"}
    if not known.issuperset(shares):
        raise ValueError(f"shares of {', '.join(sorted(shares))}: expected some of {', '.join(sorted(known))}")
    counts = {name: round(shares.get(name, kind.share) * len(keys)) for name, kind in KINDS.items()}
    counts["fresh"] = len(keys) - sum(counts.values())
    if counts["fresh"] < 0:
        raise ValueError(f"the shares add up to more than 1: {counts}")
    kinds = [name for name, count in counts.items() for _ in range(count)]
    random.Random(seed).shuffle(kinds)
    return dict(zip(keys, kinds, strict=True))


def _states(kind: Kind) -> dict[str, State]:
    settings, states = PipelineSettings(), dict[str, State]()
    for derivative in DERIVATIVES:
        above = [states[name] for name in derivative.inputs(settings) if name in states]
        follows: State = "fresh" if {"fresh", "not-applicable"}.issuperset(above) else "stale-upstream"
        states[derivative.name] = kind.states.get(derivative.name, follows)
    return states


# The forms: what Dagster writes for one subject.


class _Blanks:
    """A text with blanks that have names."""

    def __init__(self, text: str) -> None:
        self._parts = text.split("\0")  # which no JSON text contains: literal, name, literal, ...

    def fill(self, values: Mapping[str, str]) -> str:
        parts = self._parts.copy()
        parts[1::2] = [values[name] for name in parts[1::2]]
        return "".join(parts)


@dataclass(frozen=True)
class _Event:
    row: Row  # of event_logs, without what is filled in
    text: _Blanks
    tags: tuple[tuple[str, _Blanks], ...]
    asset: str | None
    mirrored: bool  # in the index of a storage that keeps a file for each run


@dataclass(frozen=True)
class _Form:
    """A run, or an observation by no run, and the versions that it records; "" where each subject has its own."""

    events: tuple[_Event, ...]
    run: Row | None
    run_body: _Blanks
    run_tags: tuple[tuple[str, _Blanks], ...]
    data_versions: Mapping[str, str]
    code_versions: Mapping[str, str]

    @property
    def succeeded(self) -> bool:
        return self.run is not None and self.run["status"] == DagsterRunStatus.SUCCESS.value


@functools.cache
def _forms() -> tuple[dict[str, _Form], list[Row]]:
    """The forms by name, and the snapshots of job and plan that their runs refer to."""
    with tempfile.TemporaryDirectory() as folder, DagsterInstance.ephemeral() as scratch:
        write_dataset(Path(folder) / "source", [MODEL])
        model = _Model(scratch, Path(folder))
        ingest(scratch, model.settings())
        first_look = model.form("")
        write_series(Path(folder) / "source", MODEL, brightness=2)
        ingest(scratch, model.settings())
        whole = model.run()
        forms = {
            "first look": first_look,
            "observe": model.form("", skipped=len(first_look.events)),
            "whole": model.form(whole),
            "under way": model.form(whole, finished_steps=len(FIRST_STEPS)),
            "old settings": model.form(model.run(tree=OLD_SETTINGS)),
            "failing": model.form(model.run(csd_peaks=_failing)),
            "selection": model.form(model.run(SELECTED)),
            "not applicable": model.form(model.run(noddi=_not_applicable, fiber_response=_not_applicable)),
        }
        with _sql(scratch.run_storage).connect() as connection:
            snapshots = [_without_id(row) for row in _rows(connection, SnapshotsTable)]
        return forms, snapshots


@dataclass(frozen=True)
class _Model:
    """The subject that Dagster runs, and what it has written about it."""

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
        """The id of a run of these assets, with `computed` in place of what stands in for theirs."""
        settings = self.settings(tree)
        real = build(settings)
        stand_ins = {**_STAND_INS, **computed}
        definitions = Definitions(
            assets=[*source_assets(settings), *(_quick(one, stand_ins).build(settings) for one in DERIVATIVES)],
            resources=real.resources,
            executor=real.executor,
        )
        selected = AssetSelection.assets(*assets).resolve(definitions.resolve_asset_graph())
        job = definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=selected)
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return job.execute_in_process(
            instance=self.instance,
            partition_key=MODEL,
            raise_on_error=False,
            run_config=quiet,
            tags={FORCE_TAG: "true"},  # what an earlier run made is made again
        ).run_id

    def form(self, run_id: str, finished_steps: int | None = None, skipped: int = 0) -> _Form:
        """What a run wrote, or what none did ("") after the first `skipped` events; with `finished_steps`, as it stood
        when the next step began."""
        with _sql(self.instance.event_log_storage).index_connection() as connection:
            rows = _rows(connection, SqlEventLogStorageTable, run_id=run_id)[skipped:]
            tags = _rows(connection, AssetEventTagsTable)
        with _sql(self.instance.run_storage).connect() as connection:
            runs = _rows(connection, RunsTable, run_id=run_id)
            run_tags = _rows(connection, RunTagsTable, run_id=run_id)
        if finished_steps is not None:
            starts = [at for at, row in enumerate(rows) if row["dagster_event_type"] == "STEP_START"]
            rows, runs = rows[: starts[finished_steps] + 1], [_started(runs[0])]
        recorded = [found for row in rows if (found := _recorded(row))]
        data_versions = {
            found.asset_key.to_user_string(): found.tags[DATA_VERSION_TAG] if "not_applicable" in found.metadata else ""
            for found in recorded
        }
        blank = _Blanking(run_id, str(self.root), tags, {name for name, version in data_versions.items() if version})
        return _Form(
            events=tuple(_event(row, tags, blank) for row in rows),
            run=_without_id(runs[0]) if runs else None,
            run_body=blank(runs[0]["run_body"] if runs else ""),
            run_tags=tuple((row["key"], blank(row["value"])) for row in run_tags),
            data_versions=data_versions,
            code_versions={
                found.asset_key.to_user_string(): found.tags[CODE_VERSION_TAG]
                for found in recorded
                if CODE_VERSION_TAG in found.tags
            },
        )


class _Blanking:
    """Makes blanks of what differs from subject to subject; the versions of the assets in `alike` do not."""

    def __init__(self, run_id: str, root: str, tags: list[Row], alike: set[str]) -> None:
        self._texts = {MODEL: "\0subject\0", root: "data"}
        if run_id:
            self._texts[run_id] = "\0run\0"
        for row in tags:
            name, version = _asset(row["asset_key"]), row["value"]
            if name not in alike:
                self._texts[version] = f"\0version {name}\0"
                self._texts[_hashed(version)] = f"\0hashed {name}\0"

    def __call__(self, text: str) -> _Blanks:
        for literal, blank in self._texts.items():
            text = text.replace(literal, blank)
        text = re.sub(r'("timestamp": )[\d.]+', "\\1\0time\0", text)
        text = re.sub(r'("dagster/input_event_pointer/(\w+)": ")\d+', "\\1\0newest \\2\0", text)
        return _Blanks(re.sub(r"(image/webp;base64,)[\w+/=]+", "\\1\0picture\0", text))


def _event(row: Row, tags: list[Row], blank: _Blanking) -> _Event:
    return _Event(
        row={name: row[name] for name in ("dagster_event_type", "step_key", "asset_key")},
        text=blank(row["event"]),
        tags=tuple((tag["key"], blank(tag["value"])) for tag in tags if tag["event_id"] == row["id"]),
        asset=_asset(row["asset_key"]),
        mirrored=row["dagster_event_type"] in _MIRRORED,
    )


_MIRRORED = {event_type.value for event_type in (*ASSET_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS)}


def _recorded(row: Row) -> Any:
    """The materialization or observation in a row of events, if there is one."""
    event = deserialize_value(row["event"], EventLogEntry)
    return event.asset_materialization or event.asset_observation


def _started(run: Row) -> Row:
    status = DagsterRunStatus.STARTED
    body = deserialize_value(run["run_body"], DagsterRun).with_status(status)
    return {**run, "status": status.value, "run_body": serialize_value(body), "end_time": None}


def _sql(storage: object) -> Any:
    """A storage in an SQL database, which has more than its type says."""
    return storage


def _rows(connection: Any, table: sql.Table, **where: object) -> list[Row]:
    query = sql.select(table).filter_by(**where).order_by(table.c.id)
    return [dict(row) for row in connection.execute(query).mappings()]


def _without_id(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "id"}


def _asset(key: str | None) -> str | None:
    """The asset's name in the key that a database has: `["dti"]`."""
    return key.strip('["]') if key else None


def _hashed(version: str) -> str:
    """What Dagster records for the version of a parent that has partitions: a hash over those that were read."""
    return hashlib.sha256(version.encode()).hexdigest()


# What stands in for results that take a network or minutes: of the right type, on the model subject's grid.


def _map(*entries: int) -> Volume:
    inside = head().reshape(*head().shape, *(1 for _ in entries))
    return Volume(np.where(inside, np.float32(0.5), np.zeros(entries, np.float32)), AFFINES["right-handed"])


def _masks(count: int) -> Volume:
    return Volume(np.repeat(head()[..., None], count, axis=3), AFFINES["right-handed"], tuple(map(str, range(count))))


_STAND_INS: dict[str, Callable[[], Value]] = {
    "brain_mask": lambda: Volume(head(), AFFINES["right-handed"]),
    "noddi": lambda: MapSet({**{name: _map() for name in ("ndi", "odi", "fwf")}, "direction": _map(3)}),
    "fiber_response": lambda: ResponseFunction(np.array([1000.0, -300.0, 50.0]), 2000.0, 100),
    "csd_peaks": lambda: MapSet({"peaks": _map(9), "peakvalues": _map(3)}),
    "tract_masks": lambda: _masks(72),
    "tract_endings": lambda: _masks(144),
    "tract_orientations": lambda: _map(216),
}


def _failing() -> Value:
    raise ActionableError("the response function is larger than the signal of every voxel")


def _not_applicable() -> Value:
    return NotApplicable("needs another shell than those of this series")


def _quick(real: Derivative, stand_ins: Mapping[str, Callable[[], Value]]) -> Derivative:
    """The derivative with its own inputs, settings and versions, and a small picture of nothing."""
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "PNG")
    quick = replace(real, picture=lambda *_: encoded.getvalue())
    if real.name not in stand_ins:
        return quick
    value = stand_ins[real.name]
    return replace(quick, compute=functools.wraps(real.compute)(lambda **_: value()))


# The rows of a cohort.


class _Writer:
    """Fills in the forms, step after step, and writes the rows in batches. The last of `steps` begins a moment ago."""

    def __init__(
        self, instance: DagsterInstance, cohort: Mapping[str, Written], seed: int, picture_bytes: int, steps: int
    ) -> None:
        self._cohort, self._seed, self._picture_bytes = cohort, seed, picture_bytes
        self._chance = random.Random(seed)
        self._clock = time.time() - steps * STEP_SECONDS
        self._log = _Log(instance)
        self._contents: Counter[str] = Counter()  # how often each subject's source was new
        self._newest: dict[str, int] = {}  # by asset, over all subjects: what Dagster takes for its event pointers

    def play(self, subject: str, form: _Form, logged: bool) -> None:
        """One more step in the history of a subject; `logged` with all its events."""
        written = self._cohort[subject]
        if form.run is None:
            self._contents[subject] += 1
            values = {"run": ""}
        else:
            values = {"run": str(uuid.UUID(int=self._chance.getrandbits(128), version=4))}
            written.runs.append(values["run"])
        picture = base64.b64encode(self._chance.randbytes(self._picture_bytes * 3 // 4)).decode()
        values |= {"subject": subject, "picture": picture, **self._versions(subject)}
        for number, event in enumerate(form.events):
            if logged or event.mirrored:
                self._write(event, values, self._clock + number * EVENT_SECONDS, logged)
        if form.run is not None:
            self._log.add_run(form, values, self._clock)
        written.data_versions.update(
            {name: version or values[f"version {name}"] for name, version in form.data_versions.items()}
        )
        written.code_versions.update(form.code_versions)
        self._clock += STEP_SECONDS

    def finish(self) -> None:
        self._log.finish()

    def _versions(self, subject: str) -> dict[str, str]:
        """Those of the subject's present content: the same content gives the same versions."""
        content = f"{self._seed} {subject} {self._contents[subject]}"
        versions = {name: hashlib.sha256(f"{content} {name}".encode()).hexdigest() for name in ("dwi", *NAMES)}
        hashed = {f"hashed {name}": _hashed(version) for name, version in versions.items()}
        return {**{f"version {name}": version for name, version in versions.items()}, **hashed}

    def _write(self, event: _Event, values: dict[str, str], moment: float, logged: bool) -> None:
        pointers = {f"newest {name}": str(storage_id) for name, storage_id in self._newest.items()}
        filled = {**values, **pointers, "time": repr(moment)}
        row = {
            **event.row,
            "run_id": values["run"],
            "event": event.text.fill(filled),
            "timestamp": _utc(moment),
            "partition": values["subject"] if event.asset else None,
        }
        storage_id = self._log.add_event(row, event, {key: value.fill(filled) for key, value in event.tags}, logged)
        if event.asset and event.row["dagster_event_type"] in ("ASSET_MATERIALIZATION", "ASSET_OBSERVATION"):
            self._newest[event.asset] = storage_id


class _Log:
    """The tables of an instance, written in batches."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._events, self._runs = _sql(instance.event_log_storage), _sql(instance.run_storage)
        with self._events.index_connection() as connection:
            newest = connection.execute(sql.select(sql.func.max(SqlEventLogStorageTable.c.id))).scalar()
        self._id = newest or 0
        self._index: dict[sql.Table, list[Row]] = {SqlEventLogStorageTable: [], AssetEventTagsTable: []}
        self._run_rows: dict[sql.Table, list[Row]] = {RunsTable: [], RunTagsTable: []}
        self._shards: dict[str, list[Row]] = {}
        self._empty_shard: bytes | None = None
        self._last: dict[tuple[str, str], tuple[int, str]] = {}

    def add_event(self, row: Row, event: _Event, tags: Mapping[str, str], logged: bool) -> int:
        """Returns the id of the event in the index, or that of the newest where it has no place there."""
        sharded = self._events.is_run_sharded
        if sharded and logged:
            self._shards.setdefault(row["run_id"], []).append(row)
        if event.mirrored or (logged and not sharded):
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

    def add_run(self, form: _Form, values: Mapping[str, str], began: float) -> None:
        assert form.run is not None
        run_id, ended = values["run"], began + (len(form.events) - 1) * EVENT_SECONDS
        changed = {
            "run_id": run_id,
            "run_body": form.run_body.fill(values),
            "partition": values["subject"],
            "create_timestamp": _utc(began),
            "update_timestamp": _utc(ended),
            "start_time": began,
            "end_time": ended if form.run["end_time"] else None,
        }
        self._run_rows[RunsTable].append({**form.run, **changed})
        tags = [{"run_id": run_id, "key": key, "value": value.fill(values)} for key, value in form.run_tags]
        self._run_rows[RunTagsTable] += tags
        if len(self._run_rows[RunsTable]) >= BATCH:
            self._flush()

    def finish(self) -> None:
        """Write what is left, and what Dagster keeps of the newest events of each asset."""
        self._flush()
        for storage_id, text in sorted(self._last.values()):
            self._events.store_asset_event(deserialize_value(text, EventLogEntry), storage_id)
        with self._events.index_connection() as connection:
            if connection.dialect.name == "postgresql":  # its own ids come from a sequence, which knows none of these
                sequence = sql.func.pg_get_serial_sequence(SqlEventLogStorageTable.name, "id")
                connection.execute(sql.select(sql.func.setval(sequence, self._id)))

    def _flush(self) -> None:
        with self._events.index_connection() as connection:
            _insert(connection, self._index)
        with self._runs.connect() as connection:
            _insert(connection, self._run_rows)
        for run_id, rows in self._shards.items():
            self._write_shard(run_id, rows)
        self._shards.clear()

    def _write_shard(self, run_id: str, rows: list[Row]) -> None:
        """Into the file that SQLite has for each run, and one for what no run wrote."""
        path = Path(self._events.path_for_shard(run_id))
        if run_id and self._empty_shard:  # a copy takes no time, where Dagster takes a tenth of a second for each
            path.write_bytes(self._empty_shard)
        else:
            with self._events.run_connection(run_id):
                pass  # on which Dagster makes the file, where there is none
            if run_id:
                self._empty_shard = path.read_bytes()
        engine = sql.create_engine(self._events.conn_string_for_shard(run_id), poolclass=sql.NullPool)
        with engine.begin() as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
        engine.dispose()


def _insert(connection: Any, tables: Mapping[sql.Table, list[Row]]) -> None:
    for table, rows in tables.items():
        if rows:
            connection.execute(table.insert(), rows)
            rows.clear()


def _copy_snapshots(instance: DagsterInstance, snapshots: list[Row]) -> None:
    with _sql(instance.run_storage).connect() as connection:
        known = {row["snapshot_id"] for row in _rows(connection, SnapshotsTable)}
        _insert(connection, {SnapshotsTable: [row for row in snapshots if row["snapshot_id"] not in known]})


def _utc(moment: float) -> datetime:
    """As the databases hold it: in UTC, without saying so."""
    return datetime.fromtimestamp(moment, timezone.utc).replace(tzinfo=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="a new project folder; the instance is its dagster/")
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture-bytes", type=int, default=6000)
    parser.add_argument(
        "--run-logs", choices=get_args(RunLogs), default="unfinished", help="runs with all their events"
    )
    arguments = vars(parser.parse_args())
    home = arguments.pop("home")
    os.environ["DAGSTER_HOME"] = str(home.absolute() / "dagster")  # never into the instance of this environment
    settle(home)
    started = time.perf_counter()
    with DagsterInstance.get() as instance:
        cohort = write_cohort(instance, **arguments)
    seconds = time.perf_counter() - started
    kinds = Counter(written.kind for written in cohort.values())
    size = sum(file.stat().st_size for file in (home / "dagster").rglob("*") if file.is_file())
    print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    print(f"{len(cohort)} subjects in {seconds:.0f} s, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
