"""The cache of compiled functions on disk, and its log messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
import numpy as np
from kwneuro_assets.derivations.compiled import compile_now
from kwneuro_assets.derivations.noddi_solver import solve_nonnegative
arguments = (np.eye(2), np.ones(2), np.empty(2), np.empty(2, np.int64), np.empty((2, 2)), np.empty((4, 2)))
compile_now(solve_nonnegative, *arguments)
print(solve_nonnegative(*arguments))
"""


NO_CACHE = "import numba.core.caching\nnumba.core.caching.CacheImpl._locator_classes = []\n"


def output_of_a_process(cache: Path, setup: str = "") -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", setup + CODE]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_the_first_process_compiles_and_the_next_uses_the_cache(tmp_path: Path) -> None:
    assert f"cached in {tmp_path}" in output_of_a_process(tmp_path)
    assert output_of_a_process(tmp_path) == "2\n"


@pytest.mark.slow
def test_without_a_writable_cache_every_process_compiles_and_logs_it(tmp_path: Path) -> None:
    # Root can write to every folder, so numba's list of cache folders is emptied.
    for _ in range(2):
        assert "set NUMBA_CACHE_DIR to a writable folder" in output_of_a_process(tmp_path, NO_CACHE)
    assert not any(tmp_path.iterdir())
