"""The event log of a cohort that is written in bulk is one that Dagster could have written, as read by Dagster."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sql
from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetObservation,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
)
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.stats import StepEventStatus
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable
from dagster._serdes import deserialize_value

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.definitions import build
from kwneuro_assets.qc.checks import DESCRIPTIONS
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import CODE_VERSION_TAG, DATA_VERSION_TAG
from kwneuro_assets.versioning.staleness import cohort_status
from kwneuro_assets_tests.testkit.event_log import KINDS, NAMES, SubjectHistory, write_cohort
from kwneuro_assets_tests.testkit.run_templates import OF_WHATEVER_EXISTS

if TYPE_CHECKING:
    from kwneuro_assets_tests.testkit.postgres_server import PostgresServer

Cohort = dict[str, SubjectHistory]
TWO_OF_EACH = {name: 0.1 for name in KINDS if name != "fresh"}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as instance:
        yield instance


@pytest.fixture(scope="module")
def cohort(instance: DagsterInstance) -> Cohort:
    return write_cohort(instance, 20, fractions=TWO_OF_EACH)


@pytest.fixture(scope="module")
def graph() -> AssetGraph:
    return build(PipelineSettings()).resolve_asset_graph()


def statuses(instance: DagsterInstance, graph: AssetGraph, *subjects: str) -> dict[str, dict[str, StaleStatus]]:
    """Dagster's own stale status, which depends on direct parents only."""
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {subject: {name: resolver.get_status(AssetKey(name), subject) for name in NAMES} for subject in subjects}


def last_of(cohort: Cohort, kind: str) -> dict[str, str]:
    """The last run of each subject of a kind."""
    return {subject: written.runs[-1] for subject, written in cohort.items() if written.kind == kind}


def test_each_kind_has_its_fraction_of_the_cohort(cohort: Cohort) -> None:
    kinds = [written.kind for written in cohort.values()]
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 2)


def test_every_row_is_the_one_that_dagster_writes_for_its_event(instance: DagsterInstance, cohort: Cohort) -> None:
    storage: Any = instance.event_log_storage
    failed = last_of(cohort, "failed").popitem()[1]
    for connected in (storage.index_connection(), storage.run_connection(failed)):
        with connected as connection:
            rows = [dict(row) for row in connection.execute(sql.select(SqlEventLogStorageTable)).mappings()]
            tags = connection.execute(sql.select(AssetEventTagsTable)).fetchall()
        events = {row.pop("id"): deserialize_value(row["event"], EventLogEntry) for row in rows}
        assert rows == [storage._event_to_row(event) for event in events.values()]
        for tag in tags:
            assert storage._tags_for_asset_event(events[tag.event_id]) == {tag.key: tag.value}
            assert tag.event_timestamp == storage._event_insert_timestamp(events[tag.event_id])
    assert {row["run_id"] for row in rows} == {failed}
    assert {"STEP_START", "STEP_OUTPUT", "STEP_FAILURE"} < {row["dagster_event_type"] for row in rows}


def test_dagster_reads_the_newest_versions_that_were_written(instance: DagsterInstance, cohort: Cohort) -> None:
    for subject, written in cohort.items():
        for name in NAMES:
            wanted = AssetRecordsFilter(AssetKey(name), asset_partitions=[subject])
            records = instance.fetch_materializations(wanted, limit=1).records
            newest = [record.asset_materialization for record in records if record.asset_materialization]
            tags = newest[0].tags or {} if newest else {}
            assert tags.get(DATA_VERSION_TAG) == written.data_versions.get(name)
            assert tags.get(CODE_VERSION_TAG) == written.code_versions.get(name)
        observed = instance.get_latest_data_version_record(AssetKey("dwi"), True, subject)
        assert observed is not None
        assert observed.asset_observation is not None
        assert observed.asset_observation.tags[DATA_VERSION_TAG] == written.data_versions["dwi"]
    materialized = {subject for subject, written in cohort.items() if "dti" in written.data_versions}
    newest_ids = instance.event_log_storage.get_latest_storage_id_by_partition(
        AssetKey("dti"), DagsterEventType.ASSET_MATERIALIZATION
    )
    assert set(newest_ids) == materialized
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == list(cohort)


