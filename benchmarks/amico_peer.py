"""NODDI with AMICO's own dictionary, directions and solver, timed in this process.

    python -m benchmarks.amico_peer noddi FOLDER SUBJECT OUT

AMICO's class `Evaluation` reads files and needs tables that `amico.setup()` writes into the home folder in two minutes.
Its model takes arrays and needs one of these tables, which takes half a second: this is what is timed. The inputs make
the results comparable: the same gradient table in the world frame, because the directions of the dictionary depend on
the frame; b-values snapped to shells, because AMICO computes a dictionary for each distinct b-value; unmerged b=0
volumes, one of them first.
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
from benchmarks.process import report, timed
from benchmarks.steps import SETTINGS, load_dwi, load_mask
from kwneuro_assets.imaging import Dwi
from kwneuro_assets.threads import one_blas_thread, thread_count

HARMONIC_ORDER = 12  # AMICO's default for rotating its dictionary
MAPS = ("ndi", "odi", "fwf")


@dataclass
class _Fit:
    """The attributes of an Evaluation that an AMICO model reads."""

    htable: NDArray[np.int16]
    KERNELS: dict[str, Any]
    y: NDArray[np.float64]
    DIRs: NDArray[np.float64]
    nthreads: int

    def get_config(self, key: str) -> bool:
        """Disables all options of a model (fit errors, modulated maps)."""
        return False


def noddi(dwi: Dwi, inside: NDArray[np.bool_], folder: str) -> NDArray[np.float64]:
    """NDI, ODI and FWF (voxels, 3) in `inside`; zero in voxels without signal at b=0."""
    order = np.argsort(~dwi.b0_mask, kind="stable")
    scheme = Scheme(np.column_stack([dwi.world_bvecs, dwi.gradients.snapped_bvals()])[order])
    model = NODDI()
    model.dPar, model.dIso, model.scheme = SETTINGS.noddi.dpar, SETTINGS.noddi.diso, scheme
    model.set_solver()
    htable, kernels = _kernels(model, scheme, SETTINGS.noddi.directions, folder)

    raw = dwi.signals(inside)[:, order]
    mean_b0 = dwi.mean_b0().array[inside]
    has_signal = mean_b0 > 0
    inverse = np.where(has_signal, 1 / np.where(has_signal, mean_b0, 1), 0).astype(np.float32)  # AMICO's precision
    signal = np.maximum((raw * inverse[:, None]).astype(np.float64), 0)[has_signal]
    table: Any = gradient_table(bvals=scheme.b, bvecs=scheme.raw[:, :3])
    tensor: Any = TensorModel  # untyped
    axes = tensor(table, fit_method="OLS").fit(signal).directions.reshape(-1, 3)
    estimates = np.zeros((has_signal.size, len(MAPS)))
    estimates[has_signal] = model.fit(_Fit(htable, kernels, signal, axes, min(thread_count(), len(signal))))[
        "estimates"
    ]
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
        estimates, timing = timed(lambda: noddi(dwi, inside, tables))
    for name, values in zip(MAPS, estimates.T, strict=True):
        np.save(Path(out) / f"{name}.npy", values)
    report(timing)


if __name__ == "__main__":
    main(*sys.argv[1:])
