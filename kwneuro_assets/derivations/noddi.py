"""NODDI by AMICO's own code, handed arrays in place of files.

NODDI: Zhang et al., NeuroImage 61 (2012). AMICO: Daducci et al., NeuroImage 105 (2015), package dmri-amico. Its
dictionary, its solver and its direction (an ordinary least-squares tensor on all shells, by DIPY) are used as
they are. Only its `Evaluation` class is not: that one reads files, prints, calls `sys.exit`, and needs tables
that `amico.setup()` takes two minutes to write into the home folder, where one of them, half a second's work,
is enough.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.tensor import UNKNOWNS, tensor_rank, with_positive_largest
from kwneuro_assets.imaging import Dwi, InvalidData, MapSet, NotApplicable, Volume
from kwneuro_assets.imaging.mapset import scatter
from kwneuro_assets.imaging.volume import binary_mask, require_same_grid
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import one_blas_thread, thread_count

HARMONIC_ORDER = 12  # AMICO's default for the rotation of its dictionary
BLOCK = 2_000  # voxels between two reports of progress, about a second on one core
DICTIONARY_SHARE = 0.05  # of the work on a whole brain

# AMICO keeps its verbosity, its folder and the counters of its threads in module globals.
_amico_in_use = threading.Lock()


def fit_noddi(
    dwi: Dwi, mask: Volume, dpar: float, diso: float, directions: int, *, progress: Progress = silent
) -> MapSet | NotApplicable:
    """Neurite orientation dispersion and density, in the voxels of `mask`.

    `dpar` and `diso` are the diffusivities along neurites and of free water in mm^2/s, `directions` the number of
    orientations in AMICO's dictionary. Each b-value counts as its shell's mean.

    Maps, float32: `ndi`, `odi` and `fwf` (x, y, z), from 0 to 1; `direction` (x, y, z, 3), unit vectors in the world
    frame, scanner RAS+, with their largest component positive. A voxel whose mean b=0 is not positive is zero in
    every map. No voxel depends on another, nor on the number of threads (`KWNEURO_THREADS`).

    NotApplicable with fewer than two shells besides b=0, or fewer than six independent directions. Raises
    InvalidData for a mask on another grid, empty or not binary, and for a number of directions that AMICO does not
    have; ModuleNotFoundError without dmri-amico.
    """
    mask = binary_mask(mask)
    require_same_grid(mask, dwi.volume, "mask", "the diffusion-weighted image")
    refusal = _refusal(dwi)
    if refusal:
        return refusal

    where = np.nonzero(mask.array)
    inverse_b0 = _inverse(dwi.mean_b0().array[where])
    # With one b=0 volume AMICO's solver takes it to be the first.
    order = np.argsort(~dwi.b0_mask, kind="stable")
    table = np.column_stack([dwi.world_bvecs, dwi.gradients.snapped_bvals()])[order]
    count = where[0].size
    estimates, axes = np.zeros((count, 3)), np.zeros((count, 3))
    with _amico() as folder:
        fit = _prepare(table, dpar, diso, directions, folder)
        progress(DICTIONARY_SHARE)
        for start in range(0, count, BLOCK):
            block = slice(start, start + BLOCK)
            raw = dwi.array[tuple(axis[block] for axis in where)][:, order]
            signal, lit = _normalised(raw, inverse_b0[block])
            if lit.any():
                estimates[block][lit], axes[block][lit] = fit(signal[lit])
            progress(1 - (1 - DICTIONARY_SHARE) * (1 - min(start + BLOCK, count) / count))
    fractions = np.clip(estimates, 0, 1).astype(np.float32)
    maps = {name: fractions[:, index] for index, name in enumerate(("ndi", "odi", "fwf"))}
    maps["direction"] = with_positive_largest(axes).astype(np.float32)
    return MapSet({name: scatter(values, mask) for name, values in maps.items()})


@dataclass
class _Fit:
    """A model with its dictionary, ready to be fitted: the attributes that an AMICO model reads of an Evaluation."""

    model: Any
    tensor: Any
    htable: NDArray[np.int16]
    KERNELS: dict[str, Any]
    nthreads: int = 1
    y: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    DIRs: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def get_config(self, key: str) -> bool:
        """Every option that a model asks for (errors of the fit, modulated maps) is off."""
        return False

    def __call__(self, signal: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """NDI, ODI and FWF (voxels, 3), and the direction (voxels, 3), of normalised signals (voxels, n)."""
        self.y = signal
        axes = self.tensor.fit(signal).directions.reshape(-1, 3)
        self.DIRs = axes.copy()  # the solver turns them in place
        self.nthreads = min(thread_count(), len(signal))
        return self.model.fit(self)["estimates"], axes


def _refusal(dwi: Dwi) -> NotApplicable | None:
    shells = dwi.gradients.shells()
    if len(shells) < 2:
        found = f"one, b={shells[0].bvalue:.0f}" if shells else "none"
        return NotApplicable(f"NODDI needs at least two shells besides b=0; this dataset has {found}")
    rank = tensor_rank(dwi.gradients, np.arange(len(dwi.gradients)))
    if rank < UNKNOWNS:
        return NotApplicable(f"NODDI needs at least 6 independent directions; this dataset has {rank - 1} of them")
    return None


def _inverse(mean_b0: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / S0 in AMICO's precision, and 0 where there is no signal."""
    positive = mean_b0 > 0
    with np.errstate(over="ignore"):
        return np.where(positive, 1 / np.where(positive, mean_b0, np.float32(1)), np.float32(0))


