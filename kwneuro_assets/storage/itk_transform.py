"""Rigid transforms as text files of ITK, which ANTs, 3D Slicer, nitransforms and MRtrix3 read.

ITK's world frame is LPS: x and y have the opposite signs of the scanner RAS+ that this project uses.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import InvalidData, RigidTransform

_KIND = "AffineTransform_double_3_3"  # every tool reads it; ITK's rigid types have angles, which would round
_LPS = np.array([-1.0, -1.0, 1.0, 1.0])


def format_itk(transform: RigidTransform) -> str:
    """The text of a transform, with all digits: `parse_itk` returns the same bits.

    >>> print(format_itk(RigidTransform(np.eye(4))), end="")
    #Insight Transform File V1.0
    #Transform 0
    Transform: AffineTransform_double_3_3
    Parameters: 1.0 0.0 0.0 0.0 1.0 0.0 0.0 0.0 1.0 0.0 0.0 0.0
    FixedParameters: 0 0 0
    """
    matrix = _in_the_other_frame(transform.matrix)
    numbers = " ".join(repr(float(number)) for number in (*matrix[:3, :3].ravel(), *matrix[:3, 3]))
    return (
        f"#Insight Transform File V1.0\n#Transform 0\nTransform: {_KIND}\nParameters: {numbers}\n"
        "FixedParameters: 0 0 0\n"
    )


def parse_itk(text: str) -> RigidTransform:
    """The transform in a text that `format_itk` wrote. Raises InvalidData for another text."""
    found = re.search(rf"^Transform: {_KIND}\nParameters: (.*)\nFixedParameters: 0 0 0$", text, re.MULTILINE)
    try:
        numbers = np.array(found[1].split(), np.float64) if found else np.zeros(0)
    except ValueError:
        numbers = np.zeros(0)
    if numbers.size != 12:
        raise InvalidData("transform", expected=f"ITK's text of one {_KIND}", found=repr(text[:80]))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = numbers[:9].reshape(3, 3), numbers[9:]
    return RigidTransform(_in_the_other_frame(matrix))


def _in_the_other_frame(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """From RAS+ to LPS, or back: only signs change."""
    changed: NDArray[np.float64] = matrix * _LPS[:, None] * _LPS + 0.0  # no -0.0
    return changed
