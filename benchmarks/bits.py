"""Which derivatives keep their bits in another environment: other hash seeds, threads, processors, libraries.

    make bench ARGS="bits"                                            # hash seeds, threads, processors
    make bench ARGS="bits --with numpy==2.2.6 --with scipy==1.15.3"   # each of these libraries in turn
    make bench ARGS="bits --python other/bin/python --steps dti,noddi"

Each environment is a fresh process that computes every derivative from the same inputs, so that no difference is
inherited. A lesser processor is what OpenBLAS, numpy, PyTorch, oneDNN and MKL make of this one when told to.
Of what differs it tells how many values do, and by how much at most, as a share of the largest value.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations import tracts
from kwneuro_assets.derivations.brain import BrainMethod, extract_brain
from kwneuro_assets.derivations.csd import fit_csd_peaks
from kwneuro_assets.derivations.denoise import patch2self
from kwneuro_assets.derivations.noddi import fit_noddi
from kwneuro_assets.derivations.response import estimate_response
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, ResponseFunction, Volume
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs
from kwneuro_assets.versioning.content import Value, data_version

ROOT = Path(__file__).resolve().parents[1]
EXTENT = (160.0, 198.0, 173.0)  # mm, of the synthetic head's image
VOXEL = 6.2  # mm: coarse, but more than the 2200 voxels that 110 diffusion-weighted volumes need
# numpy's names before and since version 2.4; it passes over those that it does not know.
NUMPY_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4"
NUMPY_AVX2 = f"{NUMPY_AVX512} AVX2 FMA3 X86_V3"
# Code for another processor is kept on disk under its own name, so neither takes the other's.
NUMBA_AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse4.2"}
NUMBA_SSE = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2"}
THREADS = ("KWNEURO_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
REFERENCE = {"KWNEURO_THREADS": "2", "PYTHONHASHSEED": "0"}
ENVIRONMENTS: dict[str, Mapping[str, str]] = {
    "once more": {},
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
# What may be set outside and would be measured with the rest.
_CLEARED = {"OPENBLAS_L2_SIZE", *(name for environment in ENVIRONMENTS.values() for name in environment)}

# What other interpreters may lack is not imported here: the settings, whose defaults these are, and the demo.
RESPONSE: dict[str, Any] = {"shell": "auto", "max_order": 8, "fa_threshold": 0.7, "minimum_voxels": 300}
PEAKS: dict[str, Any] = {"max_order": 8, "peaks": 5, "relative_threshold": 0.1, "minimum_angle": 25.0}


@dataclass(frozen=True)
class Inputs:
    """What the derivatives are computed from: the same values in every environment."""

    dwi: Dwi
    mask: Volume
    response: ResponseFunction
    peaks: Volume
    bundles: Volume
    tractseg: Path
    hd_bet: Path | None

    def brain(self, method: BrainMethod) -> Volume:
        return extract_brain(self.dwi.mean_b0(), method, weights=self.hd_bet)


STEPS: dict[str, Callable[[Inputs], Value]] = {
    "denoised_dwi": lambda given: patch2self(given.dwi),
    "mean_b0": lambda given: given.dwi.mean_b0(),
    "brain_mask median-otsu": lambda given: given.brain("median-otsu"),
    "brain_mask hd-bet-v1": lambda given: given.brain("hd-bet-v1"),
    "brain_mask hd-bet": lambda given: given.brain("hd-bet"),
    "dti": lambda given: fit_tensor(given.dwi, given.mask, 1500.0),
    "noddi": lambda given: fit_noddi(given.dwi, given.mask, 1.7e-3, 3.0e-3, 500),
    "fiber_response": lambda given: estimate_response(given.dwi, given.mask, **RESPONSE),
    "csd_peaks": lambda given: fit_csd_peaks(given.dwi, given.mask, given.response, **PEAKS),
    "tract_masks": lambda given: tracts.segment_tracts(given.peaks, weights=given.tractseg),
    "tract_endings": lambda given: tracts.segment_endings(given.peaks, weights=given.tractseg),
    "tract_orientations": lambda given: tracts.orientation_maps(given.peaks, given.bundles, weights=given.tractseg),
}


@dataclass(frozen=True)
class Found:
    """A step's data version, or why there is none, and its values by name."""

    version: str
    values: Mapping[str, NDArray[Any]]

    def against(self, reference: Found) -> str:
        """`same`, or what differs from the reference."""
        for found in (reference, self):
            if not found.values:
                return found.version
        if self.version == reference.version:
            return "same"
        pairs = [(np.float64(values), np.float64(self.values[name])) for name, values in reference.values.items()]
        largest = max(np.abs(one - other).max() / (np.abs(one).max() or 1) for one, other in pairs)
        count = sum(np.count_nonzero(one != other) for one, other in pairs)
        return f"{count} of {sum(one.size for one, _ in pairs)} by {largest:.0e}"


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", help=f"comma-separated, of {', '.join(STEPS)}")
    parser.add_argument("--environments", help=f"comma-separated, of {', '.join(ENVIRONMENTS)}")
    parser.add_argument("--with", dest="libraries", action="append", default=[], metavar="NAME==VERSION")
    parser.add_argument("--python", action="append", default=[], help="another interpreter")
    parser.add_argument("--voxel", type=float, default=VOXEL, help="edge length of the synthetic head's voxels in mm")
    parser.add_argument("--tractseg", type=Path, help="folder of TractSeg's weights; random ones by default")
    parser.add_argument("--hd-bet", type=Path, help="folder of HD-BET 2's weights; it is left out by default")
    parser.add_argument("--json", type=Path, help="write the table to this file, too")
    given = parser.parse_args(words)
    steps = given.steps.split(",") if given.steps else [name for name in STEPS if given.hd_bet or name[11:] != "hd-bet"]
    names = given.environments.split(",") if given.environments else []
    if not names and not given.libraries and not given.python:
        names = list(ENVIRONMENTS)
    table: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = write_inputs(Path(scratch), given.voxel, given.tractseg, given.hd_bet)
        compared = {name: (sys.executable, ENVIRONMENTS[name]) for name in names}
        for library in given.libraries:
            compared[library] = (sys.executable, {"PYTHONPATH": _installed(library, Path(scratch))})
        compared |= {python: (python, {}) for python in given.python}
        reference = compute_apart(inputs, steps, {})
        for name, (python, environment) in compared.items():
            found = compute_apart(inputs, steps, environment, python)
            table[name] = {step: found[step].against(reference[step]) for step in steps}
            print(name, "is measured", file=sys.stderr)
    _print(table)
    if given.json:
        given.json.write_text(json.dumps(table, indent=2) + "\n")


