"""All uses of Dagster beyond its public interface; checked with dagster 1.13.27.

Dagster's public queries are about one partition at a time. The state of a cohort needs all partitions, so this module
reads Dagster's tables in bulk. A test writes events through Dagster and reads them through this module: it fails if a
new version of Dagster changes its tables.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

import sqlalchemy as sql
from dagster import AssetKey, DagsterInstance, DagsterRunStatus, PartitionsDefinition
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.events import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs.schema import KeyValueStoreTable, RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.utils import make_new_backfill_id
from dagster._serdes import ConfigurableClassData, deserialize_value

__all__ = ["NOT_FINISHED_STATUSES", "ConfigurableClassData", "QueuedRunCoordinator"]

Kind = Literal["ASSET_MATERIALIZATION", "ASSET_OBSERVATION", "ASSET_MATERIALIZATION_PLANNED"]
MATERIALIZED: Kind = "ASSET_MATERIALIZATION"
OBSERVED: Kind = "ASSET_OBSERVATION"
PLANNED: Kind = "ASSET_MATERIALIZATION_PLANNED"

_IN_ONE_QUERY = 5000  # values in one IN (...), so that at most as many events are in memory
_Item = TypeVar("_Item")
_decode = json.JSONDecoder().raw_decode
_events = SqlEventLogStorageTable.c


class Newest(NamedTuple):
    """The newest event of one kind for one partition of an asset."""

    asset: str
    partition: str
    kind: Kind
    id: int


def newest_events(
    instance: DagsterInstance, wanted: Mapping[Kind, Collection[str]], partitions: Collection[str] | None = None
) -> Iterator[Newest]:
    """The newest event of each kind for each partition of the assets; of all partitions if `partitions` is None.

    A database index covers this query, so that the events themselves are not read.
    """
    kinds = sql.or_(
        *(
            sql.and_(_events.dagster_event_type == kind, _events.asset_key.in_([_stored_key(name) for name in assets]))
            for kind, assets in wanted.items()
            if assets
        )
    )
    group = (_events.asset_key, _events.partition, _events.dagster_event_type)
    for chosen in [None] if partitions is None else _chunks(partitions):
        of_partition = _events.partition.isnot(None) if chosen is None else _events.partition.in_(chosen)
        query = sql.select(*group, sql.func.max(_events.id)).where(kinds, of_partition).group_by(*group)
        for asset, *rest in _rows(instance, query):
            yield Newest(_name(asset), *rest)


class EventText:
    """The JSON of a materialization or observation, from its figure on (see `_after_figure`)."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def tag(self, name: str) -> str | None:
        """The value of a tag; None if there is none. The value must not contain escaped characters."""
        start = self._text.find(f'"{name}": "')
        if start < 0:
            return None
        start += len(name) + 5
        return self._text[start : self._text.index('"', start)]

    def metadata(self, label: str) -> Any:
        """The text or JSON value of a metadata entry; None if there is no entry with this label."""
        end = self._text.find(f'"label": "{label}"')
        if end < 0:
            return None
        start = self._text.rindex('"entry_data": ', 0, end) + 14
        entry = _decode(self._text, start)[0]
        return entry["data"] if "data" in entry else entry["text"]


def event_texts(instance: DagsterInstance, ids: Iterable[int]) -> Iterator[tuple[int, EventText]]:
    """The id and the text of each event, in order of their ids."""
    text = _after_figure(instance)
    for chosen in _chunks(sorted(ids)):
        for event_id, content in _rows(instance, sql.select(_events.id, text).where(_events.id.in_(chosen))):
            yield event_id, EventText(content)


def event_runs(instance: DagsterInstance, ids: Collection[int]) -> dict[int, str]:
    """The run id of each event."""
    found: dict[int, str] = {}
    for chosen in _chunks(sorted(ids)):
        query = sql.select(_events.id, _events.run_id).where(_events.id.in_(chosen))
        found.update((event_id, run_id) for event_id, run_id in _rows(instance, query))
    return found


