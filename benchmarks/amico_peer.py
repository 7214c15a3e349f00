"""NODDI by AMICO's own dictionary, directions and solver, timed in this process.

    python -m benchmarks.amico_peer noddi FOLDER SUBJECT OUT

Its class `Evaluation` reads files and needs tables that `amico.setup()` takes two minutes to write into the home
folder; its model takes arrays and needs one of them, half a second's work, so that is what is timed. What it gets makes
its results comparable: identical world-frame gradients, as its dictionary's directions depend on the frame; b-values
snapped to shells, as its dictionary is made anew for each other one; unmerged b=0 volumes, the first volume among them.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import amico
import numpy as np
from amico import lut
from amico.models import NODDI
from amico.scheme import Scheme
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from numpy.typing import NDArray

from benchmarks.dataset import Dataset
from benchmarks.process import tell, timed
from benchmarks.steps import SETTINGS, load_dwi, load_mask
from kwneuro_assets.imaging import Dwi
from kwneuro_assets.threads import one_blas_thread, thread_count

HARMONIC_ORDER = 12  # AMICO's default for the rotation of its dictionary
MAPS = ("ndi", "odi", "fwf")


@dataclass
class _Fit:
    """The attributes that an AMICO model reads of an Evaluation."""

    htable: NDArray[np.int16]
    KERNELS: dict[str, Any]
    y: NDArray[np.float64]
    DIRs: NDArray[np.float64]
    nthreads: int

    def get_config(self, key: str) -> bool:
        """Every option that a model asks for (errors of the fit, modulated maps) is off."""
        return False


def noddi(dwi: Dwi, inside: NDArray[np.bool_], folder: str) -> NDArray[np.float64]:
    """NDI, ODI and FWF (voxels, 3) of the voxels `inside`; those without signal at b=0 are zero."""
    order = np.argsort(~dwi.b0_mask, kind="stable")
    scheme = Scheme(np.column_stack([dwi.world_bvecs, dwi.gradients.snapped_bvals()])[order])
    model = NODDI()
    model.dPar, model.dIso, model.scheme = SETTINGS.noddi.dpar, SETTINGS.noddi.diso, scheme
    model.set_solver()
    htable, kernels = _kernels(model, scheme, SETTINGS.noddi.directions, folder)

    raw = dwi.signals(inside)[:, order]
    mean_b0 = dwi.mean_b0().array[inside]
    lit = mean_b0 > 0
    inverse = np.where(lit, 1 / np.where(lit, mean_b0, 1), 0).astype(np.float32)  # in AMICO's own precision
    signal = np.maximum((raw * inverse[:, None]).astype(np.float64), 0)[lit]
    table: Any = gradient_table(bvals=scheme.b, bvecs=scheme.raw[:, :3])
    tensor: Any = TensorModel  # untyped
    axes = tensor(table, fit_method="OLS").fit(signal).directions.reshape(-1, 3)
    estimates = np.zeros((lit.size, len(MAPS)))
    estimates[lit] = model.fit(_Fit(htable, kernels, signal, axes, min(thread_count(), len(signal))))["estimates"]
    return np.clip(estimates, 0, 1)


def _kernels(model: Any, scheme: Any, directions: int, folder: str) -> tuple[NDArray[np.int16], dict[str, Any]]:
    lut.precompute_rotation_matrices(HARMONIC_ORDER, directions)
    rotations = lut.load_precomputed_rotation_matrices(HARMONIC_ORDER, directions)
    model.generate(folder, rotations, *lut.aux_structures_generate(scheme, HARMONIC_ORDER), directions)
    kernels = model.resample(folder, *lut.aux_structures_resample(scheme, HARMONIC_ORDER), False, directions)
    return lut.load_precomputed_hash_table(directions), kernels


def main(step: str, folder: str, subject: str, out: str) -> None:
    dataset = Dataset(Path(folder), subject)
    dwi, inside = load_dwi(dataset), load_mask(dataset).array > 0
    amico.set_verbose(0)
    with tempfile.TemporaryDirectory() as tables, one_blas_thread():
        lut.dipy_home = tables
        estimates, figures = timed(lambda: noddi(dwi, inside, tables))
    for name, values in zip(MAPS, estimates.T, strict=True):
        np.save(Path(out) / f"{name}.npy", values)
    tell(figures)


if __name__ == "__main__":
    main(*sys.argv[1:])
