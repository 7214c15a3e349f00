"""How a long computation tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called by a derivation with the share that is done, from 0 to 1, as often as it likes."""

    def __call__(self, fraction: float, /) -> None: ...


def silent(fraction: float, /) -> None:
    """Tells nobody: the default of every derivation."""
