"""The line of a response file that belongs to the shell."""

from __future__ import annotations

import pytest

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.imaging.response import parse_mrtrix_response

HISTORY = "# command_history: dwi2response tournier dwi.mif out.txt (version=3.0.4)\n"
B0, B1000, B2000, B3000 = "1500 0 0\n", "900 -200 20\n", "700 -260 45\n", "600 -290 80\n"


@pytest.mark.parametrize(
    ("text", "bvalue", "shells", "mean"),
    [
        (B3000, 3000, (), 600),
        (B3000, 3000, (1000, 3000), 600),
        (HISTORY + B3000, 3000, (1000, 3000), 600),
        (HISTORY + "# Shells: 2995\n" + B3000, 3000, (1000, 3000), 600),
        (HISTORY + "# Shells: 5,995,2000\n" + B0 + B1000 + B2000, 1000, (1000, 2000), 900),
        (HISTORY + "# Shells: 0,995,2000\n" + B0 + B1000 + B2000, 2000, (1000, 2000), 700),
        ("# Shells: 0,1000,2000,3000\n" + B0 + B1000 + B2000 + B3000, 2000, (2000,), 700),
        ("#shells: 3000.4 1000.2\n" + B3000 + B1000, 1000, (1000, 3000), 900),
        ("\ufeff# Shells: 0,1000\r\n1500 0 0\r\n900 -200 20\r\n", 1000, (), 900),
        (B1000 + B2000 + B3000, 1000, (1000, 2000, 3000), 900),
        (B1000 + B2000 + B3000, 2000, (1000, 2000, 3000), 700),
        (B0 + B1000 + B2000 + B3000, 1000, (1000, 2000, 3000), 900),
        (B0 + B1000 + B2000 + B3000, 3000, (1000, 2000, 3000), 600),
        (B0 + B3000, 3000, (3000,), 600),
    ],
)
def test_the_line_of_the_shell_is_used(text: str, bvalue: float, shells: tuple[float, ...], mean: float) -> None:
    response = parse_mrtrix_response(text, bvalue, shells)
    assert response.coefficients[0] == mean
    assert response.bvalue == bvalue


@pytest.mark.parametrize(
    ("text", "bvalue", "shells", "expected"),
    [
        ("# Shells: 3000\n" + B3000, 1000, (1000, 3000), "a line for each of b=1000, .* found lines for b=3000"),
        ("# Shells: 0,3000\n" + B0 + B3000, 1000, (1000,), "found lines for b=0, 3000"),
        (
            "# Shells: 0,1000,3000\n" + B0 + B1000,
            1000,
            (1000,),
            "3 lines, one for each shell, b=0, 1000, 3000, found 2",
        ),
        ("# Shells: 0,3000\n" + B3000, 3000, (3000,), "2 lines, one for each shell, b=0, 3000, found 1"),
        ("# Shells:\n" + B3000, 3000, (3000,), "with b-values, comma-separated, found ''"),
        ("# Shells: 3000\n# Shells: 1000\n" + B3000, 3000, (3000,), "one line .* found '3000' and '1000'"),
        (B1000 + B3000, 3000, (), "2 lines, and no shells in the data"),
        (B1000 + B3000, 3000, (1000, 2000, 3000), "2 lines, and b=1000, 2000, 3000 in the data"),
        (B0 + B1000 + B2000 + B3000, 3000, (3000,), "4 lines, and b=3000 in the data. Add a line '# Shells: ...'"),
        # The first line is that of b=0, so the second may be that of either shell.
        (B0 + B3000, 3000, (1000, 3000), "2 lines, and b=1000, 3000 in the data"),
    ],
)
def test_lines_of_unknown_shells_raise_an_error(
    text: str, bvalue: float, shells: tuple[float, ...], expected: str
) -> None:
    with pytest.raises(InvalidData, match=expected):
        parse_mrtrix_response(text, bvalue, shells)
