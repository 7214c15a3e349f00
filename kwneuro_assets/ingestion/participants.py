"""`participants.tsv` of the source: what the cohort page groups by, and tables are joined with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kwneuro_assets.imaging.table import MISSING
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.files import read_bytes
from kwneuro_assets.storage.location import location

FILE = "participants.tsv"
_ID = "participant_id"


class Participants(Mapping[str, Mapping[str, str]]):
    """The rows of `participants.tsv`, by participant (`sub-01`); cells that are `n/a` or empty are left out.

    `problems` says in one line each what of the file cannot be used: it never stops a report.
    """

    def __init__(self, rows: Mapping[str, Mapping[str, str]], columns: Sequence[str], problems: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.problems = tuple(problems)
        self._rows = dict(rows)

    def __getitem__(self, participant: str) -> Mapping[str, str]:
        return self._rows[participant]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> dict[str, str]:
        """The cells of a column, by participant."""
        return {participant: row[name] for participant, row in self._rows.items() if name in row}


def read_participants(settings: SourceSettings) -> Participants:
    """The participants of the source dataset; none if it has no such file. Raises StorageError."""
    path = location(settings.url, anonymous=settings.anonymous) / FILE
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return Participants({}, (), ())
    except OSError as error:
        return Participants({}, (), [f"{FILE}: cannot be read: {error.strerror or error}"])
    return parse_participants(content)


def parse_participants(content: bytes) -> Participants:
    """The participants in the content of the file.

    >>> found = parse_participants(b"participant_id\\tage\\tsite\\nsub-01\\t31\\tA\\nsub-02\\tn/a\\tB\\n")
    >>> found.column("age"), found.columns
    ({'sub-01': '31'}, ('participant_id', 'age', 'site'))
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Participants({}, (), [f"{FILE}: expected UTF-8 text"])
    lines = [line.split("\t") for line in text.splitlines() if line.strip()]
    header = [name.strip() for name in lines[0]] if lines else []
    if _ID not in header or len(set(header)) != len(header):
        return Participants({}, (), [f"{FILE}: expected a header with {_ID} and each column once"])
    rows: dict[str, Mapping[str, str]] = {}
    problems: list[str] = []
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(header):
            problems.append(f"{FILE}, line {number}: expected {len(header)} cells, found {len(cells)}")
            continue
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        participant = row[_ID] if row[_ID].startswith("sub-") else f"sub-{row[_ID]}"
        if participant in rows:
            problems.append(f"{FILE}, line {number}: {participant} has a row already; the first one is used")
            continue
        rows[participant] = {name: cell for name, cell in row.items() if name != _ID and cell not in ("", MISSING)}
    return Participants(rows, header, problems)
