"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of reference data (real patch, TractSeg's example person); skips where it is absent."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the reference data folder ../shared/reference is absent")
    return folder


@pytest.fixture(scope="session")
def phantom_tool() -> Path:
    """The script that writes a realistic whole-brain phantom; skips where it is absent."""
    script = SHARED / "tools" / "realistic_phantom.py"
    if not script.is_file():
        pytest.skip("the phantom script ../shared/tools/realistic_phantom.py is absent")
    return script
