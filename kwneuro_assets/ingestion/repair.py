"""Repair of a DWI series: runs with another scale, and voxels that are not finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.run_scaling import RunScale, foreground, scale_of_runs
from kwneuro_assets.imaging import InvalidData, StreamedVolume

MAX_INVALID = 0.5  # fraction of the voxels, if there is no mask


@dataclass(frozen=True)
class Repair:
    """The scale of each run, and the voxels that are set to 0.

    Attributes:
        scales: The scale of each run relative to the first.
        counts: The number of volumes of each run.
        scale: Whether the runs are rescaled.
        invalid: The voxels (x, y, z) that are not finite in some volume. They are set to 0 in all volumes: a voxel with
            values in some volumes only would give wrong fits.
    """

    scales: tuple[RunScale, ...]
    counts: tuple[int, ...]
    scale: bool
    invalid: NDArray[np.bool_] | None

    @classmethod
    def of(
        cls,
        mean_b0: Sequence[NDArray[np.float64] | None],
        counts: Sequence[int],
        invalid: Sequence[NDArray[np.bool_]],
        *,
        scale: bool,
    ) -> Repair:
        """The repair of these runs, each given by its mean b=0 image (None without b=0) and its number of volumes."""
        where = np.logical_or.reduce(list(invalid)) if invalid else None
        known = [None if image is None else np.nan_to_num(image, posinf=0, neginf=0) for image in mean_b0]
        # A single run needs no other scale.
        scales = scale_of_runs(known) if len(counts) > 1 else [RunScale(1.0, 1.0)]
        return cls(tuple(scales), tuple(counts), scale, where)

    @property
    def factors(self) -> list[float]:
        """The factor that the voxels of each run are multiplied by."""
        return [one.factor if self.scale else 1.0 for one in self.scales]

    @property
    def is_scaled(self) -> bool:
        return any(factor != 1 for factor in self.factors)

    def subsampled(self, step: int) -> Repair:
        """The same repair for every `step`-th voxel along each axis."""
        return self if self.invalid is None else replace(self, invalid=self.invalid[::step, ::step, ::step])

    def apply_to_all(self, array: NDArray[np.float32]) -> None:
        """Repair all volumes (x, y, z, n) in place."""
        if self.is_scaled or self.invalid is not None:
            for index, factor in enumerate(self._factor_of_volumes()):
                self._apply(array[..., index], factor)

    def applied_to(self, volume: StreamedVolume) -> StreamedVolume:
        """The DWI series whose volumes are repaired when they are read."""
        if not self.is_scaled and self.invalid is None:
            return volume
        factors = self._factor_of_volumes()

        def read(chosen: Sequence[int]) -> Iterator[NDArray[np.float32]]:
            for index, image in zip(chosen, volume.read(chosen), strict=True):
                own = np.array(image, order="F")
                self._apply(own, factors[index])
                yield own

        return replace(volume, read=read)

    def _apply(self, image: NDArray[np.float32], factor: float) -> None:
        if factor != 1:
            image *= np.float32(factor)
        if self.invalid is not None:
            image[self.invalid] = 0

    def _factor_of_volumes(self) -> list[float]:
        return [factor for factor, count in zip(self.factors, self.counts, strict=True) for _ in range(count)]


def require_outside_the_brain(
    repair: Repair, mean_b0: Sequence[NDArray[np.float64] | None], mask: NDArray[np.bool_] | None, count: int
) -> str:
    """The warning of voxels that are not finite; `count` is the number of such values.

    Raises InvalidData if some are in the brain: in `mask` (x, y, z), or, without a mask, in the head that the mean b=0
    images show, or if they are half of the image.
    """
    assert repair.invalid is not None
    voxels = int(np.count_nonzero(repair.invalid))
    found = f"{count} NaN or infinite of {repair.invalid.size * sum(repair.counts)}"
    if mask is not None:
        inside = int(np.count_nonzero(repair.invalid & mask))
        if inside:
            raise InvalidData(
                "voxel values",
                expected="finite numbers in the brain mask",
                found=f"{found}, in {inside} of its voxels",
                remedy="Repair or replace the image.",
            )
    else:
        if voxels >= MAX_INVALID * repair.invalid.size:
            raise InvalidData(
                "voxel values",
                expected="finite numbers in most voxels",
                found=f"{found}, in {voxels} of {repair.invalid.size} voxels",
                remedy="If they are background, provide a brain mask (brain_mask.method: provided).",
            )
        inside = int(np.count_nonzero(repair.invalid & _filled_head(mean_b0)))
        if inside:
            raise InvalidData(
                "voxel values",
                expected="finite numbers in the head",
                found=f"{found}, in {inside} of its voxels",
                remedy="Repair or replace the image; if the brain is intact, provide its mask "
                "(brain_mask.method: provided).",
            )
    return f"{voxels} voxels outside the brain are NaN or infinite in some volume: set to 0 in all"


def _filled_head(mean_b0: Sequence[NDArray[np.float64] | None]) -> NDArray[np.bool_]:
    """The foreground of any run, with its holes filled: a voxel that is not finite in a b=0 volume is such a hole."""
    from scipy.ndimage import binary_fill_holes

    known = [foreground(np.nan_to_num(image, posinf=0, neginf=0)) for image in mean_b0 if image is not None]
    return np.asarray(binary_fill_holes(np.logical_or.reduce(known)))


def scale_warnings(names: Sequence[str], scales: Sequence[RunScale], *, is_on: bool) -> list[str]:
    """A warning for each run whose scale differs from that of the first, or cannot be checked."""
    warnings = []
    for name, one in zip(names, scales, strict=True):
        if one.ratio is None:
            warnings.append(f"{name}: its scale relative to {names[0]} cannot be checked: b=0 volumes are missing")
        elif one.factor != 1:
            how = f"rescaled by {one.factor:.4g}" if is_on else "not rescaled (source.scale_runs: none)"
            warnings.append(f"{name}: its mean b=0 is {one.ratio:.4g} times that of the first run: {how}")
    return warnings