def _installed(library: str, scratch: Path) -> str:
    """A folder that holds this version of one library, to be found before the installed one."""
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


def write_inputs(
    folder: Path,
    voxel: float = VOXEL,
    tractseg: Path | None = None,
    hd_bet: Path | None = None,
    *,
    peak_grid: int = 48,
    filters: int = 64,
) -> Path:
    """The inputs of every step as files in `folder`, for `compute`: the synthetic head and random peaks.

    The peaks lie in two corners of a grid of `peak_grid` voxels along each edge: TractSeg stretches it to its cube, and
    few of that cube's slices, each of which takes half a second, hold any. `filters` is the width of its network.
    """
    from kwneuro_assets.demo.phantom import centred_affine, write_phantom

    shape = (round(EXTENT[0] / voxel), round(EXTENT[1] / voxel), round(EXTENT[2] / voxel))
    dwi, mask = _head(write_phantom(folder / "head", affine=centred_affine(shape, voxel=voxel), shape=shape))
    response = estimate_response(dwi, mask, **RESPONSE)
    assert isinstance(response, ResponseFunction)
    random = np.random.default_rng(0)
    peaks = np.zeros((peak_grid,) * 3 + (9,), np.float32)
    peaks[:4, :4, :4] = random.normal(size=(4, 4, 4, 9))
    peaks[-1, -1, -1] = 1
    bundles = random.integers(0, 2, (*peaks.shape[:3], 72), np.uint8)
    np.savez(folder / "values.npz", response=response.coefficients, peaks=peaks, bundles=bundles)
    networks = [str(tractseg or _random_tractseg(folder, filters)), hd_bet and str(hd_bet)]
    (folder / "rest.json").write_text(json.dumps([response.bvalue, *networks]))
    return folder


