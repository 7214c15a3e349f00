"""The one error that data can raise at the door."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kwneuro_assets.errors import ActionableError


class InvalidData(ActionableError, ValueError):
    """Data that cannot be trusted: says where, what is wrong, what was expected, what was found and what to do.

    The value types raise it without knowing a path; whoever read the file adds it with `at`.

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
        """The same error with the file (or files) it concerns, unless one is already named."""
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
    """Within it, InvalidData that names no file yet names `where`."""
    try:
        yield
    except InvalidData as error:
        raise error.at(where) from None


def _rebuild(problem: str, expected: str, found: str, remedy: str, where: str) -> InvalidData:
    return InvalidData(problem, expected=expected, found=found, remedy=remedy, where=where)
