"""The error that invalid data raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kwneuro_assets.errors import ActionableError


class InvalidData(ActionableError, ValueError):
    """Invalid data: names the file, the problem, what was expected, what was found, and the remedy.

    The value types know no paths; the code that reads a file adds its path with `at`.

    >>> raise InvalidData("b-values", expected="193 numbers", found="192", remedy="Export again.").at("sub-01.bval")
    Traceback (most recent call last):
        ...
    kwneuro_assets.imaging.errors.InvalidData: sub-01.bval: b-values: expected 193 numbers, found 192. Export again.
    """

    def __init__(self, problem: str, *, expected: str, found: str, remedy: str = "", where: str = "") -> None:
        super().__init__(problem, expected, found, remedy, where)
        self.problem = problem
        self.expected = expected
        self.found = found
        self.remedy = remedy
        self.where = where

    def at(self, where: object) -> InvalidData:
        """The same error with `where`, the file or files it concerns, unless it already names one."""
        return InvalidData(
            self.problem, expected=self.expected, found=self.found, remedy=self.remedy, where=self.where or str(where)
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.problem, self.expected, self.found, self.remedy, self.where)

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{where}{self.problem}: expected {self.expected}, found {self.found}.{remedy}"


@contextmanager
def located(where: object) -> Iterator[None]:
    """Adds `where`, a file, to each InvalidData raised in this context that names no file yet."""
    try:
        yield
    except InvalidData as error:
        raise error.at(where) from None


def _rebuild(problem: str, expected: str, found: str, remedy: str, where: str) -> InvalidData:
    return InvalidData(problem, expected=expected, found=found, remedy=remedy, where=where)
