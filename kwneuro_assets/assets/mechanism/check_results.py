"""The asset checks of a derivative, as Dagster declares and records them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    MetadataValue,
    PreviewWarning,
    TableColumn,
    TableRecord,
    TableSchema,
)

from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.imaging.table import MISSING, Cell
from kwneuro_assets.qc.checks import Check
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.partitions import subject_partitions

_COLUMNS = TableSchema([TableColumn(name) for name in ("metric", "value", "limit", "verdict")])


def check_specs(derivative: Derivative) -> list[AssetCheckSpec]:
    """The declared checks. None blocks what is downstream: a warning is a reason to review, not to stop."""
    checks = derivative.checks
    if checks is None:
        return []
    partitions = subject_partitions if derivative.is_partitioned else None
    with warnings.catch_warnings():
        # Checks with partitions are a preview. Without them, a check would not know the subject that it is about.
        warnings.simplefilter("ignore", PreviewWarning)
        return [
            AssetCheckSpec(name, asset=derivative.name, description=description, partitions_def=partitions)
            for name, description in checks.descriptions.items()
        ]


def check_results(derivative: Derivative, settings: PipelineSettings, value: Value) -> list[AssetCheckResult]:
    """The result of each declared check: Dagster fails a step that leaves one out."""
    checks = derivative.checks
    if checks is None:
        return []
    if isinstance(value, NotApplicable):
        reason = {"not_applicable": MetadataValue.text(value.reason)}
        return [_result(name, True, reason) for name in checks.descriptions]
    return [_result(one.name, one.passed, _metadata(one)) for one in checks.evaluate(value, settings)]


def _result(name: str, passed: bool, metadata: Mapping[str, MetadataValue[Any]]) -> AssetCheckResult:
    return AssetCheckResult(check_name=name, passed=passed, severity=AssetCheckSeverity.WARN, metadata=metadata)


def _metadata(check: Check) -> dict[str, MetadataValue[Any]]:
    """What is wrong in words, the values beyond their limits as numbers, and the table of metrics that have a limit."""
    beyond = {one.metric: float(one.value) for one in check.warnings if isinstance(one.value, (int, float))}
    rows = [
        TableRecord({"metric": one.metric, "value": _shown(one.value), "limit": one.limit, "verdict": one.verdict})
        for one in sorted(check.findings, key=lambda one: one.verdict != "warn")
        if one.limit
    ]
    messages = "\n".join(dict.fromkeys(one.message for one in check.warnings))
    return {
        **({"warnings": MetadataValue.text(messages)} if messages else {}),
        **{
            name: MetadataValue.float(float(value)) for name, value in beyond.items() if isinstance(value, (int, float))
        },
        "metrics": MetadataValue.table(rows, _COLUMNS),
    }


def _shown(value: Cell) -> str:
    if value is None:
        return MISSING
    return f"{value:.5g}" if isinstance(value, float) else str(value)
