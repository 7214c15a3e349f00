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


NOWHERE = "import numba.core.caching\nnumba.core.caching.CacheImpl._locator_classes = []\n"


def told(cache: Path, before: str = "") -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", before + CODE]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_the_first_process_compiles_and_tells_and_the_next_finds_it_on_disk(tmp_path: Path) -> None:
    assert f"and is kept in {tmp_path}" in told(tmp_path)
    assert told(tmp_path) == "2\n"


@pytest.mark.slow
def test_without_a_place_to_keep_it_every_process_compiles_and_tells(tmp_path: Path) -> None:
    # Whoever may write everywhere has such a place: it is taken from numba.
    for _ in range(2):
        assert "set NUMBA_CACHE_DIR to one" in told(tmp_path, NOWHERE)
    assert not any(tmp_path.iterdir())
