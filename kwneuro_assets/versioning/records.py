"""The newest event log record of one derivative of one subject, and the metadata keys that this package writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagster import AssetKey, AssetObservation, AssetRecordsFilter, DagsterInstance

from kwneuro_assets.versioning.dagster_internals import OBSERVED, newest_with_metadata
from kwneuro_assets.versioning.source_names import SCAN

DATA_VERSION_TAG = "dagster/data_version"
CODE_VERSION_TAG = "dagster/code_version"
INPUT_DATA_VERSION_TAG = "dagster/input_data_version"
# Our own metadata: for a partitioned parent, Dagster's tags have a hash of hashes, from which no version can be read.
INPUT_DATA_VERSIONS = "input_data_versions"
NOT_APPLICABLE = "not_applicable"
FIRST_SCAN = "first_scan"  # on the observation of `dwi` that adds the subject
RUN_SCALE_FACTORS = "run_scale_factors"  # on observations of `dwi`: how its runs were scaled to each other
EXCLUDED_VOLUMES = "excluded_volumes"  # on observations of `dwi`: the volumes that are not read
MISSING_FROM_STORE = "missing_from_store"  # on the observation that the store does not have a recorded derivative: why


@dataclass(frozen=True)
class Recorded:
    """The newest materialization or observation: its event, run, versions, data versions of its inputs and metadata."""

    event_id: int
    run_id: str
    data_version: str
    code_version: str | None
    input_data_versions: Mapping[str, str]
    metadata: Mapping[str, Any]

    @property
    def not_applicable(self) -> str | None:
        """Why this derivative cannot exist for this subject; None if it exists."""
        return self.values.get(NOT_APPLICABLE)

    @property
    def values(self) -> Mapping[str, Any]:
        """The metadata without Dagster's wrappers."""
        return {label: one.value for label, one in self.metadata.items()}


def recorded(
    instance: DagsterInstance, asset: str, partition: str | None, *, observed: bool = False
) -> Recorded | None:
    """The newest materialization of a partition, or its newest observation if `observed`; None if there is none.

    `partition` is None for an unpartitioned (group) asset. Events from before the partition was last added do not
    count: they belong to an earlier subject of that name.
    """
    partitions = None if partition is None else [partition]
    wanted = AssetRecordsFilter(asset_key=AssetKey(asset), asset_partitions=partitions)
    fetch = instance.fetch_observations if observed else instance.fetch_materializations
    records = fetch(wanted, limit=1).records
    if not records or (partition is not None and records[0].storage_id < history_start(instance, partition)):
        return None
    entry = records[0].event_log_entry
    event = entry.asset_observation if observed else entry.asset_materialization
    assert event is not None
    tags = event.tags or {}
    inputs = event.metadata.get(INPUT_DATA_VERSIONS)
    return Recorded(
        event_id=records[0].storage_id,
        run_id=entry.run_id,
        data_version=tags.get(DATA_VERSION_TAG, ""),
        code_version=tags.get(CODE_VERSION_TAG),
        input_data_versions=inputs.value if inputs and isinstance(inputs.value, dict) else {},
        metadata=event.metadata,
    )


def history_start(instance: DagsterInstance, partition: str) -> int:
    """The id of the event with which the partition was last added; 0 if no ingest added it.

    Dagster retains the events of a deleted partition, so a partition that is added again would have its old records.
    """
    return newest_with_metadata(instance, OBSERVED, SCAN, FIRST_SCAN, [partition]).get(partition, 0)


def is_missing_from_store(instance: DagsterInstance, asset: str, partition: str | None, known: Recorded) -> bool:
    """Whether the derivative was reported as missing from the store after the materialization `known`."""
    if partition is None:
        seen = recorded(instance, asset, None, observed=True)
        return seen is not None and MISSING_FROM_STORE in seen.metadata and seen.event_id > known.event_id
    reports = newest_with_metadata(instance, OBSERVED, asset, MISSING_FROM_STORE, [partition])
    return reports.get(partition, 0) > known.event_id


def report_missing_from_store(instance: DagsterInstance, asset: str, partition: str | None, why: str) -> None:
    """Record that the store does not have a derivative as it was recorded, so that its state becomes `missing`."""
    instance.report_runless_asset_event(
        AssetObservation(asset, partition=partition, metadata={MISSING_FROM_STORE: why})
    )