def test_attempts_without_materialization_failed_or_are_running(instance: DagsterInstance, cohort: Cohort) -> None:
    storage = instance.event_log_storage
    failed = {**last_of(cohort, "failed"), **last_of(cohort, "never_succeeded")}
    running = last_of(cohort, "running")
    attempts = storage.get_latest_asset_partition_materialization_attempts_without_materializations(
        AssetKey("csd_peaks")
    )
    assert {subject: run_id for subject, (run_id, _) in attempts.items()} == {**failed, **running}
    assert not storage.get_latest_asset_partition_materialization_attempts_without_materializations(AssetKey("mean_b0"))
    for run_id in failed.values():
        steps = {step.step_key: step.status for step in instance.get_run_step_stats(run_id)}
        assert [name for name, status in steps.items() if status == StepEventStatus.FAILURE] == ["csd_peaks"]
    for subject, written in cohort.items():
        found = [run for run_id in written.runs if (run := instance.get_run_by_id(run_id))]
        assert [run.tags["dagster/partition"] for run in found] == [subject] * len(written.runs)
        last = {"failed": "FAILURE", "never_succeeded": "FAILURE", "running": "STARTED"}.get(written.kind, "SUCCESS")
        assert [run.status for run in found][-1:] == [DagsterRunStatus(last)] * bool(found)


def test_dagster_reads_the_executions_of_checks_and_what_they_checked(
    instance: DagsterInstance, cohort: Cohort
) -> None:
    storage, asset = instance.event_log_storage, AssetKey("dwi_qc")
    newest = storage.get_latest_storage_id_by_partition(asset, DagsterEventType.ASSET_MATERIALIZATION)
    assert set(newest) == {subject for subject, written in cohort.items() if "dwi_qc" in written.data_versions}
    not_reached = {*last_of(cohort, "failed"), *last_of(cohort, "never_succeeded"), *last_of(cohort, "running")}
    for subject, name in itertools.product(cohort, DESCRIPTIONS):
        found = storage.get_asset_check_execution_history(
            AssetCheckKey(asset, name), limit=9, partition_filter=PartitionKeyFilter(key=subject)
        )
        planned = [one for one in found if one.status == AssetCheckExecutionRecordStatus.PLANNED]
        assert len(planned) == (subject in not_reached)
        assert {one.run_id for one in planned} <= set(cohort[subject].runs[-1:])
        evaluated: list[Any] = [one.evaluation for one in found if one not in planned]
        assert [one.target_materialization_data.storage_id for one in evaluated[:1]] == [
            newest[key] for key in newest if key == subject
        ]
        assert {one.partition for one in evaluated} <= {subject}


def test_the_cohort_status_has_the_states_of_each_kind(instance: DagsterInstance, cohort: Cohort) -> None:
    found = cohort_status(instance, PipelineSettings(), DERIVATIVES, ["dwi"], cohort)
    for subject, written in cohort.items():
        assert {name: status.state for name, status in found[subject].items()} == written.states, written.kind


def test_dagsters_stale_status_agrees_with_the_kinds(
    instance: DagsterInstance, cohort: Cohort, graph: AssetGraph
) -> None:
    def expected(written: SubjectHistory, name: str) -> StaleStatus:
        if name not in written.data_versions:
            return StaleStatus.MISSING
        return StaleStatus.STALE if written.states[name] == "stale" else StaleStatus.FRESH

    one_of_each = {written.kind: subject for subject, written in cohort.items()}.values()
    assert statuses(instance, graph, *one_of_each) == {
        subject: {name: expected(cohort[subject], name) for name in NAMES} for subject in one_of_each
    }


