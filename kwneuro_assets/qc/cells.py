"""Numbers as cells of a table."""

from __future__ import annotations

import math

DIGITS = 5  # significant: more would depend on the order of sums, which differs between processors


def number(value: float | None) -> float | None:
    """`value` with five significant digits; None if it is None, NaN or infinite.

    >>> number(1234.5678), number(0.00012345678), number(float("nan"))
    (1234.6, 0.00012346, None)
    """
    if value is None or not math.isfinite(value):
        return None
    return float(f"{float(value):.{DIGITS}g}") + 0.0  # negative zero becomes zero
