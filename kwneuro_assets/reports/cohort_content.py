"""What the cohort page shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.table import Table
from kwneuro_assets.qc.metrics import CheckName, Metric
from kwneuro_assets.qc.ratings import Rating

if TYPE_CHECKING:
    from kwneuro_assets.qc.outliers import Outliers

PARTICIPANT, SESSION = "participant_id", "session_id"


@dataclass(frozen=True)
class Failure:
    """A derivative that could not be computed: subject, asset, and the reason as its error says it."""

    subject: str
    asset: str
    reason: str


@dataclass(frozen=True, eq=False)
class CohortContent:
    """The QC metrics of a cohort, and the state of its derivatives.

    Subjects are named by their keys, `sub-01` or `sub-01_ses-02`. All texts may contain anything: the page shows them
    as text.

    Attributes:
        dataset: The name of the dataset.
        version: The version of this package.
        table: One row per subject: `participant_id`, `session_id` in datasets with sessions, then metrics.
        metrics: The metric of each column other than those two.
        outliers: The robust z-scores of the columns that are numbers, row by row of `table`.
        max_z: The limit of those scores.
        failed_checks: The checks that failed, by subject.
        group_name: What the groups are: `scanner`, `site`.
        groups: The scanner or site of each subject that has one; empty if subjects are not grouped.
        states: How many derivatives are in each state, by asset, in the order to show.
        failures: The failed derivatives.
        quarantined: The reason for each quarantined subject.
        ratings: The ratings that the last run read. Those of subjects without a row are saved again, too.
        ratings_file: Where the user puts the saved ratings, for the next run to read.
        reports: The subjects that have a report, `<key>.html` beside the page.
        notes: What could not be used, such as lines of `participants.tsv`.
        images: The subjects that have a QC figure, `sub-01[/ses-02]/dwi/<key>_desc-image_qc_figure.png` from the page.

    Raises InvalidData if two rows have one subject, a row has none, a column has no metric, or the scores do not
    belong to the table.
    """

    dataset: str
    version: str
    table: Table
    metrics: Mapping[str, Metric]
    outliers: Outliers
    max_z: float
    failed_checks: Mapping[str, Collection[CheckName]] = field(default_factory=dict)
    group_name: str = "group"
    groups: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    quarantined: Mapping[str, str] = field(default_factory=dict)
    ratings: Mapping[str, Rating] = field(default_factory=dict)
    ratings_file: str = "ratings.tsv"
    reports: Collection[str] = frozenset()
    images: Collection[str] = frozenset()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        _require_participants(self.table)
        if repeated := len(self.keys) - len(set(self.keys)):
            raise InvalidData("cohort table", expected="one row per subject", found=f"{repeated} rows more than that")
        if unknown := [name for name in self.metric_columns if name not in self.metrics]:
            raise InvalidData("metrics", expected="one for each column of the table", found=f"none for {unknown}")
        expected = self.table.row_count, len(self.outliers.columns)
        numbers = {name for name in self.metric_columns if self.table.kinds[name] != "text"}
        if self.outliers.z.shape != expected or self.outliers.beyond.shape != expected:
            raise InvalidData("outliers", expected=f"shape {expected}", found=f"{self.outliers.z.shape}")
        if unknown := sorted(set(self.outliers.columns) - numbers):
            raise InvalidData("outliers", expected="columns of the table that are numbers", found=f"{unknown}")

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of the subject of each row."""
        columns = self.table.columns
        sessions = columns.get(SESSION, [None] * self.table.row_count)
        return tuple(
            f"{participant}_{session}" if session is not None else str(participant)
            for participant, session in zip(columns[PARTICIPANT], sessions, strict=True)
        )

    @property
    def metric_columns(self) -> tuple[str, ...]:
        """The columns of the table that are metrics."""
        return tuple(name for name in self.table.columns if name not in (PARTICIPANT, SESSION))


def _require_participants(table: Table) -> None:
    if PARTICIPANT not in table.columns:
        raise InvalidData("cohort table", expected=f"a column {PARTICIPANT}", found=f"{list(table.columns)}")
    if None in table.columns[PARTICIPANT]:
        raise InvalidData(f"column {PARTICIPANT}", expected="a subject in each row", found="a missing value")
