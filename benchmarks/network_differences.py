"""The differences between our result of a network and the peer's, class by class, because both are large.

python -m benchmarks.network_differences OURS THEIRS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.network_steps import RESULT
from benchmarks.process import report


def difference(ours: Path, theirs: Path) -> dict[str, Any]:
    """Mean and largest absolute difference, and the number of different values. Raises ValueError if shapes differ."""
    mine, other = (np.load(folder / RESULT, mmap_mode="r") for folder in (ours, theirs))
    if mine.shape != other.shape:
        raise ValueError(f"expected the shape {mine.shape}, found {other.shape}")
    total, largest, different = 0.0, 0.0, 0
    for index in np.ndindex(mine.shape[3:]):
        volume = (Ellipsis, *index)
        apart = np.abs(np.asarray(mine[volume], np.float64) - other[volume])
        total, largest = total + float(apart.sum()), max(largest, float(apart.max()))
        different += int(np.count_nonzero(apart))
    quantity = f"{different} of {mine.size} values differ" if different else "identical"
    return {"quantity": quantity, "mean": total / mine.size, "largest": largest}


def main(ours: str, theirs: str) -> None:
    report({"seconds": 0, **difference(Path(ours), Path(theirs))})


if __name__ == "__main__":
    main(*sys.argv[1:])
