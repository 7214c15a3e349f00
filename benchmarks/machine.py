"""The environment of a measurement: processor, threads and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

LIBRARIES = ("kwneuro-assets", "numpy", "scipy", "numba", "dipy", "dmri-amico", "nibabel", "scikit-learn", "dagster")


def machine(threads: int, kwneuro_version: str) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if kwneuro_version:
        versions["kwneuro"] = kwneuro_version
    if shutil.which("dwi2tensor"):
        output = subprocess.run(["dwi2tensor", "-version"], capture_output=True, text=True, check=False).stdout
        versions["MRtrix3"] = output.splitlines()[0].strip("= ").removeprefix("dwi2tensor ") if output else "unknown"
    load = round(os.getloadavg()[0], 2)  # of the last minute: other processes increase all times
    return {"cpu": _cpu(), "cores": os.cpu_count(), "threads": threads, "load": load, "versions": versions}


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
