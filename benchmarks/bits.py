"""Which derivatives have the same bits in another environment: hash seeds, threads, processors, libraries.

    make bench ARGS="bits"                                            # hash seeds, threads, processors
    make bench ARGS="bits --with numpy==2.2.6 --with scipy==1.15.3"   # each of these libraries in turn
    make bench ARGS="bits --python other/bin/python --steps dti,noddi"

Every environment is a new process that computes each derivative from the same inputs. An older processor is emulated by
the variables with which OpenBLAS, numpy, PyTorch, oneDNN, MKL and numba limit their instruction sets. For derivatives
that differ, the table gives the number of different values and the largest difference relative to the largest value.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kwneuro_assets_tests.testkit.bits import STEPS, THREADS, VOXEL, compute_in_new_process, write_inputs

# numpy's names before and from version 2.4; numpy ignores names that it does not know.
NUMPY_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4"
NUMPY_AVX2 = f"{NUMPY_AVX512} AVX2 FMA3 X86_V3"
# numba caches code for each processor name separately, so that neither environment uses the other's.
NUMBA_AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse4.2"}
NUMBA_SSE = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2"}
ENVIRONMENTS: dict[str, Mapping[str, str]] = {
    "repeated": {},
    "hash seed": {"PYTHONHASHSEED": "1"},
    **{f"{name}=1": {name: "1"} for name in THREADS},
    "one thread": dict.fromkeys(THREADS, "1"),
    "three threads": dict.fromkeys(THREADS, "3"),
    **{f"OpenBLAS {core}": {"OPENBLAS_CORETYPE": core} for core in ("SkylakeX", "Zen", "Haswell", "Sandybridge")},
    "numpy no AVX512": {"NPY_DISABLE_CPU_FEATURES": NUMPY_AVX512},
    "numpy no AVX2": {"NPY_DISABLE_CPU_FEATURES": NUMPY_AVX2},
    "PyTorch AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "oneDNN AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "MKL AVX2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "numba AVX2": NUMBA_AVX2,
    "all no AVX512": {
        **NUMBA_AVX2,
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": NUMPY_AVX512,
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "all no AVX2": {
        **NUMBA_SSE,
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": NUMPY_AVX2,
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}


def main(words: list[str]) -> None:
    options = _options(words)
    table: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = write_inputs(Path(scratch), options.voxel, options.tractseg, options.hd_bet)
        compared: dict[str, tuple[str, Mapping[str, str]]] = {
            name: (sys.executable, ENVIRONMENTS[name]) for name in options.environments
        }
        for library in options.libraries:
            compared[library] = (sys.executable, {"PYTHONPATH": _installed(library, Path(scratch))})
        compared |= {python: (python, {}) for python in options.python}
        reference = compute_in_new_process(inputs, options.steps, {})
        for name, (python, environment) in compared.items():
            found = compute_in_new_process(inputs, options.steps, environment, python)
            table[name] = {step: found[step].compare(reference[step]) for step in options.steps}
            print(f"{name}: done", file=sys.stderr)
    _print(table)
    if options.json:
        options.json.write_text(json.dumps(table, indent=2) + "\n")


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", help=f"comma-separated, of {', '.join(STEPS)}")
    parser.add_argument("--environments", help=f"comma-separated, of {', '.join(ENVIRONMENTS)}")
    parser.add_argument("--with", dest="libraries", action="append", default=[], metavar="NAME==VERSION")
    parser.add_argument("--python", action="append", default=[], help="another interpreter")
    parser.add_argument("--voxel", type=float, default=VOXEL, help="voxel edge length of the synthetic head, mm")
    parser.add_argument("--tractseg", type=Path, help="folder of TractSeg's weights; random weights by default")
    parser.add_argument("--hd-bet", type=Path, help="folder of HD-BET 2's weights; HD-BET 2 is skipped by default")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args(words)
    every_step = [name for name in STEPS if options.hd_bet or name != "brain_mask hd-bet"]
    options.steps = options.steps.split(",") if options.steps else every_step
    options.environments = options.environments.split(",") if options.environments else []
    if not options.environments and not options.libraries and not options.python:
        options.environments = list(ENVIRONMENTS)
    return options


def _installed(library: str, scratch: Path) -> str:
    """A folder with this version of one library, for PYTHONPATH."""
    folder = scratch / library
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), library]
    subprocess.run(command, check=True)
    return str(folder)


def _print(table: Mapping[str, Mapping[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table("environment", "same", "differ", box=None, pad_edge=False)
    for name, row in table.items():
        differ = [f"{step}: {cell}" for step, cell in row.items() if cell != "same"]
        shown.add_row(name, f"{len(row) - len(differ)} of {len(row)}", "\n".join(differ))
    Console().print(shown)
