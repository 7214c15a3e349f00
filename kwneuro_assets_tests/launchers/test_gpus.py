"""The concurrency pool of steps with a network: a GPU has its own, judged without an import of PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from dagster import DagsterInstance

import kwneuro_assets
from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.launchers import gpus
from kwneuro_assets.launchers.gpus import is_gpu
from kwneuro_assets.settings import PipelineSettings

Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A function that describes a machine: its devices and the libraries of its PyTorch (None: not installed)."""

    def describe(devices: tuple[str, ...], libraries: tuple[str, ...] | None, visible: str | None = None) -> None:
        for folder in ("dev", "torch/lib"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in devices:
            (tmp_path / "dev" / name).touch()
        for name in libraries or ():
            (tmp_path / "torch" / "lib" / name).touch()
        spec = ModuleSpec("torch", None, is_package=True)
        spec.submodule_search_locations = [str(tmp_path / "torch")]
        monkeypatch.setattr(gpus, "_DEVICES", tmp_path / "dev")
        monkeypatch.setattr(gpus, "find_spec", lambda name: None if libraries is None else spec)
        monkeypatch.setattr(gpus.sys, "platform", "linux")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return describe


GPU, CUDA = ("nvidia0", "nvidiactl"), ("libtorch_cpu.so", "libtorch_cuda.so")


@pytest.mark.parametrize(
    ("devices", "libraries", "visible", "expected"),
    [
        (GPU, CUDA, None, True),
        (GPU, CUDA, "0", True),
        (GPU, CUDA, "", False),
        (GPU, CUDA, "-1", False),
        (("nvidiactl",), CUDA, None, False),
        ((), CUDA, None, False),
        (GPU, ("libtorch_cpu.so",), None, False),
        (GPU, None, None, False),
    ],
)
def test_auto_is_a_gpu_if_there_is_one_and_pytorch_can_use_it(
    machine: Machine, devices: tuple[str, ...], libraries: tuple[str, ...], visible: str | None, expected: bool
) -> None:
    machine(devices, libraries, visible)
    assert is_gpu("auto") is expected
    assert not is_gpu("cpu")
    assert is_gpu("cuda")
    assert is_gpu("cuda:1")


def test_steps_with_a_network_are_in_the_pool_of_their_device_and_others_in_none(machine: Machine) -> None:
    machine(GPU, CUDA)
    networks = ["tract_masks", "tract_endings", "tract_orientations"]
    for method, device, expected in [
        ("hd-bet", "auto", dict.fromkeys(["brain_mask", *networks], "gpu")),
        ("hd-bet-v1", "cpu", dict.fromkeys(["brain_mask", *networks], "network")),
        ("median-otsu", "cuda:1", dict.fromkeys(networks, "gpu")),
    ]:
        settings = PipelineSettings.model_validate({"brain_mask": {"method": method}, "networks": {"device": device}})
        assert {one.name: pool for one in DERIVATIVES if (pool := one.pool_name(settings))} == expected


def test_one_run_at_a_time_uses_the_gpu_unless_a_variable_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_bytes(Path(kwneuro_assets.__file__).with_name("dagster.yaml").read_bytes())
    for variable in ("KWNEURO_NETWORK_SLOTS", "KWNEURO_GPU_SLOTS"):
        monkeypatch.delenv(variable, raising=False)
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        pools = instance.get_concurrency_config().pool_config
        assert (pools.default_pool_limit, str(pools.pool_granularity)) == (1, "PoolGranularity.RUN")
        assert instance.event_log_storage.get_pool_limits() == []
    monkeypatch.setenv("KWNEURO_GPU_SLOTS", "3")
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_coordinator
        assert {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()} == {"gpu": 3}


def test_the_definitions_load_without_pytorch(tmp_path: Path) -> None:
    code = "import sys, kwneuro_assets.definitions as d; d.defs(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"
