"""Where a network runs: a CPU or a GPU, with the CPU as fallback if the GPU's memory is too small."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from kwneuro_assets.imaging import InvalidData

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PRECISION = "float32"  # of every network: half precision changes voxels
_CAPACITY = 12  # loaded networks: six of TractSeg, five of HD-BET 1, one of HD-BET 2


def select_device(wanted: str) -> str:
    """The PyTorch device of a setting: `auto` is the first GPU if there is one, else the CPU.

    `wanted` is `auto`, `cpu`, `cuda` or `cuda:<n>`. Raises InvalidData if PyTorch does not see that GPU.
    """
    count = _gpus()
    if wanted == "cpu" or (wanted == "auto" and not count):
        return "cpu"
    index = int(wanted.partition(":")[2] or 0)
    if index >= count:
        raise InvalidData(
            "networks.device",
            expected=f"a GPU that PyTorch can use, of which there are {count}",
            found=wanted,
            remedy="Set networks.device to auto or cpu.",
        )
    return f"cuda:{index}"


def _gpus() -> int:
    """The number of GPUs that PyTorch can use; 0 if it is not installed, which the network itself reports."""
    try:
        import torch
    except ModuleNotFoundError:
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class NetworkDevice:
    """The device on which the networks of one step run; it records the one that was used.

    If a GPU has too little memory, the work is done again on the CPU, with a warning, or the error is raised if
    `fallback` is false. Once on the CPU, the device stays there.
    """

    def __init__(self, name: str = "cpu", *, fallback: bool = True, mirroring: bool | None = None) -> None:
        self.name = name
        self._fallback = fallback
        self._mirroring = mirroring

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.name != "cpu"

    @property
    def mirroring(self) -> bool:
        """Whether a brain is also segmented in mirrored copies: as set, else on a GPU only."""
        return self.on_gpu if self._mirroring is None else self._mirroring

    def run(self, work: Callable[[str], Result]) -> Result:
        """The result of `work` for the name of the device."""
        import torch

        try:
            return work(self.name)
        except torch.OutOfMemoryError as error:
            if not (self.on_gpu and self._fallback):
                raise
            reason = str(error).partition(". ")[0]
        forget_networks()
        torch.cuda.empty_cache()
        log.warning("%s has too little memory (%s): the CPU is used", self.name, reason)
        mirroring = self.mirroring  # a GPU's default stays in force
        self.name, self._mirroring = "cpu", mirroring
        return work(self.name)


def loaded(key: Hashable, load: Callable[[], Result]) -> Result:
    """The network of that key, loaded once in this process: consecutive subjects share it.

    The key must determine the network: its kind, file, content (size and time of the file) and device.
    """
    with _lock:
        if key not in _networks:
            _networks[key] = load()
            if len(_networks) > _CAPACITY:
                _networks.popitem(last=False)
        _networks.move_to_end(key)
        return _networks[key]


def forget_networks() -> None:
    """Release all loaded networks."""
    with _lock:
        _networks.clear()


_networks: OrderedDict[Hashable, Any] = OrderedDict()
_lock = threading.RLock()
