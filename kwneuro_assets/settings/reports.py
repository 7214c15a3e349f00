"""Settings of the reports of a subject and of the cohort."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kwneuro_assets.settings.quality import OutlierSettings
from kwneuro_assets.settings.section import Section

Rated = Literal["exclude", "doubtful", "good"]


class ReportSettings(Section):
    """Settings of `subject_report`."""

    embed: bool = Field(
        False,
        description="Put the figures and the viewer into each report, which is then one file of about 8 MB. Otherwise, "
        "a report links to files of its store.",
    )


class CohortMemberSettings(Section):
    """Which subjects belong to the cohort."""

    ratings: str | None = Field(
        None,
        description="File of ratings that the cohort page saved (ratings.tsv).",
        json_schema_extra={"format": "file"},
    )
    exclude: tuple[Rated, ...] = Field(
        ("exclude",), description="Ratings with which a subject is left out of tables and statistics of the cohort."
    )


class CohortSettings(CohortMemberSettings, OutlierSettings):
    """The section `cohort`: members and the cohort page."""

    group_by: tuple[str, ...] = Field(
        ("site", "scanner", "manufacturer"),
        description="Columns of participants.tsv; the first that exists divides the cohort into groups with outliers "
        "of their own.",
    )
