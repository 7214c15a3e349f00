"""Tables as BIDS .tsv text: tabs between cells, a header, `n/a` for missing values, a line feed after each line.

A table has exactly one text, and only that text is parsed: manual edits are reported, never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kwneuro_assets.imaging import InvalidData, Table
from kwneuro_assets.imaging.table import MISSING, Cell, Kind

_READERS: dict[str, Callable[[str], Cell]] = {"integer": int, "number": float, "text": str}


def format_table(table: Table) -> str:
    """The text of `table`, to be encoded as UTF-8. Numbers have the fewest digits that reproduce them exactly."""
    rows = zip(*table.columns.values(), strict=True)
    lines = ["\t".join(table.columns), *("\t".join(map(_format_cell, row)) for row in rows)]
    return "".join(f"{line}\n" for line in lines)


def parse_table(text: str, kinds: Mapping[str, Kind]) -> Table:
    """The table that `format_table` wrote as `text`; `kinds` are the kinds of its columns.

    Raises InvalidData, with the line, if `format_table` would write another text.
    """
    header, *lines = text.split("\n")
    names = header.split("\t")
    if sorted(names) != sorted(kinds):
        raise InvalidData("header of the table", expected=f"the columns {list(kinds)}", found=f"{names}")
    if not lines or lines.pop():
        raise InvalidData("table", expected="a line feed at its end", found="the text ends before it")
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise InvalidData(f"line {number} of the table", expected=f"{len(names)} cells", found=f"{len(row)}")
    columns = {name: _parse_column(name, kinds[name], [row[at] for row in rows]) for at, name in enumerate(names)}
    table = Table(columns, kinds)
    _require_same(format_table(table), text)
    return table


def _format_cell(cell: Cell) -> str:
    if cell is None:
        return MISSING
    return cell if isinstance(cell, str) else repr(cell)


def _parse_column(name: str, kind: Kind, cells: list[str]) -> list[Cell]:
    read = _READERS.get(kind, str)  # Table refuses an unknown kind
    try:
        return [None if cell == MISSING else read(cell) for cell in cells]
    except ValueError as error:
        raise InvalidData(f"column {name!r}", expected=f"cells of the kind {kind!r}", found=str(error)) from None


def _require_same(written: str, text: str) -> None:
    """Python reads `1_0`, ` 1` and `1.50` as numbers, too, but `format_table` never writes them."""
    for number, (expected, found) in enumerate(zip(written.split("\n"), text.split("\n"), strict=True), 1):
        if expected != found:
            raise InvalidData(f"line {number} of the table", expected=repr(expected), found=repr(found))
