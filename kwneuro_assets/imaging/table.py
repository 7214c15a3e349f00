"""Tables of measurements: per bundle of one subject, or per subject of a cohort."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Literal

from kwneuro_assets.imaging.errors import InvalidData

Kind = Literal["integer", "number", "text"]
Cell = int | float | str | None

MISSING = "n/a"  # a missing value in BIDS; therefore not allowed as text
_INTEGER_LIMIT = 2**63  # tools that read tables support integers below it


@dataclass(frozen=True, eq=False)
class Table:
    """Columns by name, in the order given, each of one kind; immutable, and equal if order, kinds and cells are.

    `columns` maps a name to its cells: integers (64 bits), finite numbers (float64) or text, or None for a missing
    value. `kinds` maps the same names to "integer", "number" or "text". It is declared, not inferred from the cells, so
    that the kind does not depend on the values. There is at least one column; there may be no rows.

    A table is stored as a BIDS .tsv file, without escapes. Names and text must therefore not be empty or "n/a", start
    with a double quote (readers would join cells up to the next one), or contain a tab or a line break, and UTF-8 must
    be able to encode them. Negative zero becomes zero.

    Raises InvalidData if a name or text is not allowed, if columns differ in length, or if a cell is of another kind.

    >>> table = Table({"bundle": ["AF_left", "CA"], "mean_fa": [0.5, None]}, {"bundle": "text", "mean_fa": "number"})
    >>> table.columns["mean_fa"]
    (0.5, None)
    >>> next(table.rows())
    {'bundle': 'AF_left', 'mean_fa': 0.5}
    """

    columns: Mapping[str, Sequence[Cell]]
    kinds: Mapping[str, Kind]

    def __post_init__(self) -> None:
        names = [_checked_name(name) for name in self.columns]
        if not names:
            raise InvalidData("table", expected="at least one column", found="none")
        if set(names) != set(self.kinds):
            raise InvalidData(
                "kinds of the columns", expected=f"one for each of {names}", found=f"those of {list(self.kinds)}"
            )
        kinds = {name: self.kinds[name] for name in names}
        columns = {name: _checked_cells(name, kinds[name], self.columns[name]) for name in names}
        lengths = {name: len(cells) for name, cells in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidData("columns of the table", expected="one length", found=f"{lengths}")
        object.__setattr__(self, "columns", MappingProxyType(columns))
        object.__setattr__(self, "kinds", MappingProxyType(kinds))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Cell]], kinds: Mapping[str, Kind]) -> Table:
        """A table with the columns of `kinds`, in that order; a cell that a row lacks is a missing value.

        Raises InvalidData if a row has a name that `kinds` lacks, and as Table does.
        """
        rows = list(rows)
        for number, row in enumerate(rows, 1):
            if unknown := [name for name in row if name not in kinds]:
                raise InvalidData(f"row {number}", expected=f"names among {list(kinds)}", found=f"{unknown}")
        return cls({name: [row.get(name) for row in rows] for name in kinds}, kinds)

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(next(iter(self.columns.values())))

    def rows(self) -> Iterator[dict[str, Cell]]:
        """Yields each row as a dictionary from column name to cell."""
        for cells in zip(*self.columns.values(), strict=True):
            yield dict(zip(self.columns, cells, strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return tuple(self.columns.items()), tuple(self.kinds.items())


def _checked_cells(name: str, kind: Kind, cells: Sequence[Cell]) -> tuple[Cell, ...]:
    if kind not in _CHECKS:
        raise InvalidData(f"kind of column {name!r}", expected=f"one of {', '.join(_CHECKS)}", found=repr(kind))
    if isinstance(cells, str):  # a sequence of its characters, too
        raise InvalidData(f"column {name!r}", expected="a sequence of cells", found=f"the text {cells!r}")
    check, checked = _CHECKS[kind], list[Cell]()
    for number, cell in enumerate(cells, 1):
        try:
            checked.append(None if cell is None else check(cell))
        except _Refused as refused:  # only then is the message composed: a cohort has millions of cells
            where = f"column {name!r}, row {number}"
            raise InvalidData(where, expected=str(refused), found=repr(cell)) from None
    return tuple(checked)


def _checked_name(name: object) -> str:
    try:
        return _checked_text(name)
    except _Refused as refused:
        raise InvalidData("name of a column", expected=str(refused), found=repr(name)) from None


class _Refused(ValueError):
    """A cell that is not allowed; the message says what is expected."""


def _checked_integer(cell: object) -> int:
    if not isinstance(cell, Integral) or isinstance(cell, bool) or not -_INTEGER_LIMIT <= int(cell) < _INTEGER_LIMIT:
        raise _Refused("an integer of 64 bits, or None for a missing value")
    return int(cell)


def _checked_number(cell: object) -> float:
    if isinstance(cell, (float, Real)) and not isinstance(cell, bool):
        try:
            number = float(cell)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and number == cell:
            return number + 0.0  # negative zero becomes zero: equal tables have equal files
    raise _Refused("a finite number of float64, or None for a missing value")


def _checked_text(cell: object) -> str:
    if not isinstance(cell, str):
        raise _Refused("text")
    if (
        cell in ("", MISSING)
        or cell.startswith('"')
        or "\t" in cell
        or cell.splitlines() != [cell]
        or not _encodes(cell)
    ):
        raise _Refused(f"text in one line, not empty, not {MISSING!r}, without tabs, not starting with a double quote")
    return str(cell)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot encode
        return False
    return True


_CHECKS: dict[str, Callable[[object], Cell]] = {
    "integer": _checked_integer,
    "number": _checked_number,
    "text": _checked_text,
}
