"""How a long computation reports its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called by a derivation with the fraction that is done, from 0 to 1, any number of times."""

    def __call__(self, fraction: float, /) -> None: ...


def silent(fraction: float, /) -> None:
    """Reports nothing: the default of every derivation."""
