"""The gradient table, and the one place where its frame is converted.

There are two frames. **FSL**: the frame of a bvec file, with components along the voxel axes, and x negated if the
affine's determinant is positive (FSL uses a left-handed voxel frame). **World**: scanner RAS+, the frame of MRtrix3 and
of all stored directions. The affine alone determines the conversion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.imaging.errors import InvalidData

Frame = Literal["fsl", "world"]
B0_THRESHOLD = 50.0  # s/mm^2: a volume at or below it counts as b=0
SHELL_WIDTH = 100.0  # s/mm^2: a b-value this close to a shell's mean belongs to that shell
COLLINEAR = 1.0  # degrees: axes closer than this count as one direction
NORM_TOLERANCE = 0.01  # b-vectors this close to unit length are normalized, others raise an error
MAX_BVALUE = 1e5  # s/mm^2: above any scanner's b-values, below any in s/m^2
MIN_MAXIMUM = 50.0  # s/mm^2: lower maximum b-values show no diffusion in tissue
_PER_CM2 = 1e7  # a maximum b-value above this is in s/m^2; between MAX_BVALUE and this, in s/cm^2
_NAMED = 10  # volumes that an error message lists
_ROUNDING = 1e-6  # a norm this close to one is rounding of the file's digits and is not normalized


@dataclass(frozen=True)
class Shell:
    """The volumes of one shell: their mean b-value in s/mm^2, and their indices in the gradient table."""

    bvalue: float
    indices: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class GradientTable:
    """b-values (n,) in s/mm^2 and b-vectors (n, 3) of unit length, in `frame`; immutable.

    A volume with b <= `b0_threshold` (s/mm^2) counts as b=0 where b=0 volumes are averaged or counted; fits use its
    real b-value. If its b-vector is not finite or not of unit length, it becomes zero: no known direction. b-vectors
    within 1 % of unit length are normalized.

    Raises InvalidData if the numbers of b-values and b-vectors differ, if a b-value is NaN or negative, or if the
    b-vector of a diffusion-weighted volume is NaN, zero or not of unit length.

    >>> table = GradientTable([5, 995, 1005, 2000], [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> table.b0_mask.tolist()
    [True, False, False, False]
    >>> GradientTable([0, -1000], [[0, 0, 0], [1, 0, 0]])
    Traceback (most recent call last):
        ...
    kwneuro_assets.imaging.errors.InvalidData: b-values: expected none below zero, found -1000 at volume 1.
    """

    bvals: NDArray[np.float64]
    bvecs: NDArray[np.float64]
    frame: Frame = "fsl"
    b0_threshold: float = field(default=B0_THRESHOLD)

    def __post_init__(self) -> None:
        bvals = np.array(self.bvals, np.float64).ravel()
        bvecs = np.array(self.bvecs, np.float64)
        if bvecs.ndim != 2 or bvecs.shape[1] != 3:
            raise InvalidData("b-vectors", expected="three components each", found=f"shape {bvecs.shape}")
        if len(bvals) != len(bvecs):
            raise InvalidData(
                "gradient table",
                expected="as many b-vectors as b-values",
                found=f"{len(bvals)} b-values and {len(bvecs)} b-vectors",
            )
        _check_bvals(bvals)
        bvecs = _unit_vectors(bvecs, bvals <= self.b0_threshold)
        for name, values in (("bvals", bvals), ("bvecs", bvecs)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.bvals)

    @property
    def b0_mask(self) -> NDArray[np.bool_]:
        """(n,) True where a volume counts as b=0."""
        return self.bvals <= self.b0_threshold

    def require_b0(self, minimum: int = 1) -> None:
        """Raises InvalidData if fewer than `minimum` volumes count as b=0."""
        count = int(self.b0_mask.sum())
        if count < minimum:
            raise InvalidData(
                "b-values",
                expected=f"at least {'one volume' if minimum == 1 else f'{minimum} volumes'} "
                f"with b <= {self.b0_threshold:g} s/mm^2",
                found=f"{count}, the lowest at {self.bvals.min():g}",
                remedy="If that volume is meant as b=0, raise source.b0_threshold.",
            )

    def shells(self) -> tuple[Shell, ...]:
        """The shells besides b=0, in ascending order: clusters of b-values within 100 s/mm^2 of the running mean.

        >>> table = GradientTable([5, 995, 1005, 2000], [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        >>> table.shells()
        (Shell(bvalue=1000.0, indices=(1, 2)), Shell(bvalue=2000.0, indices=(3,)))
        """
        weighted = np.flatnonzero(~self.b0_mask)
        groups: list[list[int]] = []
        for index in weighted[np.argsort(self.bvals[weighted], kind="stable")]:
            if groups and self.bvals[index] - self.bvals[groups[-1]].mean() <= SHELL_WIDTH:
                groups[-1].append(int(index))
            else:
                groups.append([int(index)])
        return tuple(Shell(float(self.bvals[group].mean()), tuple(sorted(group))) for group in groups)

    def snapped_bvals(self) -> NDArray[np.float64]:
        """(n,) the mean b-value of each volume's shell in s/mm^2; zero for b=0 volumes."""
        snapped = np.zeros(len(self))
        for shell in self.shells():
            snapped[list(shell.indices)] = shell.bvalue
        return snapped

    def selected(self, indices: ArrayLike) -> GradientTable:
        """The gradient table of the volumes at `indices`, in that order."""
        chosen = np.asarray(indices)
        return GradientTable(self.bvals[chosen], self.bvecs[chosen], self.frame, self.b0_threshold)

    def to_frame(self, frame: Frame, affine: ArrayLike) -> GradientTable:
        """The same directions in `frame`, for an image with this affine (4, 4).

        >>> table = GradientTable([0, 1000], [[0, 0, 0], [0.6, 0.8, 0]], "fsl")
        >>> table.to_frame("world", np.diag([2, 2, 2, 1])).bvecs.tolist()
        [[0.0, 0.0, 0.0], [-0.6, 0.8, 0.0]]
        """
        if frame == self.frame:
            return self
        rotation = fsl_to_world(affine)
        matrix = rotation if frame == "world" else rotation.T
        return GradientTable(self.bvals, self.bvecs @ matrix.T, frame, self.b0_threshold)


def count_directions(vectors: NDArray[np.float64]) -> int:
    """The number of non-collinear directions among unit vectors (n, 3): axes more than a degree from all before them.

    >>> count_directions(np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0]]))
    2
    """
    distinct: list[NDArray[np.float64]] = []
    for vector in vectors:
        if not distinct or np.abs(np.array(distinct) @ vector).max() < np.cos(np.radians(COLLINEAR)):
            distinct.append(vector)
    return len(distinct)


def fsl_to_world(affine: ArrayLike) -> NDArray[np.float64]:
    """The orthogonal matrix (3, 3) that converts b-vectors (columns) from the FSL frame to the world frame.

    It consists of the affine's normalized axes or, if these are not orthogonal (shear), of the nearest orthogonal
    matrix, which preserves lengths and angles. The first axis is negated if the determinant is positive.

    >>> fsl_to_world(np.diag([2, 2, 3, 1])).tolist()
    [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    axes = np.asarray(affine, np.float64)[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-12):
        left, _, right = np.linalg.svd(axes)
        axes = left @ right
    if np.linalg.det(axes) > 0:
        axes = axes * np.array([-1.0, 1.0, 1.0])
    # Negative zeros would change the data version.
    return axes + 0.0


def parse_bvals(text: str) -> NDArray[np.float64]:
    """The b-values (n,) of a bval file, written in one row or in one column. Raises InvalidData if it holds no numbers.

    >>> parse_bvals("0 1000 1000").tolist()
    [0.0, 1000.0, 1000.0]
    """
    rows = _numbers(text, "b-values")
    return np.concatenate([np.array(row) for row in rows])


def require_sane_bvalues(bvals: NDArray[np.float64]) -> None:
    """Raises InvalidData if the b-values (n,) of a DWI series are not in s/mm^2, judged by their maximum."""
    highest = bvals.max()
    if highest > MAX_BVALUE:
        unit, factor = ("s/m^2", "1e6") if highest > _PER_CM2 else ("s/cm^2", "100")
        remedy = f"They are probably in {unit}: divide them by {factor}."
    elif 0 < highest < MIN_MAXIMUM:
        remedy = "They are probably in ms/um^2: multiply them by 1000."
    else:
        return
    raise InvalidData(
        "b-values",
        expected=f"s/mm^2, with a maximum from {MIN_MAXIMUM:g} to {MAX_BVALUE:g}",
        found=f"a maximum of {highest:g}",
        remedy=remedy,
    )


def parse_bvecs(text: str, count: int) -> NDArray[np.float64]:
    """The b-vectors (n, 3) of a bvec file, which has 3 rows of n numbers or n rows of 3.

    `count` is the number of volumes, n. If n is 3, rows are axes. Raises InvalidData for any other shape.

    >>> text = '''0 1 0 0
    ... 0 0 1 0
    ... 0 0 0 1'''
    >>> parse_bvecs(text, count=4).tolist()
    [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    rows = _numbers(text, "b-vectors")
    lengths = {len(row) for row in rows}
    if len(lengths) == 1:
        matrix = np.array(rows)
        if matrix.shape == (3, count):
            return matrix.T.copy()
        if matrix.shape == (count, 3):
            return matrix
    found = f"{len(rows)} rows of {min(lengths)}" + (f" to {max(lengths)}" if len(lengths) > 1 else "")
    raise InvalidData("b-vectors", expected=f"3 rows of {count} or {count} rows of 3 numbers", found=found)


def format_bvals(table: GradientTable) -> str:
    """The text of a bval file: one line, in the shortest decimals that read back as the same numbers."""
    return " ".join(_shortest(value) for value in table.bvals) + "\n"


def format_bvecs(table: GradientTable) -> str:
    """The text of a bvec file: one line per component, in the shortest decimals that read back as the same numbers."""
    return "".join(" ".join(_shortest(value) for value in row) + "\n" for row in table.bvecs.T)


def _shortest(value: float) -> str:
    return np.format_float_positional(value, trim="-")


def _numbers(text: str, what: str) -> list[list[float]]:
    """The rows of numbers in a text; ignores comments after `#` and a byte order mark."""
    rows = [line.partition("#")[0].replace(",", " ").split() for line in text.removeprefix("\ufeff").splitlines()]
    try:
        numbers = [[float(word) for word in row] for row in rows if row]
    except ValueError as error:
        raise InvalidData(what, expected="numbers separated by blanks", found=str(error)) from None
    if not numbers:
        raise InvalidData(what, expected="numbers", found="an empty file")
    return numbers


def _check_bvals(bvals: NDArray[np.float64]) -> None:
    if not np.isfinite(bvals).all():
        bad = np.flatnonzero(~np.isfinite(bvals))
        raise InvalidData("b-values", expected="finite numbers", found=f"{bvals[bad[0]]} at volume {bad[0]}")
    if (bvals < 0).any():
        bad = np.flatnonzero(bvals < 0)
        raise InvalidData("b-values", expected="none below zero", found=f"{bvals[bad[0]]:g} at volume {bad[0]}")


def _unit_vectors(bvecs: NDArray[np.float64], is_b0: NDArray[np.bool_]) -> NDArray[np.float64]:
    bvecs[is_b0 & ~np.isfinite(bvecs).all(axis=1)] = 0
    if not np.isfinite(bvecs).all():
        bad = np.flatnonzero(~np.isfinite(bvecs).all(axis=1))
        raise InvalidData("b-vectors", expected="finite numbers", found=f"{bvecs[bad[0]].tolist()} at volume {bad[0]}")
    norms = np.linalg.norm(bvecs, axis=1)
    off = np.abs(norms - 1)
    zero = np.flatnonzero(~is_b0 & (norms == 0))
    if zero.size:
        raise InvalidData(
            "b-vectors of diffusion-weighted volumes",
            expected="a direction for each",
            found=f"zero at {_volumes(zero)}",
            remedy="Exclude trace or mean images with source.exclude_volumes: trace. If these are b=0 volumes, correct "
            "their b-values or raise source.b0_threshold.",
        )
    bad = np.flatnonzero(~is_b0 & (off > NORM_TOLERANCE))
    if bad.size:
        raise InvalidData(
            "b-vectors of diffusion-weighted volumes",
            expected="unit length within 1 %",
            found=f"length {norms[bad[0]]:.4f} at volume {bad[0]}"
            + (f" and {bad.size - 1} more" if bad.size > 1 else ""),
            remedy="If the length encodes the b-value, write unit vectors and the b-value itself.",
        )
    bvecs[is_b0 & (off > NORM_TOLERANCE)] = 0
    rescale = (off > _ROUNDING) & (off <= NORM_TOLERANCE)
    bvecs[rescale] /= norms[rescale, None]
    return bvecs + 0.0


def _volumes(indices: NDArray[np.intp]) -> str:
    named = ", ".join(map(str, indices[:_NAMED]))
    more = f" and {indices.size - _NAMED} more" if indices.size > _NAMED else ""
    return f"volume{'s' if indices.size > 1 else ''} {named}{more}"
