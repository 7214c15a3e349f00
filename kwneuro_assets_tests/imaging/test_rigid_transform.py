"""Rigid transforms: their inverse, their angle, and what is not one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from kwneuro_assets.imaging import InvalidData, RigidTransform


def transform(degrees: float = 30.0, shift: tuple[float, float, float] = (10.0, -20.0, 5.0)) -> RigidTransform:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.array([1, 2, 2]) / 3 * degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return RigidTransform(matrix)


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 30.0, 179.0])
def test_the_inverse_undoes_the_transform_and_the_angle_is_that_of_the_rotation(degrees: float) -> None:
    one = transform(degrees)
    assert one.inverse @ one.matrix == pytest.approx(np.eye(4), abs=1e-13)
    assert one.degrees == pytest.approx(degrees, abs=1e-12)


def test_a_transform_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        transform().matrix[0, 3] = 0


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([-1.0, 1, 1, 1]),
        np.diag([1.01, 1, 1, 1]),
        np.eye(3),
        np.eye(4) + np.eye(4)[:, ::-1] * 0.1,
        np.array([[1.0, 0, 0, np.nan], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2]]),
    ],
    ids=["mirror", "scaling", "shape", "shear", "nan", "projective"],
)
def test_what_is_no_rotation_and_translation_is_refused(matrix: NDArray[np.float64]) -> None:
    with pytest.raises(InvalidData, match="rigid transform: expected a rotation and a translation"):
        RigidTransform(matrix)
