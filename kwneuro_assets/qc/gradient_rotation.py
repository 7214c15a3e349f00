"""Rotation of all b-vectors by a small angle, estimated from the continuity of fibers.

If all b-vectors are rotated by 10 degrees, so are all tensors, and no residual of any fit changes. Only anatomy shows
it: along a fiber, the direction of fibers changes least. With the field D(x) = u u' of the first eigenvectors u, the
squared derivative of D along the rotated direction, |(R u . grad) D|^2 = (R u)' M (R u) with M_jk = <d_j D, d_k D>, is
smallest at the rotation R that brings the b-vectors into place; a rotation of D itself does not change M. This is the
continuous counterpart of the 24 signed permutations of `derivations.gradient_check`, which tests larger errors.

Measured: the anatomy of one head (TractSeg's example) on a grid of 2 mm, and four heads of the demo at 3.2 mm. With the
correct table, the components were within 3.6 degrees of zero, with standard errors of 1.0 to 2.2 degrees. A rotation by
10 or 30 degrees about any axis changed the estimate by the same angle, within 0.5 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.gradient_check import CELL, MAX_BVALUE, MIN_FA
from kwneuro_assets.derivations.tensor import UNKNOWNS, tensor_design, tensor_volumes
from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.imaging.gradients import fsl_to_world
from kwneuro_assets.qc.masked import MaskedSeries
from kwneuro_assets.threads import in_blocks, parallel_map

BLOCK = 20_000  # voxels at a time
MIN_VOXELS = 1000  # with a fiber and a tensor in all six neighbors; fewer determine no rotation
STEPS = 20  # of Newton's method; 5 suffice
MAX_STEP = 0.2  # radians: keeps a step within the range in which the quadratic model holds
CONVERGED = 1e-6  # radians
DIFFERENCE = 1e-3  # radians, of the finite differences of the slope

Moments = NDArray[np.float64]  # (..., 3, 3, 3, 3): the sum of M_ij u_a u_b over voxels


@dataclass(frozen=True)
class Rotation:
    """The rotation vector (3,) that corrects the b-vectors, in the FSL frame, and its standard error (3,), in degrees.

    The error is that of sampling, from the differences between cells of 8 voxels. Anatomy adds about 2 degrees: fibers
    are not perfectly continuous.
    """

    vector: NDArray[np.float64]
    error: NDArray[np.float64]

    @property
    def angle(self) -> float:
        """The angle of the rotation, in degrees."""
        return float(np.linalg.norm(self.vector))

    @property
    def angle_error(self) -> float:
        """The standard error of the angle, in degrees: along the axis of the rotation."""
        axis = self.vector / max(self.angle, 1e-12)
        return float(np.linalg.norm(axis * self.error))


def estimate_rotation(series: MaskedSeries) -> Rotation | None:
    """The rotation of the b-vectors of a raw DWI series that makes its fibers most continuous.

    None if the gradient table does not determine a tensor, or if fewer than 1000 voxels have a fiber and neighbors.
    """
    tensors = _tensors(series)
    if tensors is None:
        return None
    cells = _cell_moments(series, *_fibers(tensors))
    if cells is None:
        return None
    vector = _minimum(cells.sum(axis=0))
    return Rotation(np.degrees(vector), np.degrees(_standard_error(cells, vector)))


def _tensors(series: MaskedSeries) -> NDArray[np.float32] | None:
    """(voxels, 6) the tensors by ordinary least squares, in the FSL frame; zero where a signal is not positive."""
    volumes = tensor_volumes(series.gradients, MAX_BVALUE)
    if isinstance(volumes, NotApplicable):
        return None
    bvals, bvecs = series.gradients.bvals[volumes] / 1000, series.gradients.bvecs[volumes]
    inverse = np.linalg.pinv(tensor_design(bvals, bvecs))[: UNKNOWNS - 1].astype(np.float32)
    tensors = np.zeros((series.positions.size, UNKNOWNS - 1), np.float32)

    def fit(part: slice) -> None:
        signal = series.signals[volumes, part]
        positive = np.asarray((signal > 0).all(axis=0))
        tensors[part] = (inverse @ np.log(np.where(positive, signal, 1))).T * positive[:, None]

    for _ in parallel_map(fit, [part for _, part in series.slices]):
        pass
    return tensors


def _fibers(tensors: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The first eigenvectors (voxels, 3), zero without a positive tensor, and where there is one fiber (voxels,)."""
    matrix = tensors[:, [0, 1, 3, 1, 2, 4, 3, 4, 5]].reshape(-1, 3, 3).astype(np.float64)
    trace = matrix[:, [0, 1, 2], [0, 1, 2]].sum(axis=1)
    norm = (matrix**2).sum(axis=(1, 2))
    has_tensor: NDArray[np.bool_] = trace > 0
    vectors = np.zeros((len(matrix), 3))

    def decompose(part: slice) -> None:
        vectors[part] = np.linalg.eigh(matrix[part])[1][:, :, 2]

    in_blocks(decompose, len(matrix), BLOCK)
    # FA from the invariants: 2/3 FA^2 = 1 - trace^2 / (3 norm^2).
    anisotropic: NDArray[np.bool_] = 1 - trace**2 / np.maximum(3 * norm, 1e-30) >= 2 / 3 * MIN_FA**2
    return vectors * has_tensor[:, None], has_tensor & anisotropic


