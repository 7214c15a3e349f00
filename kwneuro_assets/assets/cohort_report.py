"""The cohort page: the QC of all subjects at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import PurePosixPath

from kwneuro_assets.assets.cohort_qc import cohort_members, ratings_of
from kwneuro_assets.assets.derivative import Project, derivative
from kwneuro_assets.imaging import Report, Table
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.ingestion.ingest_index import unusable_subjects, usable_subjects
from kwneuro_assets.ingestion.participants import Participants, read_participants
from kwneuro_assets.qc.catalog import IDENTITY, column_metric
from kwneuro_assets.qc.checks import evaluate
from kwneuro_assets.qc.cohort_table import PARTICIPANT, key_of
from kwneuro_assets.qc.metrics import CheckName
from kwneuro_assets.qc.outliers import outliers
from kwneuro_assets.reports.cohort_content import CohortContent, Failure
from kwneuro_assets.reports.cohort_page import cohort_page
from kwneuro_assets.settings import CohortSettings, QualityLimitSettings
from kwneuro_assets.versioning.source_names import source_names
from kwneuro_assets.versioning.staleness import CohortStatus, cohort_status, count_states

QC, REPORT = "dwi_qc", "subject_report"
MAX_NOTES = 20  # of a file of participants that is another format altogether, each line is a problem


@derivative(
    group="quality",
    version=1,
    figure=None,
    summary=lambda report, inputs: {"size_mb": round(len(report.html) / 1e6, 3)},
    kinds={"html"},
    members=cohort_members,
    is_snapshot=True,
)
def cohort_report(cohort_qc: Table, settings: CohortSettings, limits: QualityLimitSettings, project: Project) -> Report:
    """Page with the QC metrics of all subjects: distributions, outliers, a table, images, ratings and states.

    Outliers are judged by robust z scores within the groups of `cohort.group_by`. Ratings are given on the page, saved
    as `ratings.tsv` and read by the next run through `cohort.ratings`. The page is a snapshot: each materialization
    shows the states of that moment.

    | content | unit |
    |---|---|
    | HTML page at the root of the store, which links to the reports of the subjects | |
    """
    participants = read_participants(project.settings.source)
    name, groups = _groups(participants, cohort_qc, settings)
    states = _states(project)
    keys = [key_of(row) for row in cohort_qc.rows()]
    content = CohortContent(
        dataset=PurePosixPath(project.settings.source.url.rstrip("/")).name,
        version=version("kwneuro-assets"),
        table=cohort_qc,
        metrics={column: column_metric(column) for column in cohort_qc.columns if column not in IDENTITY},
        outliers=outliers(
            cohort_qc,
            [groups.get(key) for key in keys] if groups else None,
            max_z=settings.max_robust_z,
            min_group_size=settings.min_group_size,
        ),
        max_z=settings.max_robust_z,
        failed_checks=_failed_checks(cohort_qc, limits),
        group_name=name,
        groups=groups,
        states={
            asset: {str(state): n for state, n in counts.items()} for asset, counts in count_states(states).items()
        },
        failures=[
            Failure(subject, asset, status.why[0] if status.why else "")
            for subject, row in states.items()
            for asset, status in row.items()
            if status.state == "failed"
        ],
        quarantined={
            key: one.reason
            for key, one in unusable_subjects(project.instance, project.settings).items()
            if one.problem == "quarantined"
        },
        ratings=ratings_of(settings),
        ratings_file=settings.ratings or "ratings.tsv",
        reports=frozenset(_with(states, REPORT)),
        images=frozenset(_with(states, QC)),
        notes=participants.problems[:MAX_NOTES],
    )
    return Report(cohort_page(content))


def _states(project: Project) -> CohortStatus:
    """The status of each derivative of the subjects that can be used."""
    from kwneuro_assets.assets import derivatives

    instance, settings = project.instance, project.settings
    subjects = usable_subjects(instance, settings)
    return cohort_status(instance, settings, derivatives(settings), source_names(settings), subjects)


def _with(states: CohortStatus, asset: str) -> list[str]:
    """The subjects for which the asset was materialized and is in the store."""
    return [
        subject
        for subject, row in states.items()
        if asset in row
        and row[asset].data_version is not None
        and row[asset].state not in ("missing", "not-applicable")
    ]


def _failed_checks(table: Table, limits: QualityLimitSettings) -> dict[str, list[CheckName]]:
    failed: dict[str, list[CheckName]] = {}
    for row in table.rows():
        names = [check.name for check in evaluate(_metrics(row), limits) if not check.passed]
        if names:
            failed[key_of(row)] = names
    return failed


def _metrics(row: Mapping[str, Cell]) -> dict[str, Cell]:
    """The row without columns of other subjects' shells."""
    return {name: cell for name, cell in row.items() if cell is not None}


def _groups(participants: Participants, table: Table, settings: CohortSettings) -> tuple[str, dict[str, str]]:
    """The name of the grouping column and the group of each subject; no groups if no column exists."""
    column = _first(settings.group_by, participants.columns)
    if column is None:
        return "group", {}
    cells = participants.column(column)
    rows = [(key_of(row), str(row[PARTICIPANT])) for row in table.rows()]
    return column, {key: cells[participant] for key, participant in rows if participant in cells}


def _first(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in columns), None)
