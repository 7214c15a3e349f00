"""The response functions of WM, GM and CSF, for multi-tissue deconvolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging.errors import InvalidData
from kwneuro_assets.imaging.gradients import SHELL_WIDTH
from kwneuro_assets.imaging.response import describe_shells, parse_rows, parse_shells, rows_of_shells

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TissueResponses:
    """The signal of pure WM, GM and CSF on each shell, in zonal spherical harmonics, in the units of the image.

    `bvalues` (shells,) ascend, in s/mm^2; the first is 0. `wm` (shells, lmax / 2 + 1) holds the coefficients of one
    fiber population along z, l = 0, 2, ... in the orthonormal real basis. `gm` and `csf` (shells,) hold those of
    l = 0: sqrt(4 pi) times the mean signal, MRtrix3's convention. The voxel counts are the numbers of voxels that the
    response functions were estimated from; 0 if they were read from files.

    Raises InvalidData if the shapes do not match, if a coefficient is not finite, or if l = 0 is not positive.

    >>> responses = TissueResponses(
    ...     bvalues=[0, 1000], wm=[[3000, 0, 0], [1500, -400, 60]], gm=[3500, 2000], csf=[9000, 500]
    ... )
    >>> responses.order
    4
    """

    bvalues: Floats
    wm: Floats
    gm: Floats
    csf: Floats
    wm_voxels: int = 0
    gm_voxels: int = 0
    csf_voxels: int = 0

    def __post_init__(self) -> None:
        for name in ("bvalues", "wm", "gm", "csf"):
            values = np.array(getattr(self, name), np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        shells = self.bvalues.size
        if self.bvalues.ndim != 1 or shells < 2 or self.bvalues[0] != 0 or not (np.diff(self.bvalues) > 0).all():
            raise InvalidData(
                "b-values of tissue responses",
                expected="ascending b-values, the first 0",
                found=f"{self.bvalues.tolist()}",
            )
        if self.wm.ndim != 2 or self.wm.shape[0] != shells or self.wm.shape[1] < 2:
            raise InvalidData(
                "WM response function",
                expected=f"{shells} lines, one for each shell, of at least two zonal coefficients",
                found=f"shape {self.wm.shape}",
            )
        for name, first in (("wm", self.wm[:, 0]), ("gm", self.gm), ("csf", self.csf)):
            if first.shape != (shells,):
                raise InvalidData(
                    f"{name.upper()} response function",
                    expected=f"{shells} numbers, one for each shell",
                    found=f"shape {first.shape}",
                )
            if not np.isfinite(getattr(self, name)).all() or not (first > 0).all():
                raise InvalidData(
                    f"{name.upper()} response function",
                    expected="finite coefficients, positive at l = 0 on every shell",
                    found=f"{first.tolist()}",
                )

    @property
    def order(self) -> int:
        """The highest spherical harmonic order, lmax, of the WM response function."""
        return 2 * (self.wm.shape[1] - 1)

    @property
    def mean_signals(self) -> Floats:
        """(3 * shells,) the coefficients of l = 0 of WM, then GM, then CSF on every shell."""
        return np.concatenate([self.wm[:, 0], self.gm, self.csf])

    def scaled(self, factor: float) -> TissueResponses:
        """The response functions of the same image with its intensities multiplied by `factor`."""
        return replace(self, wm=self.wm * factor, gm=self.gm * factor, csf=self.csf * factor)


def parse_tissue_responses(bvalues: Sequence[float], wm: str, gm: str, csf: str) -> TissueResponses:
    """The response functions of the shells at `bvalues` (s/mm^2, the first b=0), from texts in MRtrix3's format.

    Each text has one line per shell. A comment `# Shells: 5,995,2000` in any of them gives the shells of the lines in
    all three; those within 100 s/mm^2 of `bvalues` are used. Without the comment, the lines must be those of `bvalues`,
    in this order.

    Raises InvalidData if a text is not in this format, if the shells differ between tissues or lack one of `bvalues`,
    or if the number of lines is not that of the shells.

    >>> wm = '''3000 0
    ... 1500 -400'''
    >>> gm = '''3500
    ... 2000'''
    >>> csf = '''9000
    ... 500'''
    >>> parse_tissue_responses([0, 1000], wm, gm, csf).gm.tolist()
    [3500.0, 2000.0]
    """
    texts = {"WM response function": wm, "GM response function": gm, "CSF response function": csf}
    shells = _common_shells(texts) or bvalues
    rows = {}
    for what, text in texts.items():
        lines = parse_rows(text, what)
        if what != "WM response function" and lines.shape[1] != 1:
            raise InvalidData(what, expected="one number in each line", found=f"{lines.shape[1]} in each")
        rows[what] = lines[rows_of_shells(bvalues, shells, len(lines), what)]
    return TissueResponses(
        np.asarray(bvalues, np.float64),
        rows["WM response function"],
        rows["GM response function"][:, 0],
        rows["CSF response function"][:, 0],
    )


def _common_shells(texts: Mapping[str, str]) -> list[float] | None:
    """The shells from the comments; None without a comment."""
    known = {what: shells for what, text in texts.items() if (shells := parse_shells(text, what)) is not None}
    first = next(iter(known.values()), None)
    for shells in known.values():
        assert first is not None
        if len(shells) != len(first) or not np.allclose(shells, first, rtol=0, atol=SHELL_WIDTH):
            raise InvalidData(
                "tissue responses",
                expected="the same shells for all tissues",
                found="; ".join(f"{describe_shells(shells)} of the {what}" for what, shells in known.items()),
                remedy="Use the three files of one estimate.",
            )
    return first


def format_tissue_responses(responses: TissueResponses) -> tuple[str, str, str]:
    """The texts of WM, GM and CSF in MRtrix3's format, which read back as the same numbers."""

    def text(rows: Floats) -> str:
        return "".join(" ".join(repr(float(value)) for value in row) + "\n" for row in rows)

    return text(responses.wm), text(responses.gm[:, None]), text(responses.csf[:, None])
