"""Computes every derivative in a fresh process with another environment: hash seed, threads, processor, libraries.

Each process reads the same inputs from files, so that upstream differences do not propagate to a derivative.
"""

from __future__ import annotations

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
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, ResponseFunction, Table, Volume
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs
from kwneuro_assets.qc.row import qc_row
from kwneuro_assets_tests.testkit.small_networks import write_tractseg

ROOT = Path(__file__).resolve().parents[2]
EXTENT = (160.0, 198.0, 173.0)  # mm, of the synthetic head's image
VOXEL = 6.2  # mm: coarse, but more than the 2200 voxels that 110 diffusion-weighted volumes need
THREADS = ("KWNEURO_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
REFERENCE = {"KWNEURO_THREADS": "2", "PYTHONHASHSEED": "0"}
# Variables of the calling process that would change a result; an environment under test sets some of them.
CLEARED = frozenset({
    *THREADS, "PYTHONHASHSEED", "OPENBLAS_L2_SIZE", "OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES",
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES",
})  # fmt: skip

# The settings module and the demo are not imported at module level: other interpreters may lack their dependencies.
RESPONSE: dict[str, Any] = {"shell": "auto", "lmax": 8, "fa_threshold": 0.7, "min_voxels": 300}
PEAKS: dict[str, Any] = {"lmax": 8, "max_peaks": 5, "relative_threshold": 0.1, "min_separation_angle": 25.0}


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
    "denoised_dwi": lambda inputs: patch2self(inputs.dwi),
    "mean_b0": lambda inputs: inputs.dwi.mean_b0(),
    "brain_mask median-otsu": lambda inputs: inputs.brain("median-otsu"),
    "brain_mask hd-bet-v1": lambda inputs: inputs.brain("hd-bet-v1"),
    "brain_mask hd-bet": lambda inputs: inputs.brain("hd-bet"),
    "dti": lambda inputs: fit_tensor(inputs.dwi, inputs.mask, 1500.0),
    "noddi": lambda inputs: fit_noddi(inputs.dwi, inputs.mask, 1.7e-3, 3.0e-3, 500),
    "fiber_response": lambda inputs: estimate_response(inputs.dwi, inputs.mask, **RESPONSE),
    "csd_peaks": lambda inputs: fit_csd_peaks(inputs.dwi, inputs.mask, inputs.response, **PEAKS),
    "tract_masks": lambda inputs: tracts.segment_tracts(inputs.peaks, weights=inputs.tractseg),
    "tract_endings": lambda inputs: tracts.segment_endings(inputs.peaks, weights=inputs.tractseg),
    "tract_orientations": lambda inputs: tracts.orientation_maps(inputs.peaks, inputs.bundles, weights=inputs.tractseg),
    "dwi_qc": lambda inputs: qc_row(raw=inputs.dwi, denoised=patch2self(inputs.dwi), brain_mask=inputs.mask),
}


@dataclass(frozen=True)
class Found:
    """The data version and the values by name of one step; without values, `version` is the error instead."""

    version: str
    values: Mapping[str, NDArray[Any]]

    def compare(self, reference: Found) -> str:
        """`same`, or how many values differ from the reference, and the largest difference relative to the maximum."""
        for found in (reference, self):
            if not found.values:
                return found.version
        if self.version == reference.version:
            return "same"
        pairs = [(np.float64(values), np.float64(self.values[name])) for name, values in reference.values.items()]
        largest = max(np.abs(one - other).max() / (np.abs(one).max() or 1) for one, other in pairs)
        count = sum(np.count_nonzero(one != other) for one, other in pairs)
        return f"{count} of {sum(one.size for one, _ in pairs)} by {largest:.0e}"


