"""The gradient table, and the one place where its frame is converted.

Two frames occur. **FSL**: what a bvec file holds, components along the voxel axes, with x negated when the
affine's determinant is positive (FSL works in a left-handed voxel frame). **World**: scanner RAS+, the frame
of everything directional that is stored, and of MRtrix3. Between them lies nothing but the affine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kwneuro_assets.imaging.errors import InvalidData

Frame = Literal["fsl", "world"]
B0_THRESHOLD = 50.0  # s/mm^2: at or below it a volume counts as b=0
SHELL_WIDTH = 100.0  # s/mm^2: b-values within it of a shell's mean belong to that shell
COLLINEAR = 1.0  # degrees: axes closer than this count as one direction
NORM_TOLERANCE = 0.01  # b-vectors this close to unit length are normalised, others refused
_ROUNDING = 1e-6  # a norm this close to one is the rounding of the file's digits and is left as it is


@dataclass(frozen=True)
class Shell:
    """Volumes of one b-value: its mean in s/mm^2, and their indices in the table."""

    bvalue: float
    indices: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class GradientTable:
    """b-values (n,) in s/mm^2 and b-vectors (n, 3) of unit length, in `frame`; immutable.

    Volumes with b at or below `b0_threshold` count as b=0; their vectors carry no meaning and may be zero.
    b-vectors within 1 % of unit length are normalised.

    Raises InvalidData for counts that differ, NaN, negative b-values, and vectors of diffusion-weighted
    volumes that are not of unit length.
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

    def require_b0(self, least: int = 1) -> None:
        """Raises InvalidData where fewer volumes than that count as b=0."""
        count = int(self.b0_mask.sum())
        if count < least:
            raise InvalidData(
                "b-values",
                expected=f"at least {'one volume' if least == 1 else f'{least} volumes'} "
                f"with b <= {self.b0_threshold:g} s/mm^2",
                found=f"{count}, the lowest at {self.bvals.min():g}",
                remedy="Raise source.b0_threshold if that one is meant as b=0.",
            )

    def shells(self) -> tuple[Shell, ...]:
        """The shells besides b=0, by rising b-value: b-values within 100 s/mm^2 of the running mean are one."""
        weighted = np.flatnonzero(~self.b0_mask)
        groups: list[list[int]] = []
        for index in weighted[np.argsort(self.bvals[weighted], kind="stable")]:
            if groups and self.bvals[index] - self.bvals[groups[-1]].mean() <= SHELL_WIDTH:
                groups[-1].append(int(index))
            else:
                groups.append([int(index)])
        return tuple(Shell(float(self.bvals[group].mean()), tuple(sorted(group))) for group in groups)

    def snapped_bvals(self) -> NDArray[np.float64]:
        """(n,) b-values with each one replaced by its shell's mean, and b=0 by zero."""
        snapped = np.zeros(len(self))
        for shell in self.shells():
            snapped[list(shell.indices)] = shell.bvalue
        return snapped

    def selected(self, indices: ArrayLike) -> GradientTable:
        """The table of those volumes, in that order."""
        chosen = np.asarray(indices)
        return GradientTable(self.bvals[chosen], self.bvecs[chosen], self.frame, self.b0_threshold)

    def to_frame(self, frame: Frame, affine: ArrayLike) -> GradientTable:
        """The same directions in `frame`, for an image with this affine (4, 4)."""
        if frame == self.frame:
            return self
        rotation = fsl_to_world(affine)
        matrix = rotation if frame == "world" else rotation.T
        return GradientTable(self.bvals, self.bvecs @ matrix.T, frame, self.b0_threshold)


def count_directions(vectors: NDArray[np.float64]) -> int:
    """The number of axes among unit vectors (n, 3) that are further than a degree from all before them."""
    kept: list[NDArray[np.float64]] = []
    for vector in vectors:
        if not kept or np.abs(np.array(kept) @ vector).max() < np.cos(np.radians(COLLINEAR)):
            kept.append(vector)
    return len(kept)


def fsl_to_world(affine: ArrayLike) -> NDArray[np.float64]:
    """The orthogonal 3x3 matrix that takes FSL b-vectors (as columns) to the world frame.

    The affine's own axes where they are orthogonal; otherwise (shear) the nearest orthogonal matrix, so that
    directions keep their length and their angles.
    """
    axes = np.asarray(affine, np.float64)[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-12):
        left, _, right = np.linalg.svd(axes)
        axes = left @ right
    if np.linalg.det(axes) > 0:
        axes = axes * np.array([-1.0, 1.0, 1.0])
    # Signed zeros of the product would show in hashes.
    return axes + 0.0


def parse_bvals(text: str) -> NDArray[np.float64]:
    """The numbers of a bval file, (n,), whether they stand in one line or in a column."""
    rows = _numbers(text, "b-values")
    return np.concatenate([np.array(row) for row in rows])


def parse_bvecs(text: str, count: int) -> NDArray[np.float64]:
    """The vectors of a bvec file, (n, 3), from either orientation of it: 3 rows of n, or n rows of 3.

    `count`, the number of volumes, decides between the two where both are possible (n = 3: rows are axes).
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
    """One line of shortest decimals that read back as the same numbers."""
    return " ".join(_shortest(value) for value in table.bvals) + "\n"


def format_bvecs(table: GradientTable) -> str:
    """Three lines, one per component, of shortest decimals that read back as the same numbers."""
    return "".join(" ".join(_shortest(value) for value in row) + "\n" for row in table.bvecs.T)


def _shortest(value: float) -> str:
    return np.format_float_positional(value, trim="-")


def _numbers(text: str, what: str) -> list[list[float]]:
    rows = [line.replace(",", " ").split() for line in text.splitlines()]
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
    if not np.isfinite(bvecs).all():
        bad = np.flatnonzero(~np.isfinite(bvecs).all(axis=1))
        raise InvalidData("b-vectors", expected="finite numbers", found=f"{bvecs[bad[0]].tolist()} at volume {bad[0]}")
    norms = np.linalg.norm(bvecs, axis=1)
    off = np.abs(norms - 1)
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
