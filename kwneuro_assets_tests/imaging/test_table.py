"""Tables and reports: the values that they hold, and the values that raise an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kwneuro_assets.imaging import InvalidData, Report, Table
from kwneuro_assets.imaging.table import Cell, Kind

KINDS: dict[str, Kind] = {"subject": "text", "voxels": "integer", "mean_fa": "number"}
COHORT = Table({"subject": ["sub-01", "sub-02"], "voxels": [812, None], "mean_fa": [0.5, 1]}, KINDS)


def column(kind: Any, *cells: Any) -> tuple[Cell, ...]:
    """The cells of a column as the table holds them."""
    return tuple(Table({"a": cells}, {"a": kind}).columns["a"])


def test_rows_and_columns_are_in_the_given_order() -> None:
    assert list(COHORT.columns) == list(COHORT.kinds) == ["subject", "voxels", "mean_fa"]
    assert COHORT.columns["voxels"] == (812, None)
    assert list(COHORT.rows()) == [
        {"subject": "sub-01", "voxels": 812, "mean_fa": 0.5},
        {"subject": "sub-02", "voxels": None, "mean_fa": 1.0},
    ]
    assert COHORT.row_count == 2


def test_a_table_from_rows_has_missing_values_where_rows_lack_cells() -> None:
    assert Table.from_rows(COHORT.rows(), KINDS) == COHORT
    rows: list[dict[str, Cell]] = [{"mean_fa": 1.0, "subject": "sub-02"}]
    assert list(Table.from_rows(rows, KINDS).rows()) == [{"subject": "sub-02", "voxels": None, "mean_fa": 1.0}]
    with pytest.raises(InvalidData, match=r"row 1: .* found \['mean_md'\]"):
        Table.from_rows([{"mean_md": 1.0}], KINDS)


def test_a_table_may_have_no_rows_but_needs_a_column() -> None:
    empty = Table.from_rows([], KINDS)
    assert (empty.row_count, list(empty.rows()), list(empty.columns)) == (0, [], list(KINDS))
    with pytest.raises(InvalidData, match="at least one column"):
        Table({}, {})


def test_tables_are_equal_if_names_order_kinds_and_cells_are() -> None:
    columns: dict[str, list[Cell]] = {"a": [1, 2], "b": [3, None]}
    same, again = (Table(columns, {first: "integer", last: "integer"}) for first, last in ("ab", "ba"))
    assert same == again
    assert hash(same) == hash(again)
    others = [
        Table({"b": columns["b"], "a": columns["a"]}, same.kinds),
        Table(columns, {"a": "integer", "b": "number"}),
        Table({"a": [1, 2], "b": [3, 0]}, same.kinds),
        Table({"a": [1], "b": [3]}, same.kinds),
        Table({"a": [1, 2], "c": [3, None]}, {"a": "integer", "c": "integer"}),
    ]
    assert all(same != other for other in others)
    assert same != columns


def test_a_table_is_immutable_and_copies_its_columns() -> None:
    cells: list[Cell] = [1.0, 2.0]
    columns, kinds = {"a": cells}, dict[str, Kind](a="number")
    table = Table(columns, kinds)
    cells.append(3.0)
    columns["b"], kinds["b"] = [1.0], "number"
    assert dict(table.columns) == {"a": (1.0, 2.0)}
    with pytest.raises(TypeError):
        table.columns["a"] = (3.0,)  # type: ignore[index]
    with pytest.raises(TypeError):
        table.kinds["a"] = "text"  # type: ignore[index]


def test_numpy_numbers_become_python_numbers_of_the_same_value() -> None:
    counts = column("integer", np.uint8(3), np.int64(-(2**63)), 2**63 - 1)
    assert counts == (3, -(2**63), 2**63 - 1)
    assert {type(cell) for cell in counts} == {int}
    means = column("number", np.float32(0.1), np.float64(0.1), np.int16(4), 7, -0.0)
    assert [repr(cell) for cell in means] == ["0.10000000149011612", "0.1", "4.0", "7.0", "0.0"]
    assert type(column("text", np.str_("CA"))[0]) is str


@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        ("integer", 1.0),
        ("integer", True),
        ("integer", "1"),
        ("integer", 2**63),
        ("integer", -(2**63) - 1),
        ("number", float("nan")),
        ("number", np.float32("inf")),
        ("number", False),
        ("number", "0.5"),
        ("number", 2**53 + 1),  # has no float64
        ("number", 10**400),
        ("number", 1j),
        ("text", 1),
        ("text", b"CA"),
        ("text", ""),
        ("text", "n/a"),
        ("text", "a\tb"),
        ("text", "a\n"),
        ("text", "a\rb"),
        ("text", "a\u2028b"),  # a line break for str.splitlines and for many readers
        ("text", '"a" and "b"'),
        ("text", "\ud800"),
    ],
)
def test_an_invalid_cell_raises_an_error_with_its_column_and_row(kind: str, cell: object) -> None:
    with pytest.raises(InvalidData) as raised:
        column(kind, None, cell)
    assert raised.value.problem == "column 'a', row 2"
    assert raised.value.found == repr(cell)


@pytest.mark.parametrize("text", ["N/A", "nan", "NA", "1.50", "-", " ", 'the "left" one', "é 脑", "a,b;c", "None"])
def test_text_like_a_number_or_a_missing_value_elsewhere_is_text(text: str) -> None:
    assert column("text", text) == (text,)


@pytest.mark.parametrize("name", ["", "n/a", "mean\tfa", "mean\nfa", '"fa"', 3])
def test_a_column_name_that_a_tsv_header_cannot_hold_raises_an_error(name: Any) -> None:
    with pytest.raises(InvalidData, match="name of a column"):
        Table({name: [1]}, {name: "integer"})


@pytest.mark.parametrize(
    ("columns", "kinds", "message"),
    [
        ({"a": [1, 2], "b": [1]}, {"a": "integer", "b": "integer"}, "one length, found {'a': 2, 'b': 1}"),
        ({"a": [1]}, {}, "kinds of the columns"),
        ({"a": [1]}, {"a": "integer", "b": "text"}, "kinds of the columns"),
        ({"a": [1]}, {"a": "decimal"}, "kind of column 'a'"),
        ({"a": "CA"}, {"a": "text"}, "a sequence of cells"),
    ],
)
def test_columns_and_kinds_that_do_not_match_raise_an_error(columns: Any, kinds: Any, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        Table(columns, kinds)


def test_a_report_holds_its_text_unchanged() -> None:
    html = "<!doctype html>\r\n<title>é 脑</title>\n"
    assert Report(html).html == html
    assert Report(html) == Report(html) != Report(html + "\n")


@pytest.mark.parametrize("html", ["", " \n", b"<html>", None, "<p>\ud800</p>"])
def test_a_blank_or_non_text_report_raises_an_error(html: Any) -> None:
    with pytest.raises(InvalidData, match="report"):
        Report(html)
