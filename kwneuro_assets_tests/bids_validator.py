"""The BIDS validator itself (bids-validator-deno), run offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Verdict:
    """What the validator says: code and place of each error, how many files it saw, and which subjects and sessions."""

    errors: set[tuple[str, str]]
    files: int
    subjects: set[str]
    sessions: set[str]


def bids_validator(scratch: Path) -> Callable[[Path], Verdict]:
    """Runs the validator on a dataset; skips where it is not installed. `scratch` is for its own files."""
    command = shutil.which("bids-validator-deno", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    if command is None:
        pytest.skip("the BIDS validator is absent: pip install bids-validator-deno")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "BIDS_SCHEMA"},  # another one than its own
        "DENO_DIR": str(scratch),
        "DENO_NO_UPDATE_CHECK": "1",
        # It needs no network; should it ever ask for one, it is refused at once rather than answered by chance.
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }

    def run(root: Path) -> Verdict:
        done = subprocess.run(
            [command, str(root), "--json"], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stdout, done.stderr
        told = json.loads(done.stdout)
        errors = {
            (issue["code"], issue.get("location", ""))
            for issue in told["issues"]["issues"]
            if issue["severity"] == "error"
        }
        assert (done.returncode == 0) == (not errors)
        seen = told["summary"]
        return Verdict(errors, seen["totalFiles"], set(seen["subjects"]), set(seen["sessions"]))

    return run
