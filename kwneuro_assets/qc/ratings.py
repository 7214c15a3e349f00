"""Ratings of subjects, given by people: `ratings.tsv`, which the cohort page saves and the next run reads."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast, get_args

from kwneuro_assets.imaging.errors import InvalidData, located
from kwneuro_assets.imaging.table import MISSING
from kwneuro_assets.subjects import SubjectKey

Verdict = Literal["good", "doubtful", "exclude"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

_REQUIRED = ("participant_id", "rating")
_OPTIONAL = ("session_id", "comment", "rater", "date")
_BYTE_ORDER_MARK = "\ufeff"  # Excel writes it
_LINE_END = re.compile(r"\r\n|\r|\n")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?Z?)?")


@dataclass(frozen=True)
class Rating:
    """The rating of one subject, or of one session of a subject.

    Attributes:
        verdict: `good`, `doubtful`, or `exclude`: leave the subject out of the group.
        comment: Free text in one line; may be empty.
        rater: Who rated; may be empty.
        date: When, in ISO 8601: `2026-11-27` or `2026-11-27T21:10:00Z`, UTC; may be empty.

    Raises InvalidData if a text does not fit in one cell of a BIDS table, or the date is no date.
    """

    verdict: Verdict
    comment: str = ""
    rater: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InvalidData("rating", expected=f"one of {', '.join(VERDICTS)}", found=repr(self.verdict))
        for name in ("comment", "rater"):
            text = getattr(self, name)
            if text != cleaned(text):
                raise InvalidData(
                    name,
                    expected=f"text in one line, not {MISSING!r}, without tabs and surrounding spaces, "
                    "not starting with a double quote",
                    found=repr(text),
                )
        if self.date and not _is_date(self.date):
            raise InvalidData("date", expected="2026-11-27 or 2026-11-27T21:10:00Z", found=repr(self.date))


def cleaned(text: str) -> str:
    """The text as a cell of a BIDS table can have it: in one line, single spaces, no double quote in front.

    >>> cleaned('"moved"\\tin the\\nsecond half ')
    'moved" in the second half'
    """
    line = " ".join(text.split()).lstrip('" ')
    return "" if line == MISSING else line


def parse_ratings(text: str) -> Mapping[str, Rating]:
    """The ratings in the text of a `ratings.tsv`, by subject key (`sub-01` or `sub-01_ses-02`), in the file's order.

    The columns `participant_id` and `rating` are required; `session_id`, `comment`, `rater` and `date` may be absent,
    other columns are ignored, and the order of the columns is free. What spreadsheets add is accepted: a byte order
    mark, other line ends, blank lines, upper case in `rating`. A row whose rating is `n/a` or empty is not rated.

    Raises InvalidData, with the line, for an absent or repeated column, a row of another length, an unknown rating, a
    subject that is no BIDS label, a subject in two rows, and as `Rating` does.

    >>> parse_ratings("participant_id\\trating\\tcomment\\nsub-01\\texclude\\tmotion\\n")
    {'sub-01': Rating(verdict='exclude', comment='motion', rater='', date='')}
    """
    lines = enumerate(_LINE_END.split(text.removeprefix(_BYTE_ORDER_MARK)), 1)
    filled = [(number, line.split("\t")) for number, line in lines if line.strip()]
    if not filled:
        raise InvalidData("ratings", expected=f"a header with the columns {_columns(_REQUIRED)}", found="an empty file")
    header = _checked_header([name.strip() for name in filled[0][1]])
    ratings: dict[str, Rating] = {}
    lines_of: dict[str, int] = {}
    for number, cells in filled[1:]:
        if len(cells) != len(header):
            raise InvalidData(f"line {number} of the ratings", expected=f"{len(header)} cells", found=f"{len(cells)}")
        with located(f"line {number} of the ratings"):
            key, rating = _parsed_row(dict(zip(header, map(_cell, cells), strict=True)))
        if key in lines_of:
            raise InvalidData(
                "ratings",
                expected="one row for each subject and session",
                found=f"{key} in the lines {lines_of[key]} and {number}",
                remedy="Remove one of them.",
            )
        lines_of[key] = number
        if rating is not None:
            ratings[key] = rating
    return ratings


def format_ratings(ratings: Mapping[str, Rating]) -> str:
    """The text of `ratings.tsv`, to be encoded as UTF-8: sorted by subject, `n/a` for an empty text.

    There is a column `session_id` if a subject has a session. `parse_ratings` gives back equal ratings.

    Raises InvalidData if a subject is no BIDS label.
    """
    keys = sorted(map(SubjectKey.parse, ratings), key=str)
    with_sessions = any(key.session for key in keys)
    header = ["participant_id", *(["session_id"] if with_sessions else []), "rating", "comment", "rater", "date"]
    rows = [_row(key, ratings[str(key)], with_sessions) for key in keys]
    return "".join("\t".join(cell or MISSING for cell in row) + "\n" for row in (header, *rows))


def unknown_subjects(ratings: Iterable[str], subjects: Collection[str]) -> tuple[str, ...]:
    """The rated subjects that are not among `subjects`, sorted: misspelled, or no longer in the source."""
    return tuple(sorted(set(ratings).difference(subjects)))


def excluded_subjects(ratings: Mapping[str, Rating]) -> frozenset[str]:
    """The subjects whose rating is `exclude`."""
    return frozenset(key for key, rating in ratings.items() if rating.verdict == "exclude")


def _checked_header(header: list[str]) -> list[str]:
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        raise InvalidData(
            "header of the ratings",
            expected=f"the columns {_columns(_REQUIRED)}, separated by tabs",
            found=_columns(header),
            remedy="Save the file as text with tabs between the cells.",
        )
    repeated = sorted({name for name in header if header.count(name) > 1 and name in (*_REQUIRED, *_OPTIONAL)})
    if repeated:
        raise InvalidData("header of the ratings", expected="each column once", found=f"{_columns(repeated)} repeated")
    return header


def _parsed_row(row: Mapping[str, str]) -> tuple[str, Rating | None]:
    participant, session = row["participant_id"], row.get("session_id", "")
    key = str(SubjectKey.parse(f"{participant}_{session}" if session else participant))
    verdict = row["rating"].lower()
    if not verdict:
        return key, None
    texts = {name: cleaned(row.get(name, "")) for name in ("comment", "rater")}
    return key, Rating(cast(Verdict, verdict), **texts, date=row.get("date", ""))


def _row(key: SubjectKey, rating: Rating, with_session: bool) -> list[str]:
    session = [f"ses-{key.session}" if key.session else ""] if with_session else []
    return [f"sub-{key.subject}", *session, rating.verdict, rating.comment, rating.rater, rating.date]


def _cell(text: str) -> str:
    stripped = text.strip()
    return "" if stripped == MISSING else stripped


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:  # there is no 31 February
        return False
    return True


def _columns(names: Iterable[str]) -> str:
    return ", ".join(names)
