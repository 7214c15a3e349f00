"""All QC metrics: what a column of a QC row means, and the order of the columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kwneuro_assets.imaging import Table
from kwneuro_assets.qc.brain import MASK_METRICS
from kwneuro_assets.qc.brain_signal import BRAIN_SIGNAL_METRICS
from kwneuro_assets.qc.bundles import BUNDLE_METRICS
from kwneuro_assets.qc.external import PROGRAMS, external_metric, is_external
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.qc.microstructure import NODDI_METRICS
from kwneuro_assets.qc.peaks import PEAK_METRICS
from kwneuro_assets.qc.response import RESPONSE_METRICS
from kwneuro_assets.qc.signal import SIGNAL_METRICS
from kwneuro_assets.qc.tensor_fit import TENSOR_METRICS
from kwneuro_assets.qc.white_matter import WHITE_MATTER_METRICS

FAILED = Metric(
    name="metrics_failed",
    label="Metrics that could not be computed",
    description="Groups of metrics whose computation ended with an unexpected error, which the log of the run has, or "
    "`none`. Their columns are n/a.",
    unit="",
    better="neither",
    check="acquisition",
    kind="text",
)

CATALOG: tuple[Metric, ...] = (
    *SIGNAL_METRICS,
    *MASK_METRICS,
    *BRAIN_SIGNAL_METRICS,
    *WHITE_MATTER_METRICS,
    *TENSOR_METRICS,
    *NODDI_METRICS,
    *RESPONSE_METRICS,
    *PEAK_METRICS,
    *BUNDLE_METRICS,
    FAILED,
)

# Columns of a cohort's table that are no metrics, in BIDS's words.
IDENTITY: Mapping[str, Mapping[str, Any]] = {
    "participant_id": {"LongName": "Participant", "Description": "Unique participant identifier"},
    "session_id": {"LongName": "Session", "Description": "Session identifier"},
}

_POSITIONS = {metric.name: position for position, metric in enumerate(CATALOG)}
_EXACT = {metric.name: metric for metric in CATALOG if "{" not in metric.name}


def _pattern(name: str) -> re.Pattern[str]:
    """The columns of a metric whose name has a place for a shell or a bundle."""
    shell, bundle = re.escape("{shell}"), re.escape("{bundle}")
    return re.compile(re.escape(name).replace(shell, r"(?P<shell>\d+)").replace(bundle, r"(?P<bundle>.+)"))


_PATTERNS = [(_pattern(metric.name), metric) for metric in CATALOG if "{" in metric.name]


def metric_of(column: str) -> Metric:
    """The metric of a column, with the shell or bundle of the column in its label and description.

    The name remains that of the metric: `ndc_b{shell}` for the column `ndc_b1000`. Columns of preprocessing that are
    not known here have a metric that says where they come from. Raises KeyError for any other column.

    >>> metric_of("bundle_volume_ml_CST_left").label
    'Volume of CST_left'
    """
    if column in _EXACT:
        return _EXACT[column]
    for pattern, metric in _PATTERNS:
        if found := pattern.fullmatch(column):
            return _filled(metric, found.groupdict())
    return external_metric(column)


def column_metric(column: str) -> Metric:
    """The metric of a column, under the name of the column. Raises KeyError as `metric_of`.

    >>> column_metric("ndc_b1000").name, metric_of("ndc_b1000").name
    ('ndc_b1000', 'ndc_b{shell}')
    """
    return replace(metric_of(column), name=column)


def ordered(columns: Iterable[str]) -> list[str]:
    """The columns in the order of the catalog: shells ascending, bundles by name, then those of preprocessing.

    Columns that have no metric come last, by name.

    >>> ordered(["other", "qsiprep_mean_fd", "bundle_volume_ml_CA", "bundle_volume_ml_AF_left", "mask_pieces"])
    ['mask_pieces', 'bundle_volume_ml_AF_left', 'bundle_volume_ml_CA', 'qsiprep_mean_fd', 'other']
    """
    return sorted(columns, key=_place)


def data_dictionary(table: Table) -> Mapping[str, Any]:
    """The BIDS data dictionary of a QC table: for each column, in its order, long name, description, unit, direction.

    A column that has no metric, and is not `participant_id` or `session_id`, has no entry.
    """
    entries = {}
    for column in table.columns:
        if column in IDENTITY:
            entries[column] = IDENTITY[column]
        elif _is_known(column):
            entries[column] = metric_of(column).to_json()
    return entries


def _filled(metric: Metric, places: Mapping[str, str]) -> Metric:
    label, description = metric.label, metric.description
    for name, value in places.items():  # not by `format`: a description may have other braces
        label, description = (text.replace(f"{{{name}}}", value) for text in (label, description))
    return replace(metric, label=label, description=description)


def _is_known(column: str) -> bool:
    try:
        metric_of(column)
    except KeyError:
        return False
    return True


def _place(column: str) -> tuple[int, str]:
    """The position of its metric, and its name with numbers of equal length: b500 is before b1000."""
    name = re.sub(r"\d+", lambda digits: digits[0].zfill(9), column)
    if not _is_known(column):
        return len(CATALOG) + len(PROGRAMS), name
    if is_external(column):
        return len(CATALOG) + [column.startswith(prefix) for prefix in PROGRAMS].index(True), name
    return _POSITIONS[metric_of(column).name], name
