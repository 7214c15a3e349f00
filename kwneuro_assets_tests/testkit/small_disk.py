"""A file system of a few kilobytes, to fill."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(point: Path, size: str) -> Iterator[Path]:
    """Mounts a file system of that size (`512k`) in the new folder `point`; skips the test if that is not permitted."""
    point.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", point], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting is not permitted here: {error}")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)
