"""Whether networks will run on a GPU, without an import of PyTorch: the code location has to load in a few seconds.

The answer selects a concurrency pool and nothing else. The step itself asks PyTorch for the device, and records it.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

_DEVICES = Path("/dev")


def is_gpu(device: str) -> bool:
    """Whether a value of `networks.device` stands for a GPU; `auto` does if there is an NVIDIA GPU and PyTorch for it.

    Both are judged by files: the GPU's device in /dev, which a container has only for GPUs that it may use, and the
    CUDA library in PyTorch's folder. On systems without such device files (Windows), `auto` counts as a CPU.
    """
    return device.startswith("cuda") or (device == "auto" and _has_nvidia_gpu() and _has_cuda_torch())


def _has_nvidia_gpu() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return sys.platform == "linux" and not hidden and any(_DEVICES.glob("nvidia[0-9]*"))


def _has_cuda_torch() -> bool:
    found = find_spec("torch")  # does not import it
    folders = found.submodule_search_locations if found else None
    return any(Path(folder, "lib", "libtorch_cuda.so").is_file() for folder in folders or ())