def test_input_versions_are_recorded_by_dagster_and_by_the_derivative(
    instance: DagsterInstance, cohort: Cohort
) -> None:
    subject = next(iter(last_of(cohort, "rematerialized")))
    versions = cohort[subject].data_versions
    for derivative in DERIVATIVES:
        wanted = AssetRecordsFilter(AssetKey(derivative.name), asset_partitions=[subject])
        [record] = instance.fetch_materializations(wanted, limit=1).records
        materialization = record.asset_materialization
        assert materialization is not None
        assert materialization.tags is not None
        inputs = derivative.inputs(PipelineSettings())
        assert materialization.metadata["input_data_versions"].value == {name: versions[name] for name in inputs}
        for name in inputs:
            # The version of an observed asset, and a hash over the version of a materialized one.
            hashed = hashlib.sha256(versions[name].encode()).hexdigest()
            assert materialization.tags[f"dagster/input_data_version/{name}"] == (
                versions[name] if name == "dwi" else hashed
            )


def test_dagster_continues_the_history(instance: DagsterInstance, cohort: Cohort, graph: AssetGraph) -> None:
    subject = next(iter(last_of(cohort, "fresh")))
    before = statuses(instance, graph, subject)[subject]
    for version, status in (("other", StaleStatus.STALE), (cohort[subject].data_versions["dwi"], StaleStatus.FRESH)):
        instance.report_runless_asset_event(
            AssetObservation("dwi", partition=subject, tags={DATA_VERSION_TAG: version})
        )
        assert statuses(instance, graph, subject)[subject] == {
            **before,
            **dict.fromkeys(("denoised_dwi", "fiber_response", "csd_peaks", *OF_WHATEVER_EXISTS), status),
        }


def test_a_storage_without_one_file_per_run_gets_the_same_history(cohort: Cohort) -> None:
    with DagsterInstance.ephemeral() as unsharded:
        assert write_cohort(unsharded, 20, run_logs="all", fractions=TWO_OF_EACH) == cohort
        found = cohort_status(unsharded, PipelineSettings(), DERIVATIVES, ["dwi"], cohort)
        run_id = next(iter(last_of(cohort, "fresh").values()))
        steps = {step.step_key: step.status for step in unsharded.get_run_step_stats(run_id)}
    for subject, written in cohort.items():
        assert {name: status.state for name, status in found[subject].items()} == written.states, written.kind
    assert steps == dict.fromkeys(NAMES, StepEventStatus.SUCCESS)


def test_postgres_gets_the_same_history_and_dagster_continues_after_its_newest_event(
    cohort: Cohort, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    from kwneuro_assets_tests.testkit.postgres_server import instance_on

    with instance_on(postgres_server, tmp_path) as instance:
        assert write_cohort(instance, 20, run_logs="all", fractions=TWO_OF_EACH) == cohort
        found = cohort_status(instance, PipelineSettings(), DERIVATIVES, ["dwi"], cohort)
        storage: Any = instance.event_log_storage
        with storage.index_connection() as connection:
            rows = [dict(row) for row in connection.execute(sql.select(SqlEventLogStorageTable)).mappings()]
        written_ids = [row.pop("id") for row in rows]
        subject = next(iter(last_of(cohort, "fresh")))
        # Dagster takes its ids from a sequence, which must be past the ids that were written.
        instance.report_runless_asset_event(AssetObservation("dwi", partition=subject, tags={DATA_VERSION_TAG: "new"}))
        after = cohort_status(instance, PipelineSettings(), DERIVATIVES, ["dwi"], [subject])[subject]
        observed = AssetRecordsFilter(AssetKey("dwi"), asset_partitions=[subject])
        [newest] = instance.fetch_observations(observed, limit=1).records
    assert rows == [storage._event_to_row(deserialize_value(row["event"], EventLogEntry)) for row in rows]
    for name, written in cohort.items():
        assert {asset: status.state for asset, status in found[name].items()} == written.states, written.kind
    assert newest.storage_id == max(written_ids) + 1
    assert after["denoised_dwi"].state == "stale"


def test_fractions_of_unknown_kinds_and_above_one_are_errors() -> None:
    with DagsterInstance.ephemeral() as empty:
        with pytest.raises(ValueError, match="fractions of unknown: expected some of"):
            write_cohort(empty, 10, fractions={"unknown": 0.1})
        with pytest.raises(ValueError, match="more than 1"):
            write_cohort(empty, 10, fractions={"failed": 0.6, "changed": 0.6})
