"""The scripts and styles of the reports, as they are in the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

NIIVUE = "niivue-0.69.0.umd.js"  # the shared copy in a store has this name, so that each report finds its version


@cache
def static_text(name: str) -> str:
    """The text of a file of `reports/static`."""
    return (files("kwneuro_assets.reports") / "static" / name).read_text(encoding="utf-8")
