"""The single-fibre response function of spherical deconvolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData


@dataclass(frozen=True, eq=False)
class ResponseFunction:
    """The signal of one fibre population along z, on one shell, in zonal spherical harmonics.

    `coefficients` (order / 2 + 1,) are those of l = 0, 2, 4, ... in the orthonormal real basis, in the units of
    the image: MRtrix3's convention. `bvalue` is the shell's in s/mm^2. `voxels` is the number it was
    estimated from, 0 where it came from a file.

    Raises InvalidData for coefficients that are not finite, fewer than two, or not positive at l = 0.
    """

    coefficients: NDArray[np.float64]
    bvalue: float
    voxels: int = 0

    def __post_init__(self) -> None:
        values = np.array(self.coefficients, np.float64)
        if values.ndim != 1 or values.size < 2 or not np.isfinite(values).all() or values[0] <= 0:
            raise InvalidData(
                "response function",
                expected="at least two finite zonal coefficients (l = 0, 2, ...), the first positive",
                found=f"{values.tolist()}",
            )
        values.setflags(write=False)
        object.__setattr__(self, "coefficients", values)

    @property
    def order(self) -> int:
        """The highest harmonic order."""
        return 2 * (self.coefficients.size - 1)


def parse_mrtrix_response(text: str, bvalue: float) -> ResponseFunction:
    """The response in MRtrix3's text form: one line of zonal coefficients per shell.

    With several lines, the last is taken: MRtrix3 writes shells by rising b-value. Raises InvalidData.
    """
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not rows:
        raise InvalidData("response function", expected="a line of numbers", found="none")
    try:
        coefficients = np.array([float(word) for word in rows[-1]])
    except ValueError as error:
        raise InvalidData("response function", expected="numbers separated by blanks", found=str(error)) from None
    return ResponseFunction(coefficients, bvalue)
