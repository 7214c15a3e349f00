"""The single-fiber response function of spherical deconvolution."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.gradients import SHELL_WIDTH


@dataclass(frozen=True, eq=False)
class ResponseFunction:
    """The signal of one fiber population along z, on one shell, in zonal spherical harmonics.

    `coefficients` (lmax / 2 + 1,) are those of l = 0, 2, 4, ... in the orthonormal real basis, in the units of
    the image: MRtrix3's convention. `bvalue` is the b-value of the shell in s/mm^2. `voxels` is the number of voxels
    it was estimated from; 0 if it was read from a file.

    Raises InvalidData if there are fewer than two coefficients, if one is not finite, or if l = 0 is not positive.

    >>> response = ResponseFunction([1000, -400, 100], bvalue=3000)
    >>> response.order
    4
    >>> response.scaled(2).coefficients.tolist()
    [2000.0, -800.0, 200.0]
    """

    coefficients: NDArray[np.float64]
    bvalue: float
    voxels: int = 0

    def __post_init__(self) -> None:
        values = np.array(self.coefficients, np.float64)
        if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all() or values[0] <= 0:
            raise InvalidData(
                "response function",
                expected="at least two finite zonal coefficients (l = 0, 2, ...), the first positive",
                found=f"{values.tolist()}",
            )
        values.setflags(write=False)
        object.__setattr__(self, "coefficients", values)

    @property
    def order(self) -> int:
        """The highest spherical harmonic order, lmax."""
        return 2 * (self.coefficients.size - 1)

    @property
    def bvalues(self) -> tuple[float, ...]:
        """The b-values of its shells in s/mm^2: here, one."""
        return (self.bvalue,)

    @property
    def mean_signals(self) -> NDArray[np.float64]:
        """(1,) the coefficient of l = 0, which is sqrt(4 pi) times the mean signal over directions."""
        return self.coefficients[:1]

    def scaled(self, factor: float) -> ResponseFunction:
        """The response function of the same image with its intensities multiplied by `factor`."""
        return replace(self, coefficients=self.coefficients * factor)


def parse_mrtrix_response(text: str, bvalue: float, shells: Sequence[float] = ()) -> ResponseFunction:
    """The response function of the shell at `bvalue` (s/mm^2), from a text in MRtrix3's format.

    The text has one line of zonal coefficients per shell. A comment `# Shells: 5,995,2000` gives the shells of the
    lines; the line of the shell nearest to `bvalue` is used, which must be within 100 s/mm^2. Without the comment, a
    single line is used as it is. Several lines are matched to `shells`, the ascending b-values of the data besides
    b=0: there must be as many lines, or one more for b=0.

    Raises InvalidData if the text is not in this format, if no shell is near `bvalue`, or if it cannot be determined
    which line belongs to which shell.

    >>> text = '''# Shells: 0,1000,3000
    ... 9000 0 0
    ... 4000 -900 90
    ... 2000 -1000 300'''
    >>> parse_mrtrix_response(text, bvalue=3000).coefficients.tolist()
    [2000.0, -1000.0, 300.0]
    """
    what = "response function"
    rows, header = parse_rows(text, what), parse_shells(text, what)
    if header is not None:
        row = rows_of_shells([bvalue], header, len(rows), what)[0]
    elif len(rows) == 1:
        row = 0
    else:
        row = _place(rows, bvalue, shells)
    return ResponseFunction(rows[row], bvalue)


def _place(rows: NDArray[np.float64], bvalue: float, shells: Sequence[float]) -> int:
    """The row of the shell at `bvalue`, from its position in `shells`."""
    has_b0 = len(rows) == len(shells) + 1
    # A first row with zeros beyond l = 0 is that of b=0, as MRtrix3 writes it: a shell is missing.
    if shells and (has_b0 or (len(rows) == len(shells) and rows[0, 1:].any())):
        return rows_of_shells([bvalue], shells, len(shells), "response function")[0] + has_b0
    raise InvalidData(
        "response function",
        expected="a line for each shell of the data, with or without one for b=0",
        found=f"{len(rows)} lines, and {describe_shells(shells) if shells else 'no shells'} in the data",
        remedy=f"Add a line '# Shells: ...' with the b-value of each line, or keep only the line for b={bvalue:.0f}.",
    )


def parse_rows(text: str, what: str) -> NDArray[np.float64]:
    """The coefficients (lines, l) of a response function in MRtrix3's text format.

    Raises InvalidData about `what` if the lines do not hold numbers, or not equally many.
    """
    lines = [line.partition("#")[0].split() for line in text.removeprefix("\ufeff").splitlines()]
    rows = [line for line in lines if line]
    if not rows or len({len(row) for row in rows}) > 1:
        raise InvalidData(
            what,
            expected="lines of numbers, one for each shell, all of the same length",
            found=f"lines of {', '.join(str(len(row)) for row in rows)} numbers" if rows else "no line",
        )
    try:
        return np.array([[float(word) for word in row] for row in rows])
    except ValueError as error:
        raise InvalidData(what, expected="numbers separated by blanks", found=str(error)) from None


def parse_shells(text: str, what: str) -> list[float] | None:
    """The b-values of the lines, from MRtrix3's comment `# Shells: 0,1000,3000`; None without this comment.

    Raises InvalidData about `what` if the comment does not hold b-values or occurs more than once.

    >>> parse_shells("# Shells: 0,1000,3000", "response function")
    [0.0, 1000.0, 3000.0]
    """
    found = re.findall(r"^\s*#\s*shells\s*:(.*)$", text.removeprefix("\ufeff"), re.IGNORECASE | re.MULTILINE)
    if not found:
        return None
    words = found[0].replace(",", " ").split()
    try:
        shells = [float(word) for word in words]
    except ValueError:
        shells = []
    if len(found) > 1 or not shells or not np.isfinite(shells).all() or min(shells) < 0:
        raise InvalidData(
            what,
            expected="one line '# Shells: ...' with b-values, comma-separated",
            found=" and ".join(repr(one.strip()) for one in found),
        )
    return shells


def rows_of_shells(wanted: Sequence[float], shells: Sequence[float], lines: int, what: str) -> list[int]:
    """The indices of the lines whose shells are nearest to `wanted`; b-values in s/mm^2.

    `lines` is the number of lines, one for each of `shells`.

    Raises InvalidData about `what` if there are not as many lines as shells, if the nearest shell is more than
    100 s/mm^2 away, or if two wanted shells have the same line.

    >>> rows_of_shells([1000, 2000], [0, 995, 2010, 3000], 4, "response function")
    [1, 2]
    """
    if lines != len(shells):
        raise InvalidData(
            what,
            expected=f"{len(shells)} lines, one for each shell, {describe_shells(shells)}",
            found=str(lines),
            remedy="List the shells of the lines in a comment, such as '# Shells: 0,1000'.",
        )
    apart = np.abs(np.subtract.outer(np.asarray(wanted, np.float64), np.asarray(shells, np.float64)))
    rows = [int(row) for row in apart.argmin(axis=1)]
    if apart.min(axis=1).max() > SHELL_WIDTH or len(set(rows)) < len(rows):
        raise InvalidData(
            what,
            expected=f"a line for each of {describe_shells(wanted)}, within {SHELL_WIDTH:g}",
            found=f"lines for {describe_shells(shells)}",
            remedy="Use a response function of these shells, estimate it from the data (without csd.wm_response), or "
            "correct the line '# Shells: ...' of the file.",
        )
    return rows


def describe_shells(shells: Sequence[float]) -> str:
    """The b-values for a message.

    >>> describe_shells([0, 1000, 2000])
    'b=0, 1000, 2000'
    """
    return "b=" + ", ".join(f"{shell:.0f}" for shell in shells)
