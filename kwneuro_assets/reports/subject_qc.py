"""The checks and QC metrics of a subject as rows of tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kwneuro_assets.qc.checks import Check, Finding
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.reports.content import SubjectContent
from kwneuro_assets.reports.rendering import shown

_BETTER = {"higher": "higher", "lower": "lower", "neither": ""}


@dataclass(frozen=True)
class CheckRow:
    """A finding, with the name and unit of its metric."""

    label: str
    value: str
    finding: Finding


@dataclass(frozen=True)
class CheckTable:
    """A check: its warnings, and the other findings, which are folded."""

    name: str
    passed: bool
    warnings: tuple[CheckRow, ...]
    others: tuple[CheckRow, ...]


@dataclass(frozen=True)
class MetricRow:
    """A QC metric: its column, name, value with unit, the better direction, what it is, and where it is defined."""

    name: str
    label: str
    value: str
    better: str
    description: str
    reference: str


def verdict(checks: Sequence[Check]) -> str:
    """The result of all checks in a few words.

    >>> verdict([Check("mask", ())])
    'The check passes.'
    """
    if not checks:
        return "Not checked."
    failed = [check.name for check in checks if not check.passed]
    if failed:
        return f"{len(failed)} of {len(checks)} checks with warnings: {', '.join(failed)}."
    return "The check passes." if len(checks) == 1 else f"All {len(checks)} checks pass."


def check_tables(content: SubjectContent) -> tuple[CheckTable, ...]:
    """The checks in their order."""
    metrics = {metric.name: metric for metric in content.metrics}
    return tuple(
        CheckTable(
            check.name,
            check.passed,
            tuple(_check_row(one, metrics.get(one.metric)) for one in check.warnings),
            tuple(_check_row(one, metrics.get(one.metric)) for one in check.findings if one.verdict != "warn"),
        )
        for check in content.checks
    )


def qc_rows(content: SubjectContent) -> tuple[MetricRow, ...]:
    """All QC metrics, in the order of the columns."""
    metrics = {metric.name: metric for metric in content.metrics}
    return tuple(
        MetricRow(
            name,
            metric.label if metric else name,
            _with_unit(value, metric),
            _BETTER[metric.better] if metric else "",
            metric.description if metric else "",
            metric.reference if metric else "",
        )
        for name, value in content.qc.items()
        for metric in [metrics.get(name)]
    )


def _check_row(finding: Finding, metric: Metric | None) -> CheckRow:
    return CheckRow(metric.label if metric else finding.metric, _with_unit(finding.value, metric), finding)


def _with_unit(value: object, metric: Metric | None) -> str:
    has_unit = metric is not None and metric.unit not in ("", "1", "n/a") and isinstance(value, (int, float))
    return f"{shown(value)} {metric.unit}" if metric and has_unit else shown(value)