def read_inputs(folder: Path) -> Inputs:
    bvalue, tractseg, hd_bet = json.loads((folder / "rest.json").read_text())
    values, affine = np.load(folder / "values.npz"), np.diag([-2.5, 2.5, 2.5, 1])
    response = ResponseFunction(values["response"], bvalue)
    peaks, bundles = (Volume(values[name], affine) for name in ("peaks", "bundles"))
    return Inputs(*_head(folder / "head"), response, peaks, bundles, Path(tractseg), hd_bet and Path(hd_bet))


def _random_tractseg(folder: Path, filters: int) -> Path:
    import torch
    from tractseg.models.unet_pytorch_deepsup import UNet_Pytorch_DeepSup

    torch.manual_seed(0)
    classes = {tracts.MASK_WEIGHTS: 72, tracts.ENDING_WEIGHTS: 144, **dict.fromkeys(tracts.ORIENTATION_WEIGHTS, 54)}
    for name, count in classes.items():
        network = UNet_Pytorch_DeepSup(9, count, n_filt=filters, dropout=True)
        torch.save({"unet": network.state_dict()}, folder / name)
    return folder


def _head(folder: Path) -> tuple[Dwi, Volume]:
    """The series and the true mask of the synthetic head in `folder`."""
    import nibabel

    stem = folder / "sub-01" / "dwi" / "sub-01_dwi"
    image: Any = nibabel.load(f"{stem}.nii.gz")
    mask: Any = nibabel.load(folder / "truth" / "sub-01" / "mask.nii.gz")
    bvals = parse_bvals(Path(f"{stem}.bval").read_text())
    gradients = GradientTable(bvals, parse_bvecs(Path(f"{stem}.bvec").read_text(), len(bvals)))
    series = Volume(np.asfortranarray(image.get_fdata(dtype=np.float32)), image.affine)
    return Dwi(series, gradients), Volume(np.asarray(mask.dataobj, np.uint8), image.affine)


def compute_apart(
    inputs: Path,
    steps: Iterable[str],
    environment: Mapping[str, str],
    python: str = sys.executable,
    before: str = "pass",
) -> dict[str, Found]:
    """Each step in one fresh process, with `environment` on top of the reference's; `before` runs first in it."""
    path = os.pathsep.join([environment["PYTHONPATH"], str(ROOT)] if "PYTHONPATH" in environment else [str(ROOT)])
    kept = {name: value for name, value in os.environ.items() if name not in _CLEARED}
    command = f"{before}\nimport sys\nfrom benchmarks.bits import compute\ncompute(*sys.argv[1:])"
    with tempfile.TemporaryDirectory() as results:
        done = subprocess.run(
            [python, "-c", command, str(inputs), ",".join(steps), results],
            env={**kept, **REFERENCE, **environment, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{python} with {dict(environment)} failed:\n{done.stderr[-2000:]}")
        versions: dict[str, str] = json.loads(Path(results, "versions.json").read_text())
        found = {}
        for step, version in versions.items():
            with np.load(Path(results, f"{step}.npz")) as values:
                found[step] = Found(version, dict(values))
        return found


def compute(inputs: str, steps: str, results: str) -> None:
    """Each step's data version and values from the files in `inputs` into files in `results`."""
    given = read_inputs(Path(inputs))
    versions: dict[str, str] = {}
    for step in steps.split(","):
        try:
            value = STEPS[step](given)
        except Exception as error:  # other libraries may lack or refuse something: that is what is asked
            versions[step], arrays = f"{type(error).__name__}: {error}"[:60], {}
        else:
            versions[step], arrays = data_version(value), _arrays(value)
        np.savez(Path(results, f"{step}.npz"), **arrays)
    Path(results, "versions.json").write_text(json.dumps(versions))


def _arrays(value: Value) -> dict[str, Any]:
    if isinstance(value, MapSet):
        return {name: volume.array for name, volume in value.items()}
    if isinstance(value, ResponseFunction):
        return {"coefficients": value.coefficients}
    return {"array": value.array} if isinstance(value, (Dwi, Volume)) else {}


if __name__ == "__main__":
    main(sys.argv[1:])
