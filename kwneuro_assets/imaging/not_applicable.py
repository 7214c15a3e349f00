"""The value of a derivative that cannot be computed from a dataset."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NotApplicable:
    """A derivative that cannot exist for a subject, and the reason: for example, NODDI of single-shell data.

    >>> NotApplicable("NODDI needs at least two shells besides b=0; this dataset has one, b=1000").reason
    'NODDI needs at least two shells besides b=0; this dataset has one, b=1000'
    """

    reason: str
