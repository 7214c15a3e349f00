"""Every derivative and code version is bit-identical in every process, whatever the hash seed and number of threads.

Most comparisons are between new processes (of `testkit/bits.py`), because a process reads these variables at its start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.derivations import csd, peaks
from kwneuro_assets.derivations.brain import extract_brain
from kwneuro_assets_tests.derivations.test_brain import head, nnunet_weights  # noqa: F401, the second is a fixture
from kwneuro_assets_tests.testkit import small_networks
from kwneuro_assets_tests.testkit.bits import (
    PEAKS,
    ROOT,
    STEPS,
    THREADS,
    compute_in_new_process,
    read_inputs,
    write_inputs,
)
from kwneuro_assets_tests.testkit.small_networks import TRACTSEG_CUBE, TRACTSEG_FILTERS

ONE = {"PYTHONHASHSEED": "1", **dict.fromkeys(THREADS, "1")}
THREE = {"PYTHONHASHSEED": "2", **dict.fromkeys(THREADS, "3")}
BRAINS = tuple(step for step in STEPS if "hd-bet" in step)
TRACTS = tuple(step for step in STEPS if step.startswith("tract_"))
SMALL_TRACTSEG = f"from {small_networks.__name__} import shrink_tractseg\nshrink_tractseg()"
CODE_VERSIONS = """
from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.settings import PipelineSettings
print({derivative.name: derivative.code_version(PipelineSettings()) for derivative in DERIVATIVES})
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, nnunet_weights: Path) -> Path:  # noqa: F811
    return write_inputs(
        tmp_path_factory.mktemp("bits"), hd_bet=nnunet_weights, peak_grid=TRACTSEG_CUBE, filters=TRACTSEG_FILTERS
    )


def differing(inputs: Path, steps: Sequence[str], before: str = "pass") -> dict[str, str]:
    """The differences, by step, between one thread and three with another hash seed."""
    one, three = (compute_in_new_process(inputs, steps, environment, before=before) for environment in (ONE, THREE))
    for step in steps:
        values = one[step].values.values()
        assert values, one[step].version  # the reason, if not applicable
        numbers = np.concatenate([array.ravel() for array in values])
        assert np.nanmax(numbers) > np.nanmin(numbers), f"{step} is too empty to be compared"
    return {step: three[step].compare(one[step]) for step in steps if three[step].version != one[step].version}


def test_every_derivative_is_compared() -> None:
    # A report shows values of the others; its test compares the pages of equal contents.
    compared = {derivative.name for derivative in DERIVATIVES} - {"subject_report"}
    assert {step.split()[0] for step in STEPS} == compared


def test_code_versions_are_the_same_in_every_process() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", CODE_VERSIONS],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for environment in (ONE, THREE)
    ]
    assert outputs[0] == outputs[1]
    assert all(derivative.name in outputs[0] for derivative in DERIVATIVES)


def test_hash_seed_and_threads_change_no_bits(inputs: Path) -> None:
    assert differing(inputs, [step for step in STEPS if step not in (*BRAINS, *TRACTS)]) == {}


@pytest.mark.slow
def test_hash_seed_and_threads_change_no_bits_of_a_brain_mask(inputs: Path) -> None:
    assert differing(inputs, BRAINS) == {}


@pytest.mark.slow
def test_hash_seed_and_threads_change_no_bits_of_tracts(inputs: Path) -> None:
    assert differing(inputs, TRACTS, before=SMALL_TRACTSEG) == {}


def test_deconvolution_uses_one_blas_thread(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float64 results differ between one thread and two; the stored float32 rarely does and so is no proof."""
    from threadpoolctl import threadpool_info

    counts: set[int] = set()

    def find_peaks(*arguments: Any, **named: Any) -> Any:
        counts.update(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
        return peaks.find_peaks(*arguments, **named)

    monkeypatch.setattr(csd, "find_peaks", find_peaks)
    given = read_inputs(inputs)
    csd.fit_csd_peaks(given.dwi, given.mask, given.response, **PEAKS)
    assert counts == {1}


def test_each_pass_of_a_network_uses_one_thread(
    nnunet_weights: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The probabilities differ between one thread and two; the mask rarely does and so is no proof."""
    import torch

    counts: set[int] = set()

    def forward(self: Any, image: Any) -> Any:
        counts.add(torch.get_num_threads())
        return original(self, image)

    original = torch.nn.Conv3d.forward
    monkeypatch.setattr(torch.nn.Conv3d, "forward", forward)
    monkeypatch.setenv("KWNEURO_THREADS", "3")
    extract_brain(head()[0], "hd-bet", weights=nnunet_weights)
    assert counts == {1}
