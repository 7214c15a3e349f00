"""Transforms in ITK's text format, against ITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kwneuro_assets.imaging import InvalidData, RigidTransform
from kwneuro_assets.storage.itk_transform import format_itk, parse_itk


def transform() -> RigidTransform:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
    matrix[:3, 3] = 12.5, -30.25, 7.125
    return RigidTransform(matrix)


def test_itk_moves_points_of_mni_space_to_the_same_points_of_the_dwi(tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK")
    file = tmp_path / "sub-01_from-dwi_to-MNI152NLin6Asym_mode-image_xfm.txt"
    file.write_text(format_itk(transform()))
    read = itk.ReadTransform(str(file))
    to_lps = np.array([-1, -1, 1])
    for point in np.random.default_rng(0).uniform(-90, 90, (5, 3)):
        expected = transform().matrix[:3, :3] @ point + transform().matrix[:3, 3]
        assert np.array(read.TransformPoint((to_lps * point).tolist())) * to_lps == pytest.approx(expected, abs=1e-9)


def test_a_text_is_read_back_bit_by_bit() -> None:
    assert parse_itk(format_itk(transform())).matrix.tobytes() == transform().matrix.tobytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        format_itk(transform()).replace("Affine", "Euler"),
        format_itk(transform()).replace("Parameters: 0", "Parameters: x0"),
        format_itk(transform()).replace("FixedParameters: 0", "FixedParameters: 1"),
        format_itk(transform()).replace("Parameters: ", "Parameters: 1.0 "),
    ],
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidData, match="transform: expected ITK's text of one AffineTransform_double_3_3"):
        parse_itk(text)