def _cell_moments(series: MaskedSeries, vectors: NDArray[np.float64], is_fiber: NDArray[np.bool_]) -> Moments | None:
    """(cells, 3, 3, 3, 3) the moments of each cell that contains fibers; None if there are too few."""
    place = np.array(np.unravel_index(series.positions, series.grid, order="F")).T
    numbers = np.full([size + 2 for size in series.grid], -1)
    numbers[tuple(place.T + 1)] = np.where(vectors.any(axis=1), np.arange(len(place)), -1)
    center = np.flatnonzero(is_fiber)
    sides = [[numbers[tuple((place[center] + 1 + sign * step).T)] for sign in (1, -1)] for step in np.eye(3, dtype=int)]
    complete = np.all([side >= 0 for pair in sides for side in pair], axis=0)
    if np.count_nonzero(complete) < MIN_VOXELS:
        return None
    center = center[complete]
    tensors = _derivative_products(series.affine, vectors, [[side[complete] for side in pair] for pair in sides])
    # Voxels count alike, whatever their contrast; without what holds in any direction, such as noise along thin slices.
    tensors /= np.maximum(np.trace(tensors, axis1=1, axis2=2), 1e-30)[:, None, None]
    tensors -= tensors.mean(axis=0)
    fibers = vectors[center]
    each = (tensors[:, :, :, None, None] * (fibers[:, :, None] * fibers[:, None, :])[:, None, None]).reshape(-1, 81)
    cell = place[center] // CELL
    cell = np.unique(np.ravel_multi_index(tuple(cell.T), tuple(cell.max(axis=0) + 1)), return_inverse=True)[1].ravel()
    sums = np.stack([np.bincount(cell, column).astype(np.float64) for column in each.T], axis=1)
    return sums.reshape(-1, 3, 3, 3, 3)


def _derivative_products(
    affine: NDArray[np.float64], vectors: NDArray[np.float64], sides: list[list[NDArray[np.intp]]]
) -> NDArray[np.float64]:
    """(n, 3, 3) M: the products of the derivatives of u u' along the axes of the FSL frame, by central differences."""
    upper = np.triu_indices(3)
    weight = np.where(upper[0] == upper[1], 1, np.sqrt(2))  # an off-diagonal element occurs twice

    def dyads(where: NDArray[np.intp]) -> NDArray[np.float64]:
        return vectors[where][:, upper[0]] * vectors[where][:, upper[1]] * weight

    derivatives = np.stack([dyads(after) - dyads(before) for after, before in sides], axis=1)
    # Per mm, also for oblique and sheared affines: a covariant vector transforms with the inverse.
    to_fsl = fsl_to_world(affine).T @ np.linalg.inv(affine[:3, :3]).T
    derivatives = np.einsum("ij,vjk->vik", to_fsl, derivatives)
    return np.asarray(derivatives @ derivatives.swapaxes(1, 2))


def _minimum(moments: Moments) -> NDArray[np.float64]:
    """The rotation vector (3,) in radians at the minimum of the sum of (R u)' M (R u), by Newton's method from zero."""
    total = _rotation(np.zeros(3))
    for _ in range(STEPS):
        here = _rotated(moments, total)
        values, axes = np.linalg.eigh(_curvature(here))
        step = -axes @ ((axes.T @ _slope(here)) / np.maximum(np.abs(values), 1e-12))  # downhill, also on a saddle
        size = float(np.linalg.norm(step))
        total = _rotation(step * min(1.0, MAX_STEP / max(size, CONVERGED))) * total
        if size < CONVERGED:
            break
    return np.asarray(total.as_rotvec())


def _standard_error(cells: Moments, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) in radians: from the influence of each cell on the minimum (linearized jackknife)."""
    rotated = _rotated(cells, _rotation(vector))
    influence = _slope(rotated) @ np.linalg.pinv(_curvature(rotated.sum(axis=0)))
    return np.sqrt((influence**2).sum(axis=0))


def _slope(moments: Moments) -> NDArray[np.float64]:
    """(..., 3) the derivative of the sum of u' M u by a rotation of u: 2 u x M u."""
    product = np.einsum("...ijaj->...ia", moments)  # (M u) u'
    return 2 * np.stack([product[..., k, j] - product[..., j, k] for j, k in ((1, 2), (2, 0), (0, 1))], axis=-1)


def _curvature(moments: Moments) -> NDArray[np.float64]:
    """(3, 3) the second derivative, by central differences of the slope."""

    def slope(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        return _slope(_rotated(moments, _rotation(vector)))

    steps = DIFFERENCE * np.eye(3)
    matrix = np.array([slope(step) - slope(-step) for step in steps]) / (2 * DIFFERENCE)
    return (matrix + matrix.T) / 2


def _rotated(moments: Moments, rotation: Any) -> Moments:
    matrix = rotation.as_matrix()
    return np.asarray(np.einsum("ac,bd,...ijcd->...ijab", matrix, matrix, moments))


def _rotation(vector: NDArray[np.float64]) -> Any:
    from scipy.spatial.transform import Rotation as Matrix

    return Matrix.from_rotvec(vector)
