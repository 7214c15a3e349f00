"""The list of quarantined subjects, and its report to the asset check of `dwi`."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from typing import Any

from dagster import AssetCheckEvaluation, AssetCheckSeverity, AssetKey, DagsterInstance, MetadataValue, TableRecord

from kwneuro_assets.ingestion.ingest_index import IngestIndex, ScannedSubject
from kwneuro_assets.versioning.source_names import SCAN

CHECK = "quarantine"
_LIST_KEY = ""  # the entry of the ingest index that belongs to the list, and to no subject
_MAX_ROWS = 100  # of the table in the metadata: the newest


def report_quarantine(instance: DagsterInstance, index: IngestIndex) -> None:
    """Record a result of the check if the list changed since the last record."""
    entries = sorted((key, one.reason) for key, one in _quarantined(index))
    digest = hashlib.sha256(repr(entries).encode()).hexdigest()[:16]
    if index[_LIST_KEY].reported == digest:
        return
    passed, metadata = quarantine_state(index)
    instance.report_runless_asset_event(
        AssetCheckEvaluation(
            asset_key=AssetKey(SCAN),
            check_name=CHECK,
            passed=passed,
            severity=AssetCheckSeverity.WARN,
            metadata=metadata,
        )
    )
    index[_LIST_KEY] = ScannedSubject(reported=digest)


def quarantine_state(index: IngestIndex) -> tuple[bool, dict[str, Any]]:
    """Whether no subject is quarantined, and the list as metadata, the newest first."""
    listed = _quarantined(index)
    rows = [
        TableRecord(
            {
                "subject": key,
                "since": datetime.fromtimestamp(one.since, timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
                "reason": one.reason,
            }
        )
        for key, one in listed[:_MAX_ROWS]
    ]
    metadata: dict[str, Any] = {"subjects in quarantine": len(listed)}
    if listed:
        metadata["newest"] = f"{listed[0][0]}: {listed[0][1].reason}"
        metadata["list"] = MetadataValue.table(rows)
    return not listed, metadata


def _quarantined(index: IngestIndex) -> list[tuple[str, ScannedSubject]]:
    found = [(key, one) for key, one in index.subjects.items() if one.problem == "quarantined"]
    return sorted(found, key=lambda pair: (-pair[1].since, pair[0]))