def write_inputs(
    folder: Path,
    voxel: float = VOXEL,
    tractseg: Path | None = None,
    hd_bet: Path | None = None,
    *,
    peak_grid: int = 48,
    filters: int = 64,
) -> Path:
    """Write the inputs of every step, the synthetic head and random peaks, into `folder`; returns `folder`.

    The peaks are in two corners of a grid of `peak_grid` voxels along each edge. TractSeg resizes that grid to its
    cube, and each slice with peaks takes half a second. `filters` is the width of the random TractSeg network.
    """
    from kwneuro_assets.demo.phantom import centered_affine, write_phantom

    shape = (round(EXTENT[0] / voxel), round(EXTENT[1] / voxel), round(EXTENT[2] / voxel))
    dwi, mask = _head(write_phantom(folder / "head", affine=centered_affine(shape, voxel=voxel), shape=shape))
    response = estimate_response(dwi, mask, **RESPONSE)
    assert isinstance(response, ResponseFunction)
    random = np.random.default_rng(0)
    peaks = np.zeros((peak_grid,) * 3 + (9,), np.float32)
    peaks[:4, :4, :4] = random.normal(size=(4, 4, 4, 9))
    peaks[-1, -1, -1] = 1
    bundles = random.integers(0, 2, (*peaks.shape[:3], 72), np.uint8)
    np.savez(folder / "values.npz", response=response.coefficients, peaks=peaks, bundles=bundles)
    networks = [str(tractseg or write_tractseg(folder, filters=filters)), str(hd_bet) if hd_bet else None]
    (folder / "rest.json").write_text(json.dumps([response.bvalue, *networks]))
    return folder


def read_inputs(folder: Path) -> Inputs:
    """The inputs that `write_inputs` wrote."""
    bvalue, tractseg, hd_bet = json.loads((folder / "rest.json").read_text())
    values, affine = np.load(folder / "values.npz"), np.diag([-2.5, 2.5, 2.5, 1])
    dwi, mask = _head(folder / "head")
    response = ResponseFunction(values["response"], bvalue)
    peaks, bundles = (Volume(values[name], affine) for name in ("peaks", "bundles"))
    return Inputs(dwi, mask, response, peaks, bundles, Path(tractseg), Path(hd_bet) if hd_bet else None)


def compute_in_new_process(
    inputs: Path,
    steps: Iterable[str],
    environment: Mapping[str, str],
    python: str = sys.executable,
    before: str = "pass",
) -> dict[str, Found]:
    """Compute each step in one new process, with REFERENCE updated by `environment`; the code in `before` runs first.

    Raises RuntimeError if the process fails.
    """
    path = os.pathsep.join([environment["PYTHONPATH"], str(ROOT)] if "PYTHONPATH" in environment else [str(ROOT)])
    inherited = {name: value for name, value in os.environ.items() if name not in CLEARED}
    command = f"{before}\nimport sys\nfrom {__name__} import compute\ncompute(*sys.argv[1:])"
    with tempfile.TemporaryDirectory() as results:
        done = subprocess.run(
            [python, "-c", command, str(inputs), ",".join(steps), results],
            env={**inherited, **REFERENCE, **environment, "PYTHONPATH": path},
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
    """Compute the comma-separated `steps` from the folder `inputs`; write data versions and values to `results`."""
    loaded = read_inputs(Path(inputs))
    versions: dict[str, str] = {}
    for step in steps.split(","):
        arrays: dict[str, Any] = {}
        try:
            value = STEPS[step](loaded)
        except Exception as error:  # in another environment, a library may be absent or reject its input
            versions[step] = f"{type(error).__name__}: {error}"[:60]
        else:
            versions[step], arrays = data_version(value), _arrays(value)
        np.savez(Path(results, f"{step}.npz"), **arrays)
    Path(results, "versions.json").write_text(json.dumps(versions))


def _arrays(value: Value) -> dict[str, Any]:
    if isinstance(value, MapSet):
        return {name: volume.array for name, volume in value.items()}
    if isinstance(value, ResponseFunction):
        return {"coefficients": value.coefficients}
    if isinstance(value, Table):
        numbers = {name: cells for name, cells in value.columns.items() if value.kinds[name] != "text"}
        return {name: np.array(cells, np.float64) for name, cells in numbers.items()}
    return {"array": value.array} if isinstance(value, (Dwi, Volume)) else {}


def _head(folder: Path) -> tuple[Dwi, Volume]:
    """The DWI and the true brain mask of the synthetic head in `folder`."""
    import nibabel

    stem = folder / "sub-01" / "dwi" / "sub-01_dwi"
    image: Any = nibabel.load(f"{stem}.nii.gz")
    mask: Any = nibabel.load(folder / "truth" / "sub-01" / "mask.nii.gz")
    bvals = parse_bvals(Path(f"{stem}.bval").read_text())
    gradients = GradientTable(bvals, parse_bvecs(Path(f"{stem}.bvec").read_text(), len(bvals)))
    volume = Volume(np.asfortranarray(image.get_fdata(dtype=np.float32)), image.affine)
    return Dwi(volume, gradients), Volume(np.asarray(mask.dataobj, np.uint8), image.affine)
