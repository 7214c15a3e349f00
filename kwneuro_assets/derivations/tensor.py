"""The diffusion tensor, fitted by weighted linear least squares."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.b0_signal import with_b0_signal
from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, NotApplicable, Volume
from kwneuro_assets.imaging.gradients import SHELL_WIDTH
from kwneuro_assets.imaging.mapset import scatter
from kwneuro_assets.imaging.volume import mask_of
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import in_blocks

UNKNOWNS = 7  # six elements of the tensor and ln S0
MEAN_ELEMENTS = (1 / 3, 0, 1 / 3, 0, 0, 1 / 3)  # of x*x, x*y, y*y, x*z, y*z, z*z over all directions
RANK_TOLERANCE = 1e-3  # of the largest singular value: directions that differ by rounding in the file add no rank
MIN_SIGNAL = 1e-6  # of the voxel's maximum: lower signals are raised to it before the logarithm, as in MRtrix3
MIN_WEIGHT = 1e-10  # of the voxel's maximum: far below any real contrast; keeps the normal matrix invertible
MIN_EIGENVALUE = 1e-6  # divided by the largest b-value: DIPY's minimum diffusivity
NO_DIFFUSION = 1e-7  # mm^2/s: above every raised eigenvalue, and a hundredth of the slowest diffusion in tissue
BLOCK = 10_000  # voxels at a time: about 100 MB with 200 volumes

log = logging.getLogger(__name__)


def fit_tensor(dwi: Dwi, mask: Volume, max_bvalue: float, *, progress: Progress = silent) -> MapSet | NotApplicable:
    """The diffusion tensor and its scalar maps in the voxels of `mask` (x, y, z).

    The logarithm of the signal is fitted twice, with ln S0 as an unknown: by ordinary least squares, then with the
    squared signal predicted by the first fit as weights (Chung et al., NeuroImage 33, 2006,
    doi:10.1016/j.neuroimage.2006.07.001; DIPY's WLS, MRtrix3's dwi2tensor). The fit uses the volumes that
    `tensor_volumes` selects up to `max_bvalue` (s/mm^2), each with its real b-value, b=0 volumes included.

    Maps, float32, in mm^2/s (`fa` has no unit): `fa`, `md`, `ad`, `rd` (x, y, z); `tensor` (x, y, z, 6) as Dxx, Dxy,
    Dxz, Dyy, Dyz, Dzz (BEP016's order; see `tensor_in`); `evals` (x, y, z, 3), descending; `evecs` (x, y, z, 9), the
    three components of the first eigenvector, then the second and third, each eigenvector with its largest component
    positive. Directions are in the world frame, scanner RAS+.

    Eigenvalues below 1e-6 / (maximum b-value) are raised to this value, and `tensor` is computed from the raised
    eigenvalues. The number of these voxels is logged; `not_positive` finds them. A voxel whose mean b=0 is not positive
    is zero in every map.

    Returns NotApplicable if fewer than six directions are independent. Raises InvalidData if the mask is on another
    grid, empty, or not binary.
    """
    mask = mask_of(dwi.volume, mask)
    volumes = tensor_volumes(dwi.gradients, max_bvalue)
    if isinstance(volumes, NotApplicable):
        return volumes

    # In units of 1e-3 mm^2/s the tensor is of the size of ln S0: the normal equations are well conditioned.
    bvals = dwi.bvals[volumes] / 1000
    design = tensor_design(bvals, dwi.world_bvecs[volumes])
    signals = dwi.signals(mask.array > 0, volumes)
    count = len(signals)
    lit = with_b0_signal(signals[:, dwi.b0_mask[volumes]].mean(axis=1, dtype=np.float64))
    evals, evecs = np.zeros((count, 3)), np.zeros((count, 3, 3))

    def fit(block: slice) -> None:
        fitted = lit[block]
        signal = signals[block][fitted].astype(np.float64)
        evals[block][fitted], evecs[block][fitted] = _eigen(weighted_fit(design, signal)[:, :6])

    in_blocks(fit, count, BLOCK, progress)
    evals /= 1000
    evals[lit] = np.maximum(evals[lit], MIN_EIGENVALUE / (1000 * bvals.max()))
    raised = np.count_nonzero(not_positive(evals))
    if raised:
        log.warning("%d of %d voxels have a tensor with an eigenvalue that is not positive", raised, count)
    return MapSet({name: scatter(values.astype(np.float32), mask) for name, values in _maps(evals, evecs).items()})


def not_positive(evals: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """(...) True where the fitted tensor was not positive definite; False where no tensor was fitted.

    `evals` (..., 3) are those of `fit_tensor`, in mm^2/s, descending.
    """
    return (evals[..., 0] > 0) & (evals[..., 2] < NO_DIFFUSION)


def tensor_volumes(gradients: GradientTable, max_bvalue: float) -> NDArray[np.intp] | NotApplicable:
    """The ascending indices of the volumes that the tensor is fitted to.

    These are the b=0 volumes and all shells whose mean b-value is at most `max_bvalue` + 50 s/mm^2 (half the width of
    a shell, for jittered b-values). If they have fewer than six independent directions, the next higher shells are
    added until they have six. Returns NotApplicable if all shells together do not.
    """
    volumes = np.flatnonzero(gradients.b0_mask)
    rank = 1
    for shell in gradients.shells():
        if shell.bvalue > max_bvalue + SHELL_WIDTH / 2 and rank == UNKNOWNS:
            break
        volumes = np.sort(np.append(volumes, shell.indices))
        rank = tensor_rank(gradients, volumes)
    if rank < UNKNOWNS:
        return NotApplicable(
            f"a diffusion tensor needs at least 6 independent directions; this dataset has {rank - 1} of them"
        )
    return volumes


def tensor_rank(gradients: GradientTable, volumes: NDArray[np.intp]) -> int:
    """The number of unknowns of the tensor fit, at most 7 (with ln S0), that the volumes at these indices determine.

    Volumes with b <= 100 s/mm^2 count as b=0 here, whatever the b=0 threshold is: they carry more noise than
    information about directions.
    """
    low = gradients.b0_mask | (gradients.bvals <= SHELL_WIDTH)
    bvals = np.where(low, 0, gradients.bvals)[volumes]
    design = tensor_design(bvals / max(bvals.max(), 1), gradients.bvecs[volumes])
    singular = np.linalg.svd(design, compute_uv=False)
    return int(np.count_nonzero(singular > RANK_TOLERANCE * singular[0]))


def tensor_design(bvals: NDArray[np.float64], bvecs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The design matrix (n, 7): the logarithm of n signals from Dxx, Dxy, Dyy, Dxz, Dyz, Dzz and ln S0.

    `bvals` (n,) are in the inverse unit of the tensor; the tensor is in the frame of `bvecs` (n, 3). A zero b-vector
    means that the direction is unknown: the signal then depends on the mean diffusivity, as in a trace image. (DIPY and
    MRtrix3 treat such a volume as b=0: with b=50, MD is 5 % too low.) The order of the columns is the fit's own; the
    stored order is that of `tensor_in`.
    """
    x, y, z = bvecs.T
    elements = np.stack([x * x, 2 * x * y, y * y, 2 * x * z, 2 * y * z, z * z], axis=1)
    elements[~bvecs.any(axis=1)] = MEAN_ELEMENTS
    return np.column_stack([-bvals[:, None] * elements, np.ones_like(bvals)])


def principal_axes(
    bvals: NDArray[np.float64], bvecs: NDArray[np.float64], signal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The first eigenvectors (voxels, 3) of tensors fitted to `signal` (voxels, n) by ordinary least squares.

    `bvals` (n,) are in s/mm^2. The eigenvectors are in the frame of `bvecs` (n, 3), with their largest component
    positive. Each voxel needs a positive signal.

    Signals that are not positive are raised to the lowest positive signal of the voxel: much lower values would
    dominate an unweighted fit. (DIPY's TensorModel uses the lowest of the image, so that each voxel depends on all.)
    """
    lowest = np.where(signal > 0, signal, np.inf).min(axis=1, keepdims=True)
    elements = np.log(np.maximum(signal, lowest)) @ np.linalg.pinv(tensor_design(bvals / 1000, bvecs))[:6].T
    return _eigen(elements)[1][:, 0]


def weighted_fit(design: NDArray[np.float64], signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The unknowns (voxels, 7) of `tensor_design` from `signal` (voxels, n); each voxel needs a positive signal."""
    logarithm = np.log(np.maximum(signal, MIN_SIGNAL * signal.max(axis=1, keepdims=True)))
    predicted = logarithm @ np.linalg.pinv(design).T @ design.T
    weights = np.maximum(np.exp(2 * (predicted - predicted.max(axis=1, keepdims=True))), MIN_WEIGHT)
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    normal = (weights @ products).reshape(-1, UNKNOWNS, UNKNOWNS)
    right = (weights * logarithm) @ design
    solution: NDArray[np.float64] = np.linalg.solve(normal, right[..., None])[..., 0]
    return solution


def with_positive_largest(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The axes (..., 3), each with the sign that makes its component of largest magnitude positive.

    >>> with_positive_largest(np.array([[0.6, -0.8, 0.0], [0.0, 0.8, -0.6]])).tolist()
    [[-0.6, 0.8, -0.0], [0.0, 0.8, -0.6]]
    """
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=-1)[..., None], axis=-1)
    return np.where(largest < 0, -vectors, vectors)


def _eigen(elements: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues (voxels, 3), descending, and eigenvectors (voxels, 3, 3) as rows, of tensors (voxels, 6).

    The elements are in the order of `tensor_design`.
    """
    matrix = elements[:, [0, 1, 3, 1, 2, 4, 3, 4, 5]].reshape(-1, 3, 3)
    evals, columns = np.linalg.eigh(matrix)
    return evals[:, ::-1], with_positive_largest(columns[:, :, ::-1].swapaxes(1, 2))


def _maps(evals: NDArray[np.float64], evecs: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    mean = evals.mean(axis=1)
    spread = ((evals - mean[:, None]) ** 2).sum(axis=1)
    power = (evals**2).sum(axis=1)
    anisotropy = np.sqrt(1.5 * spread / np.where(power > 0, power, 1))
    matrix = np.einsum("vki,vk,vkj->vij", evecs, evals, evecs)
    return {
        "fa": np.minimum(anisotropy, 1),
        "md": mean,
        "ad": evals[:, 0],
        "rd": evals[:, 1:].mean(axis=1),
        "tensor": matrix[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]],  # BEP016's order: see tensor_order
        "evals": evals,
        "evecs": evecs.reshape(-1, 9),
    }
