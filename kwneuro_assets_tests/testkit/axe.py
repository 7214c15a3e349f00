"""axe-core, which checks the accessibility of a page; a page is tested without a network."""

from __future__ import annotations

from importlib.resources import files

import pytest


def axe_script() -> str:
    """The source of axe-core, as the package axe-playwright-python has it. Skips the test without that package."""
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    return files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
