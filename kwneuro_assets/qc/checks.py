"""The checks of a subject: its QC metrics against limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.catalog import metric_of, ordered
from kwneuro_assets.qc.limits import RULES, Limits, Rule
from kwneuro_assets.qc.metrics import CheckName

Verdict = Literal["pass", "warn", "n/a", "information"]

DESCRIPTIONS: Mapping[CheckName, str] = {
    "acquisition": "The gradient table fits the image.",
    "artifacts": "No slice, volume or voxel of the DWI series differs from what the other volumes predict.",
    "mask": "The brain mask is one piece that covers the brain.",
    "model": "The fitted models have values that are physically possible.",
}


@dataclass(frozen=True)
class Finding:
    """One metric of a check: its value, its limit in words (`at least 0.4`, or empty), and the verdict.

    `message` says in one line what a value beyond the limit means, and is empty otherwise.
    """

    metric: str
    value: Cell
    limit: str
    verdict: Verdict
    message: str = ""


@dataclass(frozen=True)
class Check:
    """The result of one check; it passes if no finding is a warning."""

    name: CheckName
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return all(one.verdict != "warn" for one in self.findings)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings beyond their limits."""
        return tuple(one for one in self.findings if one.verdict == "warn")


def evaluate(row: Mapping[str, Cell], limits: Limits) -> tuple[Check, ...]:
    """The four checks acquisition, artifacts, mask and model of a subject, in this order.

    `row` has the subject's QC metrics by column (`dwi_qc`). Each check has a finding for each of its metrics, in the
    order of the catalog. A metric of which the row has no value is `n/a`, whether it has a limit or not; a metric that
    has a limit has a finding even if the row lacks its column, so that the same table is seen for every subject. A
    metric without a limit is `information`: the cohort page judges it among other subjects. Columns that are in no
    check are left out.
    """
    columns = ordered({*row, *(rule.metric for rule in RULES if "{" not in rule.metric)})
    by_check: dict[CheckName, list[Finding]] = {name: [] for name in DESCRIPTIONS}
    for column in columns:
        try:
            metric = metric_of(column)
        except KeyError:  # a column of another tool
            continue
        if metric.check is not None:
            by_check[metric.check].append(_finding(row, column, _RULES.get(metric.name), limits))
    return tuple(Check(name, tuple(findings)) for name, findings in by_check.items())


def _finding(row: Mapping[str, Cell], column: str, rule: Rule | None, limits: Limits) -> Finding:
    value = row.get(column)
    limit = "" if rule is None else rule.in_words(limits)
    if value is None:
        return Finding(column, None, limit, "n/a")
    if rule is None:
        return Finding(column, value, limit, "information")
    if rule.allows(row, column, limits):
        return Finding(column, value, limit, "pass")
    return Finding(column, value, limit, "warn", rule.message)


_RULES: Mapping[str, Rule] = {rule.metric: rule for rule in RULES}
