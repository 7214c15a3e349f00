"""The quarantine list as Dagster shows it: a check of the asset `dwi`, told anew when the list changes."""

# No postponed annotations here: Dagster looks at the type of `context` when the check is defined.

import hashlib
from datetime import datetime, timezone
from typing import Any

from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetKey,
    DagsterInstance,
    MetadataValue,
    TableRecord,
    asset_check,
)

from kwneuro_assets.ingestion.ledger import Ledger, Seen
from kwneuro_assets.settings import load_settings
from kwneuro_assets.versioning.records import SCAN

CHECK = "quarantine"
_TOLD = ""  # what of the ledger stands for the list as a whole
_MOST = 100  # rows of the table: the newest


def quarantine_check() -> AssetChecksDefinition:
    """Whether every subject of the source can be used, as of the last look at it."""

    @asset_check(
        asset=SCAN,
        name=CHECK,
        description="Subjects whose files cannot be used, each with its reason, as of the last look at the source; "
        "they block no others, and are looked at again when their files change.",
    )
    def quarantine(context: AssetCheckExecutionContext) -> AssetCheckResult:
        passed, metadata = _state(Ledger(context.instance, load_settings()))
        return AssetCheckResult(passed=passed, severity=AssetCheckSeverity.WARN, metadata=metadata)

    return quarantine


def report_quarantine(instance: DagsterInstance, ledger: Ledger) -> None:
    """Tell the check's result where the list is another one than was told last."""
    told = hashlib.sha256(repr(sorted((key, one.reason) for key, one in _listed(ledger))).encode()).hexdigest()[:16]
    if ledger[_TOLD].told == told:
        return
    passed, metadata = _state(ledger)
    instance.report_runless_asset_event(
        AssetCheckEvaluation(
            asset_key=AssetKey(SCAN),
            check_name=CHECK,
            passed=passed,
            severity=AssetCheckSeverity.WARN,
            metadata=metadata,
        )
    )
    ledger[_TOLD] = Seen(told=told)


def _listed(ledger: Ledger) -> list[tuple[str, Seen]]:
    """The subjects in quarantine, the newest first."""
    found = [(key, one) for key, one in ledger.seen.items() if one.mark == "quarantined"]
    return sorted(found, key=lambda pair: (-pair[1].since, pair[0]))


def _state(ledger: Ledger) -> tuple[bool, dict[str, Any]]:
    listed = _listed(ledger)
    rows = [
        TableRecord(
            {
                "subject": key,
                "since": datetime.fromtimestamp(one.since, timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
                "reason": one.reason,
            }
        )
        for key, one in listed[:_MOST]
    ]
    metadata: dict[str, Any] = {"subjects in quarantine": len(listed)}
    if listed:
        metadata["newest"] = f"{listed[0][0]}: {listed[0][1].reason}"
        metadata["list"] = MetadataValue.table(rows)
    return not listed, metadata
