"""The response functions of three tissues, for multi-tissue deconvolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.response import parse_rows

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TissueResponses:
    """The signal of each pure tissue on each shell, in zonal spherical harmonics, in the units of the image.

    `bvalues` (shells,) rise, in s/mm^2, the first 0. `white` (shells, order / 2 + 1) are the coefficients of one fibre
    population along z, l = 0, 2, ... in the orthonormal real basis; `grey` and `water` (shells,) those of l = 0, which
    is sqrt(4 pi) times the mean signal: MRtrix3's convention. The voxel counts are 0 where they came from a file.

    Raises InvalidData for arrays that do not fit, that are not finite, or not positive at l = 0.
    """

    bvalues: Floats
    white: Floats
    grey: Floats
    water: Floats
    white_voxels: int = 0
    grey_voxels: int = 0
    water_voxels: int = 0

    def __post_init__(self) -> None:
        for name in ("bvalues", "white", "grey", "water"):
            values = np.array(getattr(self, name), np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        shells = self.bvalues.size
        if self.bvalues.ndim != 1 or shells < 2 or self.bvalues[0] != 0 or not (np.diff(self.bvalues) > 0).all():
            raise InvalidData(
                "b-values of tissue responses", expected="0 and rising ones", found=f"{self.bvalues.tolist()}"
            )
        if self.white.ndim != 2 or self.white.shape[0] != shells or self.white.shape[1] < 2:
            raise InvalidData(
                "white-matter response",
                expected=f"{shells} lines, one for each shell, of at least two zonal coefficients",
                found=f"shape {self.white.shape}",
            )
        for name, first in (("white", self.white[:, 0]), ("grey", self.grey), ("water", self.water)):
            if first.shape != (shells,):
                raise InvalidData(
                    f"{name} response", expected=f"{shells} numbers, one for each shell", found=f"shape {first.shape}"
                )
            if not np.isfinite(getattr(self, name)).all() or not (first > 0).all():
                raise InvalidData(
                    f"{name} response",
                    expected="finite coefficients, positive at l = 0 on every shell",
                    found=f"{first.tolist()}",
                )

    @property
    def order(self) -> int:
        """The highest harmonic order of the white-matter response."""
        return 2 * (self.white.shape[1] - 1)

    @property
    def mean_signals(self) -> Floats:
        """(3 * shells,) the coefficients of l = 0 of white matter, grey matter and free water on every shell."""
        return np.concatenate([self.white[:, 0], self.grey, self.water])

    def scaled(self, factor: float) -> TissueResponses:
        """The responses of images whose intensities are `factor` times as high."""
        return replace(self, white=self.white * factor, grey=self.grey * factor, water=self.water * factor)


def parse_tissue_responses(bvalues: Sequence[float], white: str, grey: str, water: str) -> TissueResponses:
    """Responses in MRtrix3's text form, one line per shell by rising b-value, b=0 first, for shells at `bvalues`.

    Raises InvalidData.
    """
    isotropic = [parse_rows(text, f"{name} response") for text, name in ((grey, "grey"), (water, "water"))]
    for rows, name in zip(isotropic, ("grey", "water"), strict=True):
        if rows.shape[1] != 1:
            raise InvalidData(f"{name} response", expected="one number in each line", found=f"{rows.shape[1]} in each")
    return TissueResponses(
        np.asarray(bvalues, np.float64), parse_rows(white, "white response"), isotropic[0][:, 0], isotropic[1][:, 0]
    )


def format_tissue_responses(responses: TissueResponses) -> tuple[str, str, str]:
    """White, grey and water in MRtrix3's text form; the numbers read back as the same."""

    def text(rows: Floats) -> str:
        return "".join(" ".join(repr(float(value)) for value in row) + "\n" for row in rows)

    return text(responses.white), text(responses.grey[:, None]), text(responses.water[:, None])
