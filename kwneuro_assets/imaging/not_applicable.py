"""The value of a derivative that a dataset does not allow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NotApplicable:
    """A derivative that cannot exist for this subject, and why, in one sentence (NODDI of a single shell)."""

    reason: str
