"""The QC table of the cohort: its rows, and that only new and changed subjects are read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kwneuro_assets.assets.cohort_qc import cohort_qc, ratings_of
from kwneuro_assets.assets.mechanism.group_inputs import MemberValues, Previous
from kwneuro_assets.imaging import NotApplicable, Table
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.resources.deferred_input import Deferred
from kwneuro_assets.settings import CohortMemberSettings, SettingsError
from kwneuro_assets.versioning.records import Recorded


def row(**cells: float) -> Table:
    return Table({name: [cell] for name, cell in cells.items()}, dict.fromkeys(cells, "number"))


class Members:
    """The QC rows of subjects, and which of them were read."""

    def __init__(self, rows: Mapping[str, Value]) -> None:
        self.read: list[str] = []
        self._rows = rows

    def values(self) -> MemberValues:
        deferred = {key: self._deferred(key, value) for key, value in self._rows.items()}
        return MemberValues(deferred, lambda one: one.load())

    def versions(self) -> dict[str, str]:
        return {key: data_version(value) for key, value in self._rows.items()}

    def _deferred(self, key: str, value: Value) -> Deferred:
        def load() -> Value:
            self.read.append(key)
            return value

        return Deferred("dwi_qc", key, Recorded(1, "", data_version(value), "1-0", {}, {}), load)


def table_of(members: Members, previous: Previous | None = None) -> Table:
    table = cohort_qc.compute(members.values(), previous)
    assert isinstance(table, Table)
    return table


def test_there_is_one_row_per_subject_with_the_columns_of_any() -> None:
    members = Members({"sub-02": row(ndc=0.8), "sub-01": row(ndc=0.7, ndc_b1000=0.9)})
    table = table_of(members)
    assert table.columns["participant_id"] == ("sub-01", "sub-02")
    assert table.columns["ndc_b1000"] == (0.9, None)
    assert "session_id" not in table.columns


def test_sessions_have_a_column_of_their_own() -> None:
    table = table_of(Members({"sub-01_ses-a": row(ndc=0.8), "sub-02": row(ndc=0.7)}))
    assert table.columns["participant_id"] == ("sub-01", "sub-02")
    assert table.columns["session_id"] == ("ses-a", None)


def test_a_subject_whose_metrics_are_not_applicable_has_no_row() -> None:
    table = table_of(Members({"sub-01": NotApplicable("no image"), "sub-02": row(ndc=0.7)}))
    assert table.columns["participant_id"] == ("sub-02",)


def test_only_new_and_changed_subjects_are_read_again() -> None:
    before = Members({"sub-01": row(ndc=0.8), "sub-02": row(ndc=0.7), "sub-03": row(ndc=0.6)})
    previous = Previous(table_of(before), before.versions())
    after = Members({"sub-01": row(ndc=0.8), "sub-02": row(ndc=0.5), "sub-04": row(ndc=0.9)})
    table = table_of(after, previous)
    assert after.read == ["sub-02", "sub-04"]
    assert table == table_of(after)
    assert table.columns["participant_id"] == ("sub-01", "sub-02", "sub-04")


def test_a_cohort_without_subjects_has_an_empty_table() -> None:
    assert table_of(Members({})).row_count == 0


def test_an_unusable_file_of_ratings_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "ratings.tsv"
    with pytest.raises(SettingsError, match=r"cohort.ratings: .*ratings.tsv cannot be read: No such file"):
        ratings_of(CohortMemberSettings(ratings=str(file)))
    file.write_text("participant_id\trating\nsub-01\tsplendid\n")
    with pytest.raises(SettingsError, match=r"line 2 of the ratings"):
        ratings_of(CohortMemberSettings(ratings=str(file)))
    file.write_text("participant_id\trating\nsub-01\texclude\n")
    assert ratings_of(CohortMemberSettings(ratings=str(file)))["sub-01"].verdict == "exclude"
    assert ratings_of(CohortMemberSettings()) == {}
