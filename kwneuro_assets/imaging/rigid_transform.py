"""A rigid transform between two world frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData

_ORTHOGONAL = 1e-6  # the largest deviation of a rotation matrix times its transpose from the identity


@dataclass(frozen=True, eq=False)
class RigidTransform:
    """A rotation and a translation that bring the images of a source space to a target space.

    `matrix` (4, 4) maps points of the target to points of the source, both in mm, scanner RAS+: the direction in which
    an image is resampled, and in which ITK and ANTs store a transform. `inverse` maps points of the source to points
    of the target.

    Raises InvalidData if the matrix is not a proper rotation (a mirror image is none) with a translation.

    >>> moved = np.eye(4)
    >>> moved[:3, 3] = 10, 0, -5
    >>> transform = RigidTransform(moved)
    >>> transform.inverse[:3, 3].tolist(), transform.degrees
    ([-10.0, 0.0, 5.0], 0.0)
    >>> RigidTransform(np.diag([-1, 1, 1, 1]))
    Traceback (most recent call last):
        ...
    kwneuro_assets.imaging.errors.InvalidData: rigid transform: expected a rotation and a translation, found [[-1.0, \
0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]].
    """

    matrix: NDArray[np.float64]

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, np.float64) + 0.0  # -0.0 becomes 0.0: equal transforms have equal bytes
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not _is_rigid(matrix):
            raise InvalidData("rigid transform", expected="a rotation and a translation", found=f"{matrix.tolist()}")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @property
    def inverse(self) -> NDArray[np.float64]:
        """(4, 4), points of the source to points of the target, in mm, scanner RAS+."""
        inverse = np.eye(4)
        inverse[:3, :3] = self.matrix[:3, :3].T
        inverse[:3, 3] = 0 - (self.matrix[:3, :3] * self.matrix[:3, 3:]).sum(axis=0)
        return inverse

    @property
    def degrees(self) -> float:
        """The angle of the rotation, from 0 to 180 degrees."""
        rotation = self.matrix[:3, :3]
        axis = (rotation - rotation.T)[[2, 0, 1], [1, 2, 0]]  # times twice the sine
        return float(np.degrees(np.arctan2(np.linalg.norm(axis), np.trace(rotation) - 1)))


def _is_rigid(matrix: NDArray[np.float64]) -> bool:
    rotation = matrix[:3, :3]
    is_orthogonal = np.abs(rotation @ rotation.T - np.eye(3)).max() < _ORTHOGONAL
    return bool(is_orthogonal and np.linalg.det(rotation) > 0 and (matrix[3] == (0, 0, 0, 1)).all())