def newest_with_metadata(
    instance: DagsterInstance, kind: Kind, asset: str, label: str, partitions: Collection[str] | None = None
) -> dict[str, int]:
    """The id of the newest event of an asset that has a metadata entry with this label, by partition."""
    found: dict[str, int] = {}
    for chosen in [None] if partitions is None else _chunks(partitions):
        query = (
            sql.select(_events.partition, sql.func.max(_events.id))
            .where(
                _events.asset_key == _stored_key(asset),
                _events.dagster_event_type == kind,
                _events.partition.isnot(None) if chosen is None else _events.partition.in_(chosen),
                _events.event.contains(f'"label": "{label}"', autoescape=True),
            )
            .group_by(_events.partition)
        )
        found.update((partition, newest) for partition, newest in _rows(instance, query))
    return found


def planned_runs(instance: DagsterInstance, asset: str, partitions: Collection[str]) -> Iterator[tuple[str, int, str]]:
    """Partition, event id and run id of each plan to materialize one of the partitions, oldest first."""
    for chosen in _chunks(partitions):
        query = (
            sql.select(_events.partition, _events.id, _events.run_id)
            .where(
                _events.asset_key == _stored_key(asset),
                _events.dagster_event_type == PLANNED,
                _events.partition.in_(chosen),
            )
            .order_by(_events.id)
        )
        yield from _rows(instance, query)


class Plan(NamedTuple):
    """The plan of a run to materialize a partition of an asset, with the id of its event."""

    asset: str
    partition: str
    id: int
    run_id: str


def plans_of_runs(instance: DagsterInstance, run_ids: Collection[str]) -> Iterator[Plan]:
    """What the runs plan to materialize."""
    for chosen in _chunks(run_ids):
        query = sql.select(_events.asset_key, _events.partition, _events.id, _events.run_id).where(
            _events.run_id.in_(chosen), _events.dagster_event_type == PLANNED, _events.partition.isnot(None)
        )
        for asset, *rest in _rows(instance, query):
            yield Plan(_name(asset), *rest)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The event with which a run ended, and its time in seconds since 1970."""

    event_id: int
    moment: float


def run_statuses(instance: DagsterInstance, run_ids: Collection[str]) -> dict[str, DagsterRunStatus]:
    """The status of each run; runs that were deleted are left out."""
    found: dict[str, DagsterRunStatus] = {}
    for chosen in _chunks(run_ids):
        found |= _statuses(instance, RunsTable.c.run_id.in_(chosen))
    return found


def unfinished_runs(instance: DagsterInstance) -> dict[str, DagsterRunStatus]:
    """The status of all runs that are queued or running."""
    return _statuses(instance, RunsTable.c.status.in_([status.value for status in NOT_FINISHED_STATUSES]))


def _statuses(instance: DagsterInstance, which: Any) -> dict[str, DagsterRunStatus]:
    with _run_storage(instance).connect() as connection:
        rows = connection.execute(sql.select(RunsTable.c.run_id, RunsTable.c.status).where(which))
        return {run_id: DagsterRunStatus(status) for run_id, status in rows}


def run_ends(instance: DagsterInstance, run_ids: Collection[str]) -> dict[str, RunEnd]:
    """The end of each run that failed or was canceled; other runs are left out."""
    kinds = [DagsterEventType.RUN_FAILURE.value, DagsterEventType.RUN_CANCELED.value]
    found: dict[str, RunEnd] = {}
    for chosen in _chunks(run_ids):
        query = sql.select(_events.run_id, _events.id, _events.timestamp).where(
            _events.run_id.in_(chosen), _events.dagster_event_type.in_(kinds)
        )
        for run_id, event_id, moment in _rows(instance, query):
            found[run_id] = RunEnd(event_id, _seconds(moment))
    return found


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a run that has ended: those that started, those that succeeded, and why the others failed."""

    started: frozenset[str]
    succeeded: frozenset[str]
    failed: Mapping[str, str]


