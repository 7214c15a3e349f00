"""The QC metrics of all subjects."""

from __future__ import annotations

from pathlib import Path

from dagster import DagsterInstance

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.assets.mechanism.group_inputs import MemberValues, Previous
from kwneuro_assets.imaging import InvalidData, Table
from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.ingestion.ingest_index import usable_subjects
from kwneuro_assets.qc.catalog import data_dictionary
from kwneuro_assets.qc.cohort_table import cohort_table, key_of
from kwneuro_assets.qc.ratings import Rating, parse_ratings
from kwneuro_assets.settings import CohortMemberSettings, PipelineSettings, SettingsError


def ratings_of(settings: CohortMemberSettings) -> dict[str, Rating]:
    """The ratings in the file of the settings, by subject key; none if no file is set.

    Raises SettingsError if the file cannot be read or is not a table of ratings.
    """
    if settings.ratings is None:
        return {}
    file = Path(settings.ratings).expanduser()
    try:
        return dict(parse_ratings(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, InvalidData) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"cohort.ratings: {file} cannot be read: {reason}") from None


def cohort_members(instance: DagsterInstance, settings: PipelineSettings) -> list[str]:
    """The subjects of the cohort, sorted: neither quarantined nor removed from the source, nor excluded by a rating.

    Raises SettingsError as `ratings_of` does.
    """
    chosen = settings.cohort
    excluded = {key for key, rating in ratings_of(chosen).items() if rating.verdict in chosen.exclude}
    return [subject for subject in usable_subjects(instance, settings) if subject not in excluded]


@derivative(
    group="quality",
    version=1,
    figure=None,
    summary=lambda table, inputs: {"subjects": table.row_count, "metrics": len(table.columns)},
    kinds={"tsv", "parquet"},
    libraries=("pyarrow",),
    dictionary=data_dictionary,
    members=cohort_members,
    follows_members=True,
)
def cohort_qc(dwi_qc: MemberValues, previous: Previous | None) -> Table:
    """QC metrics of all subjects of the cohort, one row each, sorted by subject.

    Computed on request; `status` says which subjects are new or changed since. Only these are read again. Subjects with
    a rating that `cohort.exclude` names are left out.

    | content | unit |
    |---|---|
    | table; the sidecar has formula, unit and reference of each column | see the sidecar |
    """
    unchanged: dict[str, dict[str, Cell]] = {}
    if previous is not None and isinstance(previous.value, Table):
        before = previous.input_data_versions
        for row in previous.value.rows():
            subject = key_of(row)
            if subject in dwi_qc and dwi_qc.data_version(subject) == before.get(subject):
                unchanged[subject] = row
    rows = {}
    for subject in dwi_qc:
        if subject in unchanged:
            rows[subject] = unchanged[subject]
        elif isinstance(value := dwi_qc[subject], Table):
            rows[subject] = next(value.rows())
    return cohort_table(rows)
