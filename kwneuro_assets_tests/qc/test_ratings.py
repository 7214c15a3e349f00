"""Ratings as text and back, and what people's spreadsheets do to them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.imaging.table import Kind
from kwneuro_assets.qc.ratings import (
    VERDICTS,
    Rating,
    cleaned,
    excluded_subjects,
    format_ratings,
    parse_ratings,
    unknown_subjects,
)
from kwneuro_assets.storage.text import parse_table

LABELS = st.text("abzAZ019+", min_size=1, max_size=8)
KEYS = st.builds(lambda one, two: f"sub-{one}" + (f"_ses-{two}" if two else ""), LABELS, st.just("") | LABELS)
TEXTS = st.text(max_size=30).map(cleaned)
RATINGS = st.dictionaries(
    KEYS,
    st.builds(
        Rating, st.sampled_from(VERDICTS), TEXTS, TEXTS, st.sampled_from(["", "2026-11-27", "2026-11-27T21:10:00Z"])
    ),
    max_size=6,
)
HEADER = "participant_id\trating\tcomment\trater\tdate\n"


@settings(max_examples=60, deadline=None)
@given(RATINGS)
def test_formatted_ratings_are_parsed_to_equal_ratings(ratings: Mapping[str, Rating]) -> None:
    text = format_ratings(ratings)
    assert parse_ratings(text) == ratings
    assert format_ratings(dict(reversed(list(ratings.items())))) == text, "the order of the subjects does not matter"


def test_the_file_is_a_bids_table() -> None:
    text = format_ratings({"sub-02_ses-01": Rating("exclude", "motion", "AB", "2026-11-27"), "sub-01": Rating("good")})
    assert text == (
        "participant_id\tsession_id\trating\tcomment\trater\tdate\n"
        "sub-01\tn/a\tgood\tn/a\tn/a\tn/a\n"
        "sub-02\tses-01\texclude\tmotion\tAB\t2026-11-27\n"
    )
    kinds: dict[str, Kind] = dict.fromkeys(text.splitlines()[0].split("\t"), "text")
    assert parse_table(text, kinds).row_count == 2


def test_what_a_spreadsheet_adds_is_accepted() -> None:
    text = "\ufeffrating\tparticipant_id\tage\r\n Exclude\tsub-01 \t34\r\n\r\nn/a\tsub-02\t41\r\n\t\t\r\n"
    assert parse_ratings(text) == {"sub-01": Rating("exclude")}


def test_a_comment_that_does_not_fit_in_a_cell_is_cleaned_when_it_is_read() -> None:
    assert parse_ratings(f'{HEADER}sub-01\tgood\t"a\u2028b"\t\t\n')["sub-01"].comment == 'a b"'
    with pytest.raises(InvalidData, match="comment: expected text in one line"):
        Rating("good", "two\nlines")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("participant_id,rating\nsub-01,good\n", "columns participant_id, rating, separated by tabs"),
        ("participant_id\tcomment\n", "header of the ratings: expected the columns participant_id, rating"),
        ("participant_id\trating\trating\n", "expected each column once, found rating repeated"),
        (f"{HEADER}sub-01\tgood\n", "line 2 of the ratings: expected 5 cells, found 2"),
        (f"{HEADER}sub-01\tfine\t\t\t\n", "line 2 of the ratings: rating: expected one of good, doubtful, exclude"),
        (f"{HEADER}\n01\tgood\t\t\t\n", "line 3 of the ratings: subject: expected sub-LABEL"),
        (f"{HEADER}sub-../x\tgood\t\t\t\n", "subject: expected sub-LABEL"),
        (f"{HEADER}sub-01\tgood\t\t\t27.11.2026\n", "date: expected 2026-11-27"),
        (f"{HEADER}sub-01\tgood\t\t\t2026-02-31\n", "date: expected 2026-11-27"),
        (f"{HEADER}sub-01\tgood\t\t\t\n\nsub-01\tgood\t\t\t\n", "found sub-01 in the lines 2 and 4"),
        (f"{HEADER}sub-01\t\t\t\t\nsub-01\tgood\t\t\t\n", "found sub-01 in the lines 2 and 3"),
    ],
)  # fmt: skip
def test_an_error_says_where_and_what(text: str, message: str) -> None:
    with pytest.raises(InvalidData) as raised:
        parse_ratings(text)
    assert message in str(raised.value)


def test_subjects_that_do_not_exist_are_found_and_excluded_ones_named() -> None:
    ratings = {"sub-03": Rating("exclude"), "sub-01": Rating("good"), "sub-02_ses-1": Rating("exclude")}
    assert unknown_subjects(ratings, {"sub-01", "sub-02"}) == ("sub-02_ses-1", "sub-03")
    assert excluded_subjects(ratings) == {"sub-03", "sub-02_ses-1"}


def test_a_file_that_cannot_be_formatted_is_refused() -> None:
    with pytest.raises(InvalidData, match="subject: expected sub-LABEL"):
        format_ratings({"sub-<b>": Rating("good")})