def _normalised(
    raw: NDArray[np.float32], inverse_b0: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Signals as shares of S0, none below zero, and the voxels where that is defined."""
    with np.errstate(over="ignore", invalid="ignore"):
        signal = np.maximum((raw * inverse_b0[:, None]).astype(np.float64), 0)
    return signal, (inverse_b0 > 0) & np.isfinite(signal).all(axis=1)


@contextmanager
def _amico() -> Iterator[str]:
    """AMICO to ourselves: silent, single-threaded in BLAS, its `sys.exit` an error, and an empty folder for it."""
    try:
        import amico
        import amico.lut
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("NODDI needs dmri-amico: install kwneuro-assets[noddi]") from error
    with _amico_in_use, tempfile.TemporaryDirectory(prefix="noddi-") as folder, one_blas_thread():
        verbosity, home = amico.get_verbose(), amico.lut.dipy_home
        amico.set_verbose(0)
        amico.lut.dipy_home = folder
        try:
            yield folder
        except SystemExit as stop:
            raise RuntimeError(f"AMICO gave up with exit status {stop.code}") from stop
        finally:
            amico.set_verbose(verbosity)
            amico.lut.dipy_home = home


def _prepare(table: NDArray[np.float64], dpar: float, diso: float, directions: int, folder: str) -> _Fit:
    """The dictionary for a scheme (n, 4) of world-frame vectors and b-values, and DIPY's tensor for directions."""
    from amico import lut
    from amico.models import NODDI
    from amico.scheme import Scheme
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    if not lut.is_valid(directions):
        known = ", ".join(map(str, sorted(lut.valid_dirs())))
        raise InvalidData("noddi.directions", expected=f"one of {known}", found=str(directions))
    scheme = Scheme(table)
    tensor = TensorModel(gradient_table(bvals=scheme.b, bvecs=scheme.raw[:, :3]), fit_method="OLS")  # type: ignore[no-untyped-call]

    model = NODDI()
    model.dPar, model.dIso = dpar, diso
    model.scheme = scheme
    model.set_solver()
    lut.precompute_rotation_matrices(HARMONIC_ORDER, directions)
    rotations = lut.load_precomputed_rotation_matrices(HARMONIC_ORDER, directions)
    model.generate(folder, rotations, *lut.aux_structures_generate(scheme, HARMONIC_ORDER), directions)
    kernels = model.resample(folder, *lut.aux_structures_resample(scheme, HARMONIC_ORDER), False, directions)
    # The solver's own type and order: it then shares this one between threads and blocks and copies nothing.
    kernels["wm"] = np.ascontiguousarray(kernels["wm"].swapaxes(0, 1), np.float64).swapaxes(0, 1)
    return _Fit(model, tensor, lut.load_precomputed_hash_table(directions), kernels)
