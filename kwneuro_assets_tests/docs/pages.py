"""The Markdown pages of the project, and what their code blocks do when a newcomer copies them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.M | re.S)
# For tests: every 8th voxel, a brain mask without a network, and no waiting for files that were just written.
FAST = {
    "KWNEURO_SOURCE__SUBSAMPLE": "2",
    "KWNEURO_BRAIN_MASK__METHOD": "median-otsu",
    "KWNEURO_INGESTION__SETTLE_SECONDS": "0",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of code; `number` is its line in the page."""

    page: Path
    number: int
    language: str
    code: str

    def run(self, folder: Path, settings: Mapping[str, str] = MappingProxyType(FAST)) -> str:
        """Output of a bash or python block, executed in `folder` with environment variables for `settings`.

        Raises AssertionError if the block fails.
        """
        command = ["bash", "-euo", "pipefail", "-c"] if self.language == "bash" else [sys.executable, "-c"]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("KWNEURO_", "DAGSTER_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*command, self.code], cwd=folder, env={**inherited, **settings, "PATH": path},
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, f"{self.page.name}:{self.number}:\n{self.code}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in _BLOCK.finditer(text)
        if found[1] in languages
    ]
