"""What Dagster's event log says of one derivative of one subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagster import AssetKey, AssetObservation, AssetRecordsFilter, DagsterInstance

from kwneuro_assets.dagster_internals import OBSERVED, newest_with

DATA_VERSION_TAG = "dagster/data_version"
CODE_VERSION_TAG = "dagster/code_version"
INPUT_DATA_VERSION_TAG = "dagster/input_data_version"
# Metadata of ours. Dagster's own tags hold a hash of hashes for a partitioned parent, which names no version.
INPUT_DATA_VERSIONS = "input_data_versions"
NOT_APPLICABLE = "not_applicable"
FIRST_LOOK = "first_look"  # of the observation of `dwi` that was made as the subject was added
LOST = "lost"  # of the observation that a derivative is not in the store as the log has it; says why

SCAN = "dwi"  # the asset whose first observation begins the life of a subject


@dataclass(frozen=True)
class Recorded:
    """The newest materialization or observation: its event, run, versions, those of its inputs, and its metadata."""

    event_id: int
    run_id: str
    data_version: str
    code_version: str | None
    input_data_versions: Mapping[str, str]
    metadata: Mapping[str, Any]

    @property
    def not_applicable(self) -> str | None:
        """Why there is no such derivative of this subject; None where there is."""
        return self.values.get(NOT_APPLICABLE)

    @property
    def values(self) -> Mapping[str, Any]:
        return {label: one.value for label, one in self.metadata.items()}


def recorded(
    instance: DagsterInstance, asset: str, partition: str | None, *, observed: bool = False
) -> Recorded | None:
    """The newest materialization of an asset's partition, or its newest observation; None where there is none.

    The partition of what is made of all subjects together is None.

    What was recorded before the partition was last added is of a life that has ended, and does not count.
    """
    partitions = None if partition is None else [partition]
    wanted = AssetRecordsFilter(asset_key=AssetKey(asset), asset_partitions=partitions)
    fetch = instance.fetch_observations if observed else instance.fetch_materializations
    records = fetch(wanted, limit=1).records
    if not records or (partition is not None and records[0].storage_id < life_begins(instance, partition)):
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


def life_begins(instance: DagsterInstance, partition: str) -> int:
    """The event with which the present life of a partition began; 0 where no look at the source began it.

    A partition that was deleted and added again would have all its old events: Dagster keeps them.
    """
    return newest_with(instance, OBSERVED, SCAN, FIRST_LOOK, [partition]).get(partition, 0)


def is_lost(instance: DagsterInstance, asset: str, partition: str | None, known: Recorded) -> bool:
    """Whether it was recorded since that the store does not hold a derivative as it is known."""
    if partition is None:
        seen = recorded(instance, asset, None, observed=True)
        return seen is not None and LOST in seen.metadata and seen.event_id > known.event_id
    return newest_with(instance, OBSERVED, asset, LOST, [partition]).get(partition, 0) > known.event_id


def report_lost(instance: DagsterInstance, asset: str, partition: str | None, why: str) -> None:
    """Record that the store does not hold what the log says, so that the derivative counts as missing."""
    instance.report_runless_asset_event(AssetObservation(asset, partition=partition, metadata={LOST: why}))
