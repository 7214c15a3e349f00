"""What Dagster's event log says of one derivative of one subject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagster import AssetKey, AssetRecordsFilter, DagsterInstance

DATA_VERSION_TAG = "dagster/data_version"
CODE_VERSION_TAG = "dagster/code_version"
INPUT_DATA_VERSION_TAG = "dagster/input_data_version"
# Metadata of ours: Dagster's own tags hold a hash of hashes for a partitioned parent, which names no version.
INPUT_DATA_VERSIONS = "input_data_versions"


@dataclass(frozen=True)
class Recorded:
    """The newest materialization or observation: its versions, those of its inputs, its metadata, time and run."""

    data_version: str
    code_version: str | None
    input_data_versions: Mapping[str, str]
    metadata: Mapping[str, Any]
    timestamp: float
    run_id: str


def recorded(instance: DagsterInstance, asset: str, partition: str, *, observed: bool = False) -> Recorded | None:
    """The newest materialization of an asset's partition, or its newest observation; None where there is none."""
    wanted = AssetRecordsFilter(asset_key=AssetKey(asset), asset_partitions=[partition])
    fetch = instance.fetch_observations if observed else instance.fetch_materializations
    records = fetch(wanted, limit=1).records
    if not records:
        return None
    entry = records[0].event_log_entry
    event = entry.asset_observation if observed else entry.asset_materialization
    assert event is not None
    tags = event.tags or {}
    metadata = {key: value.value for key, value in event.metadata.items()}
    inputs = metadata.get(INPUT_DATA_VERSIONS)
    return Recorded(
        data_version=tags.get(DATA_VERSION_TAG, ""),
        code_version=tags.get(CODE_VERSION_TAG),
        input_data_versions=inputs if isinstance(inputs, dict) else {},
        metadata=metadata,
        timestamp=records[0].timestamp,
        run_id=entry.run_id,
    )
