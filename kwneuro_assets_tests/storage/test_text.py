"""Tables as BIDS .tsv text: each table has one text, and no other text is accepted."""

from __future__ import annotations

import csv
import io
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kwneuro_assets.imaging import InvalidData, Table
from kwneuro_assets.imaging.table import Cell, Kind
from kwneuro_assets.storage.text import format_table, parse_table

BUNDLES = Table(
    {"bundle": ["AF_left", "1e3", None], "voxels": [812, None, 0], "mean_fa": [0.1, 1e-300, None]},
    {"bundle": "text", "voxels": "integer", "mean_fa": "number"},
)
TEXT = "bundle\tvoxels\tmean_fa\nAF_left\t812\t0.1\n1e3\tn/a\t1e-300\nn/a\t0\tn/a\n"


def fits_tsv(text: str) -> bool:
    """Whether the strategy may draw it: str.splitlines knows more line ends than the excluded categories."""
    return text != "n/a" and not text.startswith('"') and text.splitlines() == [text]


printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=8).filter(fits_tsv)
like_another_kind = st.sampled_from(["1", "-0.0", "1e5", "nan", "N/A", "NA", "None", "true", " ", "#", "'"])
CELLS: dict[Kind, st.SearchStrategy[Cell]] = {
    "integer": st.integers(-(2**63), 2**63 - 1),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "text": printable | like_another_kind,
}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    names = draw(st.lists(printable, min_size=1, max_size=4, unique=True))
    rows = draw(st.integers(0, 5))
    kinds = {name: draw(st.sampled_from(list(CELLS))) for name in names}
    cells = {kind: st.lists(st.none() | CELLS[kind], min_size=rows, max_size=rows) for kind in CELLS}
    return Table({name: draw(cells[kind]) for name, kind in kinds.items()}, kinds)


def bits(table: Table) -> list[list[object]]:
    """The cells, floats as their bits, which == does not compare."""
    rows = (row.values() for row in table.rows())
    return [[struct.pack("d", cell) if isinstance(cell, float) else cell for cell in row] for row in rows]


def test_a_table_has_the_text_that_bids_requires() -> None:
    assert format_table(BUNDLES) == TEXT


@given(tables())
@example(Table({"a": [5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1e16, 1e22]}, {"a": "number"}))
@example(Table({"a": []}, {"a": "text"}))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_formatted_table_is_parsed_bit_by_bit(table: Table) -> None:
    stored = format_table(table).encode()
    # The kinds are read from JSON, which may reorder their names.
    parsed = parse_table(stored.decode(), dict(sorted(table.kinds.items())))
    assert parsed == table
    assert bits(parsed) == bits(table)
    assert format_table(parsed).encode() == stored


@given(tables())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_another_reader_of_tab_separated_files_finds_the_same_cells(table: Table) -> None:
    # Python's reader with tab as the delimiter: it interprets quotes, as most readers of tables do.
    header, *rows = csv.reader(io.StringIO(format_table(table), newline=""), delimiter="\t")
    assert header == list(table.columns)
    assert rows == [["n/a" if cell is None else str(cell) for cell in row.values()] for row in table.rows()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header"),
        (TEXT.replace("voxels", "volume"), "header"),
        (TEXT.replace("voxels", "bundle"), "header"),
        (TEXT.replace("\tvoxels", ""), "header"),
        (TEXT.replace("voxels", "voxels\tvoxels"), "header"),
        ("\ufeff" + TEXT, "header"),
        (TEXT.replace("\n", "\r\n"), "header"),
        (TEXT[:-1], "line feed"),
        (TEXT[:-5], "line feed"),
        (TEXT.split("\n")[0], "line feed"),
        (TEXT + "\n", "line 5 of the table: expected 3 cells, found 1"),
        (TEXT.replace("\t812", ""), "line 2 of the table: expected 3 cells, found 2"),
        (TEXT.replace("812", "812\t"), "line 2 of the table: expected 3 cells, found 4"),
        (TEXT.replace("812", "812.0"), "column 'voxels'"),
        (TEXT.replace("812", ""), "column 'voxels'"),
        (TEXT.replace("812", "many"), "column 'voxels'"),
        (TEXT.replace("812", "9" * 5000), "column 'voxels'"),
        (TEXT.replace("812", str(2**63)), "column 'voxels', row 1"),
        (TEXT.replace("0.1", "nan"), "column 'mean_fa', row 1"),
        (TEXT.replace("0.1", "1e999"), "column 'mean_fa', row 1"),
        (TEXT.replace("0.1", "0,1"), "column 'mean_fa'"),
        (TEXT.replace("AF_left", ""), "column 'bundle', row 1"),
        (TEXT.replace("AF_left", '"AF left"'), "column 'bundle', row 1"),
        (TEXT.replace("0.1", "0.10"), r"line 2 of the table: expected 'AF_left\\t812\\t0\.1'"),
        (TEXT.replace("812", "8_12"), "line 2"),
        (TEXT.replace("812", "+812"), "line 2"),
        (TEXT.replace("812", "٨١٢"), "line 2"),
        (TEXT.replace("812", "812 "), "line 2"),
        (TEXT.replace("1e-300", "1E-300"), "line 3"),
        (TEXT.replace("1e-300", "-0.0"), "line 3"),
        (TEXT.replace("1e-300", "1"), "line 3"),
    ],
)
def test_text_in_another_format_is_refused_with_its_position(text: str, message: str) -> None:
    assert parse_table(TEXT, BUNDLES.kinds) == BUNDLES
    with pytest.raises(InvalidData, match=message):
        parse_table(text, BUNDLES.kinds)


def test_kinds_that_do_not_fit_the_text_are_refused() -> None:
    with pytest.raises(InvalidData, match="header"):
        parse_table(TEXT, {"bundle": "text"})
    with pytest.raises(InvalidData, match="kind of column 'voxels'"):
        parse_table(TEXT, {**BUNDLES.kinds, "voxels": "count"})  # type: ignore[dict-item]
