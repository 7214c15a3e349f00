"""The single-fibre response function of spherical deconvolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

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

    @property
    def bvalues(self) -> tuple[float, ...]:
        """Those of its shells, one here."""
        return (self.bvalue,)

    @property
    def mean_signals(self) -> NDArray[np.float64]:
        """(1,) the coefficient of l = 0, which is sqrt(4 pi) times the mean signal over directions."""
        return self.coefficients[:1]

    def scaled(self, factor: float) -> ResponseFunction:
        """The response of images whose intensities are `factor` times as high."""
        return replace(self, coefficients=self.coefficients * factor)


def parse_mrtrix_response(text: str, bvalue: float) -> ResponseFunction:
    """The response in MRtrix3's text form: one line of zonal coefficients per shell.

    With several lines, the last is taken: MRtrix3 writes shells by rising b-value. Raises InvalidData.
    """
    return ResponseFunction(parse_rows(text, "response function")[-1], bvalue)


def parse_rows(text: str, what: str) -> NDArray[np.float64]:
    """(lines, numbers) what a response in MRtrix3's text form says. Raises InvalidData about `what`."""
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not rows or len({len(row) for row in rows}) > 1:
        raise InvalidData(
            what,
            expected="lines of numbers, one for each shell, all of the same length",
            found=f"lines of {', '.join(str(len(row)) for row in rows)} numbers" if rows else "no line",
        )
    try:
        return np.array([[float(word) for word in row] for row in rows])
    except ValueError as error:
        raise InvalidData(what, expected="numbers separated by blanks", found=str(error)) from None
