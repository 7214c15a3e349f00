"""Large values need little memory beyond their own size, on a local and a remote store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LIMIT = 256  # MB beyond the array


def measured(*arguments: object) -> dict[str, float]:
    """One operation, measured in a separate process: MB of the array, and of memory before and at the peak."""
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.large_value", *map(str, arguments)],
        capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, float] = json.loads(done.stdout)
    print(arguments, result)
    return result


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    return f"{request.getfixturevalue('s3_bucket').url}/study"


@pytest.mark.parametrize("kind", ["series", "maps"])
def test_writing_and_reading_stay_within_the_bound(url: str, kind: str) -> None:
    """300 MB of float32 that do not compress: one image, and four maps that are read concurrently."""
    written = measured("write", kind, url)
    assert written["array"] > 299
    assert written["peak"] - written["before"] <= LIMIT
    read = measured("read", kind, url)
    assert read["array"] == written["array"]
    assert read["peak"] - read["before"] <= read["array"] + LIMIT


@pytest.mark.parametrize("kind", ["series", "maps"])
def test_many_derivatives_are_written_verified_and_copied_within_the_bound(url: str, kind: str, tmp_path: Path) -> None:
    """Six derivatives of 120 MB: written one after the other, verified and exported concurrently."""
    for operation in ("write many", "verify", "export"):
        result = measured(operation, kind, url, tmp_path / "copy")
        assert result["peak"] - result["before"] <= LIMIT