_steps_of_ended_runs: dict[str, Steps] = {}  # a cache: they never change


def steps_of_ended_runs(instance: DagsterInstance, run_ids: Iterable[str]) -> Mapping[str, Steps]:
    """The steps of runs that have ended. A run whose log was deleted has no steps."""
    wanted = list(dict.fromkeys(run_ids))
    unread = [run_id for run_id in wanted if run_id not in _steps_of_ended_runs]
    storage = _event_log(instance)
    if storage.is_run_sharded:
        for run_id in unread:
            _steps_of_ended_runs[run_id] = _steps(_shard_rows(storage, run_id))
    else:
        for chosen in _chunks(unread):
            rows: dict[str, list[tuple[str, str, str]]] = {run_id: [] for run_id in chosen}
            for run_id, *row in _rows(instance, _step_query(_events.run_id).where(_events.run_id.in_(chosen))):
                rows[run_id].append(row)
            _steps_of_ended_runs.update({run_id: _steps(one) for run_id, one in rows.items()})
    return {run_id: _steps_of_ended_runs[run_id] for run_id in wanted}


def _step_query(*columns: Any) -> Any:
    failure = DagsterEventType.STEP_FAILURE.value
    kinds = [DagsterEventType.STEP_START.value, DagsterEventType.STEP_SUCCESS.value, failure]
    text = sql.case((_events.dagster_event_type == failure, _events.event), else_="")
    return sql.select(*columns, _events.step_key, _events.dagster_event_type, text).where(
        _events.dagster_event_type.in_(kinds)
    )


def _shard_rows(storage: Any, run_id: str) -> list[Any]:
    """The rows of one run's SQLite file. They are read directly, as Dagster takes 0.1 s to open each file."""
    from pathlib import Path

    if not Path(storage.path_for_shard(run_id)).exists():
        return []
    engine = sql.create_engine(storage.conn_string_for_shard(run_id), poolclass=sql.NullPool)
    try:
        with engine.connect() as connection:
            return list(connection.execute(_step_query()))
    finally:
        engine.dispose()


def _steps(rows: Iterable[Sequence[str]]) -> Steps:
    started, succeeded, failed = set(), set(), {}
    for step, kind, text in rows:
        if kind == DagsterEventType.STEP_START.value:
            started.add(step)
        elif kind == DagsterEventType.STEP_SUCCESS.value:
            succeeded.add(step)
        else:
            failed[step] = failure_message(deserialize_value(text, EventLogEntry).get_dagster_event())
    return Steps(frozenset(started), frozenset(succeeded), failed)


def failure_message(event: Any) -> str:
    """Why a step failed: the message of the original error, without its class and traceback."""
    if was_interrupted(event):
        return "the step was interrupted"
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return str(failure.user_failure_data.description)
    error = failure.error
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "the step failed without an error message"
    # Dagster puts the class in front of the message, with its module unless it is a built-in one.
    head, _, message = str(error.message).strip().partition(": ")
    return message if message and head.rpartition(".")[2] == error.cls_name else str(error.message).strip()


def was_interrupted(event: Any) -> bool:
    """Whether a step failed because its process was interrupted, for example by Ctrl-C."""
    error = event.step_failure_data.error
    while error is not None:
        if error.cls_name in ("KeyboardInterrupt", "DagsterExecutionInterruptedError"):
            return True
        error = error.cause
    return False


def add_backfill(
    instance: DagsterInstance,
    partitions_def: PartitionsDefinition,
    partitions: Mapping[str, Collection[str]],
    title: str,
    tags: Mapping[str, str],
) -> str:
    """Request a backfill of partitions by asset and return its id. Dagster's daemon starts one run per partition."""
    subsets = {
        AssetKey(name): partitions_def.subset_with_partition_keys(sorted(keys)) for name, keys in partitions.items()
    }
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=time.time(),
        tags=tags,
        dynamic_partitions_store=instance,
        asset_graph_subset=AssetGraphSubset(subsets),  # type: ignore[call-arg]  # its properties are no fields
        title=title,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


