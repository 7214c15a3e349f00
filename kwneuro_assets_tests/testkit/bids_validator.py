"""The BIDS validator (bids-validator-deno), run offline."""

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
    """The validator's result: code and location of each error, number of files, subjects and sessions."""

    errors: set[tuple[str, str]]
    files: int
    subjects: set[str]
    sessions: set[str]


def bids_validator(scratch: Path) -> Callable[[Path], Verdict]:
    """A function that validates a dataset; skips the test if the validator is not installed.

    `scratch` is a folder for the validator's own files.
    """
    command = shutil.which("bids-validator-deno", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    if command is None:
        pytest.skip("the BIDS validator is absent: pip install bids-validator-deno")
    environment = {
        **{
            name: value for name, value in os.environ.items() if name != "BIDS_SCHEMA"
        },  # would replace the schema of the validator
        "DENO_DIR": str(scratch),
        "DENO_NO_UPDATE_CHECK": "1",
        # It needs no network. If a version tries to use it, the request fails at once on every machine.
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }

    def run(root: Path) -> Verdict:
        done = subprocess.run(
            [command, str(root), "--json"], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stdout, done.stderr
        report = json.loads(done.stdout)
        errors = {
            (issue["code"], issue.get("location", ""))
            for issue in report["issues"]["issues"]
            if issue["severity"] == "error"
        }
        assert (done.returncode == 0) == (not errors)
        summary = report["summary"]
        return Verdict(errors, summary["totalFiles"], set(summary["subjects"]), set(summary["sessions"]))

    return run
