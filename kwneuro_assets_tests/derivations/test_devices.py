"""The device of a network: selection, what happens if its memory is too small, and networks that stay loaded."""

from __future__ import annotations

import logging

import pytest

torch = pytest.importorskip("torch")

from kwneuro_assets.derivations import devices  # noqa: E402
from kwneuro_assets.derivations.devices import NetworkDevice, forget_networks, loaded, select_device  # noqa: E402
from kwneuro_assets.imaging import InvalidData  # noqa: E402

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch has no GPU on this machine")


class Work:
    """A piece of work that needs more memory than a GPU has; `devices` are those on which it was tried."""

    def __init__(self) -> None:
        self.devices: list[str] = []

    def __call__(self, device: str) -> str:
        self.devices.append(device)
        if device != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a capacity of 8")
        return f"done on {device}"


def test_auto_is_the_cpu_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == "cpu"
    assert select_device("cpu") == "cpu"
    for wanted in ("cuda", "cuda:1"):
        with pytest.raises(InvalidData, match=rf"networks.device.*there are 0.*found {wanted}"):
            select_device(wanted)


def test_auto_is_the_first_gpu_and_a_number_selects_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = [select_device(wanted) for wanted in ("auto", "cuda", "cuda:0", "cuda:1", "cpu")]
    assert found == ["cuda:0", "cuda:0", "cuda:0", "cuda:1", "cpu"]
    with pytest.raises(InvalidData, match=r"of which there are 2.*found cuda:2.*Set networks.device to auto or cpu"):
        select_device("cuda:2")


def test_without_enough_memory_on_the_gpu_the_work_is_done_on_the_cpu_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device, work = NetworkDevice("cuda:0"), Work()
    loaded("network on the GPU", object)
    with caplog.at_level(logging.WARNING):
        assert device.run(work) == "done on cpu"
    assert work.devices == ["cuda:0", "cpu"]
    assert device.name == "cpu"
    assert caplog.messages == ["cuda:0 has too little memory (CUDA out of memory): the CPU is used"]
    assert caplog.records[0].name.startswith("kwneuro_assets."), "so that it is in the log of the run"
    assert not devices._networks, "they would keep the memory of the GPU"
    assert device.run(work) == "done on cpu"
    assert work.devices == ["cuda:0", "cpu", "cpu"], "the device stays on the CPU"


def test_the_error_is_raised_instead_if_the_setting_says_so() -> None:
    device, work = NetworkDevice("cuda:0", fallback=False), Work()
    with pytest.raises(torch.OutOfMemoryError):
        device.run(work)
    assert work.devices == ["cuda:0"]


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def work(device: str) -> None:
        raise RuntimeError("the shapes do not match")

    with pytest.raises(RuntimeError, match="the shapes do not match"):
        NetworkDevice("cuda:0").run(work)


def test_mirroring_is_by_default_for_gpus_and_stays_after_a_change_of_the_device() -> None:
    assert NetworkDevice("cuda:0").mirroring
    assert not NetworkDevice("cpu").mirroring
    assert NetworkDevice("cpu", mirroring=True).mirroring
    assert not NetworkDevice("cuda:0", mirroring=False).mirroring
    device = NetworkDevice("cuda:0")
    device.run(Work())
    assert (device.name, device.mirroring) == ("cpu", True), "so that the result is the same"


def test_a_network_is_loaded_once_until_others_take_its_place() -> None:
    forget_networks()
    loads: list[int] = []

    def load(number: int) -> int:
        loads.append(number)
        return number

    for _ in range(3):
        assert loaded("first", lambda: load(0)) == 0
    assert loads == [0]
    for number in range(1, devices._CAPACITY):
        loaded(number, lambda number=number: load(number))
    loaded("first", lambda: load(0))
    loaded("one more", lambda: load(99))
    assert loaded("first", lambda: load(0)) == 0
    assert loads == [*range(devices._CAPACITY), 99], "the one that was used longest ago was released"
    forget_networks()
    loaded("first", lambda: load(0))
    assert loads[-1] == 0
    forget_networks()


@needs_gpu
def test_a_real_gpu_runs_out_of_memory_and_the_cpu_takes_over() -> None:
    device = NetworkDevice(select_device("auto"))

    def work(name: str) -> int:
        voxels = 1 << 44 if name != "cpu" else 1 << 4  # 64 TiB
        return len(torch.zeros(voxels, device=name))

    assert device.run(work) == 16
    assert device.name == "cpu"