_values = KeyValueStoreTable.c

# Dagster's own `get_cursor_values` and `set_cursor_values` read this table, too. They cannot find the keys of a prefix,
# remove a key, or compare and swap a value, and on SQLite `set_cursor_values` drops new keys if a batch has known ones.


def read_values(instance: DagsterInstance, prefix: str) -> dict[str, str]:
    """The values of all keys that begin with `prefix` in the table where Dagster stores its daemons' cursors."""
    query = sql.select(_values.key, _values.value).where(_values.key.startswith(prefix, autoescape=True))
    with _run_storage(instance).connect() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def write_values(instance: DagsterInstance, values: Mapping[str, str | None]) -> None:
    """Set the values of these keys; None removes a key. Callers must not write the same keys at the same time."""
    new = [{"key": key, "value": value} for key, value in values.items() if value is not None]
    with _run_storage(instance).connect() as connection:
        for chosen in _chunks(values):
            connection.execute(KeyValueStoreTable.delete().where(_values.key.in_(chosen)))
        for rows in _chunks(new):
            connection.execute(KeyValueStoreTable.insert(), rows)


def acquire_lock(instance: DagsterInstance, name: str, holder: str, seconds: float) -> bool:
    """Acquire or extend the lock `name` for `holder`; it expires after `seconds`. Returns whether `holder` has it.

    At most one holder in all processes has it. `release_lock` ends it earlier.
    """
    now = time.time()
    wanted = f"{now + seconds} {holder}"
    with _run_storage(instance).connect() as connection:
        present = connection.execute(sql.select(_values.value).where(_values.key == name)).scalar()
        if present is not None:
            expiry, _, other = present.partition(" ")
            if other != holder and float(expiry) > now:
                return False
            unchanged = (_values.key == name) & (_values.value == present)
            return bool(connection.execute(KeyValueStoreTable.update().where(unchanged).values(value=wanted)).rowcount)
    try:
        with _run_storage(instance).connect() as connection:
            connection.execute(KeyValueStoreTable.insert().values(key=name, value=wanted))
    except sql.exc.IntegrityError:  # another holder was faster
        return False
    return True


def release_lock(instance: DagsterInstance, name: str, holder: str) -> None:
    """Release the lock `name` if `holder` has it."""
    with _run_storage(instance).connect() as connection:
        own = (_values.key == name) & _values.value.endswith(f" {holder}", autoescape=True)
        connection.execute(KeyValueStoreTable.delete().where(own))


def _run_storage(instance: DagsterInstance) -> SqlRunStorage:
    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        raise _not_in_sql(storage)
    return storage


def _event_log(instance: DagsterInstance) -> Any:
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise _not_in_sql(storage)
    return storage


def _not_in_sql(storage: object) -> TypeError:
    return TypeError(f"expected an instance on SQLite or Postgres, found the storage {type(storage).__name__}")


def _rows(instance: DagsterInstance, query: Any) -> Sequence[Any]:
    with _event_log(instance).index_connection() as connection:
        return connection.execute(query).all()  # iterating would fetch one row at a time


def _after_figure(instance: DagsterInstance) -> Any:
    """The text of an event behind its figure, which comes first and is by far the largest part."""
    end = '"label": "figure"'
    with _event_log(instance).index_connection() as connection:
        if connection.dialect.name == "postgresql":  # its substr counts characters from the start, which is slow
            return sql.func.split_part(_events.event, end, -1)
    return sql.func.substr(_events.event, sql.func.instr(_events.event, end) + 1)


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, _IN_ONE_QUERY)):
        yield chunk


def _stored_key(asset: str) -> str:
    return AssetKey(asset).to_string()


def _name(stored_key: str) -> str:
    return stored_key[2:-2]  # ["dti"]


def _seconds(moment: datetime) -> float:
    """Seconds since 1970. The databases store UTC without a time zone."""
    return moment.replace(tzinfo=timezone.utc).timestamp()
