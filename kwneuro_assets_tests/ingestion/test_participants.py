"""`participants.tsv`: what is read, and that a bad file never stops a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwneuro_assets.ingestion.participants import parse_participants, read_participants
from kwneuro_assets.settings import SourceSettings


def test_the_rows_are_found_by_participant() -> None:
    found = parse_participants(b"participant_id\tage\tsite\nsub-01\t31\tA\nsub-02\tn/a\tB\n")
    assert dict(found) == {"sub-01": {"age": "31", "site": "A"}, "sub-02": {"site": "B"}}
    assert found.column("site") == {"sub-01": "A", "sub-02": "B"}
    assert found.problems == ()


def test_what_spreadsheets_add_is_accepted() -> None:
    found = parse_participants("\ufeffparticipant_id\tsite\r\nsub-01\tZürich \r\n\r\n02\tB\r\n".encode())
    assert dict(found) == {"sub-01": {"site": "Zürich"}, "sub-02": {"site": "B"}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"sub-01\tA\n", "expected a header with participant_id"),
        (b"participant_id\tsite\tsite\nsub-01\tA\tB\n", "each column once"),
        (b"", "expected a header"),
        (b"\xff\xfe\x00", "expected UTF-8 text"),
    ],
)
def test_an_unusable_file_is_a_problem_and_no_error(content: bytes, problem: str) -> None:
    found = parse_participants(content)
    assert len(found) == 0
    assert problem in found.problems[0]


def test_bad_lines_are_named_and_the_others_are_used() -> None:
    found = parse_participants(b"participant_id\tsite\nsub-01\tA\nsub-02\nsub-01\tB\nsub-03\tC\n")
    assert found.column("site") == {"sub-01": "A", "sub-03": "C"}
    assert [problem.partition(":")[0] for problem in found.problems] == [
        "participants.tsv, line 3",
        "participants.tsv, line 4",
    ]


def test_a_source_without_the_file_has_no_participants(tmp_path: Path) -> None:
    assert len(read_participants(SourceSettings(url=str(tmp_path)))) == 0
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\nsub-01\tA\n")
    assert read_participants(SourceSettings(url=str(tmp_path))).column("site") == {"sub-01": "A"}
