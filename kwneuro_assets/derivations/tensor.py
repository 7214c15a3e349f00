"""The diffusion tensor by weighted linear least squares."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, NotApplicable, Volume
from kwneuro_assets.imaging.gradients import SHELL_WIDTH
from kwneuro_assets.imaging.mapset import scatter
from kwneuro_assets.imaging.volume import binary_mask, require_same_grid
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import in_blocks

UNKNOWNS = 7  # six elements of the tensor and ln S0
RANK_TOLERANCE = 1e-3  # of the largest singular value: directions equal up to a file's digits add no rank
LEAST_SIGNAL = 1e-6  # of the voxel's highest: zero and below become this before the logarithm, as in MRtrix3
LEAST_WEIGHT = 1e-10  # of the voxel's largest: no real contrast comes near it; keeps the fit solvable
LEAST_EIGENVALUE = 1e-6  # divided by the largest b-value: DIPY's minimum diffusivity
NO_DIFFUSION = 1e-7  # mm^2/s: above every eigenvalue that was raised, and a hundredth of the slowest in tissue
BLOCK = 10_000  # voxels at a time: some 100 MB with 200 volumes

log = logging.getLogger(__name__)


def fit_tensor(dwi: Dwi, mask: Volume, max_bvalue: float, *, progress: Progress = silent) -> MapSet | NotApplicable:
    """The diffusion tensor and what follows from it, in the voxels of `mask`.

    The logarithm of the signal is fitted twice, ln S0 included: by ordinary least squares, then weighted with the
    square of the signal that the first fit predicts (Chung et al. 2006; DIPY's WLS, MRtrix3's dwi2tensor).
    `tensor_volumes` tells which volumes are used.

    Maps, float32, in mm^2/s (`fa` has no unit): `fa`, `md`, `ad`, `rd` (x, y, z); `tensor` (x, y, z, 6) as Dxx, Dxy,
    Dyy, Dxz, Dyz, Dzz; `evals` (x, y, z, 3), descending; `evecs` (x, y, z, 9), the first eigenvector's components
    first, each with its largest component positive. Directions are in the world frame, scanner RAS+.

    Eigenvalues below 1e-6 / b are raised to that, and `tensor` is that of the raised ones; in how many voxels is
    logged, and `not_positive` tells which. A voxel without any positive signal is zero in every map.

    Raises InvalidData for a mask on another grid, or one that is empty or not binary.
    """
    mask = binary_mask(mask)
    require_same_grid(mask, dwi.volume, "mask", "the diffusion-weighted image")
    volumes = tensor_volumes(dwi.gradients, max_bvalue)
    if isinstance(volumes, NotApplicable):
        return volumes

    # Units of 1e-3 mm^2/s bring the tensor to the size of ln S0, and the normal equations to a good condition.
    bvals = np.where(dwi.b0_mask, 0, dwi.bvals)[volumes] / 1000
    design = tensor_design(bvals, dwi.world_bvecs[volumes])
    signals = dwi.signals(mask.array > 0, volumes)
    count = len(signals)
    evals, evecs = np.zeros((count, 3)), np.zeros((count, 3, 3))

    def fit(block: slice) -> None:
        signal = signals[block].astype(np.float64)
        lit = signal.max(axis=1) > 0
        evals[block][lit], evecs[block][lit] = _eigen(weighted_fit(design, signal[lit])[:, :6])

    in_blocks(fit, count, BLOCK, progress)
    evals /= 1000
    fitted = np.asarray(evecs.any(axis=(1, 2)))
    evals[fitted] = np.maximum(evals[fitted], LEAST_EIGENVALUE / (1000 * bvals.max()))
    raised = np.count_nonzero(not_positive(evals))
    if raised:
        log.warning("%d of %d voxels have a tensor with an eigenvalue that is not positive", raised, count)
    return MapSet({name: scatter(values.astype(np.float32), mask) for name, values in _maps(evals, evecs).items()})


def not_positive(evals: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """(...) True where the fitted tensor was not positive definite, from its eigenvalues (..., 3) in mm^2/s, descending
    and raised as `fit_tensor` does; False where there is none."""
    return (evals[..., 0] > 0) & (evals[..., 2] < NO_DIFFUSION)


def tensor_volumes(gradients: GradientTable, max_bvalue: float) -> NDArray[np.intp] | NotApplicable:
    """Indices of the volumes that the tensor is fitted to.

    Those with b=0 and every whole shell whose mean b-value is at most `max_bvalue`, give or take half a shell's
    width (50 s/mm^2) for scanners that jitter; then, shell by shell, what lies above, until six directions are
    independent. NotApplicable where they never are.
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
    """How many of the tensor's unknowns (ln S0 among them, so 7 at most) those volumes determine."""
    bvals = np.where(gradients.b0_mask, 0, gradients.bvals)[volumes]
    design = tensor_design(bvals / max(bvals.max(), 1), gradients.bvecs[volumes])
    singular = np.linalg.svd(design, compute_uv=False)
    return int(np.count_nonzero(singular > RANK_TOLERANCE * singular[0]))


def tensor_design(bvals: NDArray[np.float64], bvecs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix (n, 7) that takes Dxx, Dxy, Dyy, Dxz, Dyz, Dzz and ln S0 to the logarithm of n signals."""
    x, y, z = bvecs.T
    elements = np.stack([x * x, 2 * x * y, y * y, 2 * x * z, 2 * y * z, z * z], axis=1)
    return np.column_stack([-bvals[:, None] * elements, np.ones_like(bvals)])


def principal_axes(
    bvals: NDArray[np.float64], bvecs: NDArray[np.float64], signal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """First eigenvectors (voxels, 3) of the tensors that ordinary least squares fits to signals (voxels, n), each voxel
    with a positive one. `bvals` (n,) are in s/mm^2; the vectors are in the frame of `bvecs` (n, 3), of either sign.

    Zero and below count as the voxel's lowest positive signal: without weights, anything far lower would decide alone
    (DIPY's TensorModel takes the lowest of the whole image, which makes each voxel depend on all)."""
    lowest = np.where(signal > 0, signal, np.inf).min(axis=1, keepdims=True)
    elements = np.log(np.maximum(signal, lowest)) @ np.linalg.pinv(tensor_design(bvals / 1000, bvecs))[:6].T
    return _eigen(elements)[1][:, 0]


def weighted_fit(design: NDArray[np.float64], signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The unknowns (voxels, 7) of `tensor_design` for signals (voxels, n), each voxel with a positive one."""
    logarithm = np.log(np.maximum(signal, LEAST_SIGNAL * signal.max(axis=1, keepdims=True)))
    predicted = logarithm @ np.linalg.pinv(design).T @ design.T
    weights = np.maximum(np.exp(2 * (predicted - predicted.max(axis=1, keepdims=True))), LEAST_WEIGHT)
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    normal = (weights @ products).reshape(-1, UNKNOWNS, UNKNOWNS)
    right = (weights * logarithm) @ design
    solution: NDArray[np.float64] = np.linalg.solve(normal, right[..., None])[..., 0]
    return solution


def with_positive_largest(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Axes (..., 3) have no sign: the one that makes the component of largest magnitude positive."""
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=-1)[..., None], axis=-1)
    return np.where(largest < 0, -vectors, vectors)


def _eigen(elements: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues (voxels, 3), descending, and eigenvectors (voxels, 3, 3) as rows, of tensors (voxels, 6)."""
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
        "tensor": matrix[:, [0, 0, 1, 0, 1, 2], [0, 1, 1, 2, 2, 2]],
        "evals": evals,
        "evecs": evecs.reshape(-1, 9),
    }
