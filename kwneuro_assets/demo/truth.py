"""Scores derivatives of the synthetic subject against its ground truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.demo.measures import UNDEFINED, Measured, angles_to_nearest, dice, median_angle
from kwneuro_assets.demo.tract_scores import TRACT_COMPARISONS
from kwneuro_assets.demo.truth_files import Truth
from kwneuro_assets.imaging import Dwi, MapSet, Volume
from kwneuro_assets.imaging.volume import OnGrid

CROSSING = 0.4  # minimum volume of a second fiber that is scored, relative to the first
FREE_WATER = 0.5  # free-water fraction above which the neurite density of a voxel is undefined


class Score(NamedTuple):
    """One comparison of a derivative with the truth; the other fields are those of `Measured`."""

    asset: str
    measure: str
    value: float
    result: str
    short: str = ""


def score(store_values: Mapping[str, object], truth_folder: Path) -> list[Score]:
    """Scores of derivatives, by asset name, against the ground truth that `write_phantom` wrote.

    `brain_mask` is a Volume, `denoised_dwi` a Dwi, `dti`, `noddi` and `csd_peaks` are MapSets, and `tract_masks`,
    `tract_endings` and `tract_orientations` are Volumes with TractSeg's names, all on the grid of the ground truth.
    Derivatives that are absent or not applicable have no rows. All but `brain_mask` are compared inside the true brain
    and inside `brain_mask` if it is given, because nothing is computed outside of it.

    Raises InvalidData for a derivative on another grid, and FileNotFoundError if there is no ground truth.
    """
    truth = Truth(truth_folder)
    inside = truth.load("mask").array > 0
    rows: list[Score] = []
    for asset, (kind, compare) in _COMPARISONS.items():
        value = store_values.get(asset)
        if isinstance(value, kind):
            truth.check(_on_grid(value), asset)
            rows += [Score(asset, *measured) for measured in compare(value, inside, truth)]
            if asset == "brain_mask":
                inside = inside & (value.array > 0)
    return rows


def _on_grid(value: Any) -> OnGrid:
    grid: OnGrid = next(iter(value.values())) if isinstance(value, MapSet) else getattr(value, "volume", value)
    return grid


def _brain_mask(mask: Volume, inside: NDArray[np.bool_], truth: Truth) -> list[Measured]:
    overlap = dice(mask.array > 0, inside)
    return [Measured("Dice with the true brain", overlap, f"{overlap:.3f}", "Dice")]


def _denoised_dwi(denoised: Dwi, inside: NDArray[np.bool_], truth: Truth) -> list[Measured]:
    error = denoised.array[inside] - truth.load("noise_free_dwi").array[inside]
    after = float(np.sqrt(np.mean(error**2, dtype=np.float64)))
    result = f"{after:.1f} ({truth.noise_rms():.1f} before denoising)"
    return [Measured("root mean square error in the brain", after, result, "RMS error")]


def _dti(maps: MapSet, inside: NDArray[np.bool_], truth: Truth) -> list[Measured]:
    chosen, fiber = truth.single_fiber(inside)
    found = maps["evecs"].array[chosen][:, None, :3]
    angles = angles_to_nearest(fiber, found)
    return [median_angle("first eigenvector to the single fiber, median", angles, "degrees")]


def _noddi(maps: MapSet, inside: NDArray[np.bool_], truth: Truth) -> list[Measured]:
    ndi, fwf = truth.load("ndi").array, truth.load("fwf").array
    tissue = inside & (fwf < FREE_WATER)
    white = inside & truth.white_matter()
    chosen, fiber = truth.single_fiber(inside)
    angles = angles_to_nearest(fiber, maps["direction"].array[chosen][:, None, :])
    return [
        _mean_error("NDI in white matter, mean absolute error", maps["ndi"], ndi, white, "NDI error"),
        _correlation("NDI in gray and white matter, correlation", maps["ndi"], ndi, tissue),
        _mean_error("FWF in the brain, mean absolute error", maps["fwf"], fwf, inside),
        _correlation("FWF in the brain, correlation", maps["fwf"], fwf, inside),
        median_angle("direction to the single fiber, median", angles),
    ]


def _csd_peaks(maps: MapSet, inside: NDArray[np.bool_], truth: Truth) -> list[Measured]:
    directions, fractions = truth.fibers()
    peaks = maps["peaks"].array
    white = inside & truth.white_matter()
    rows = []
    for index, (name, short) in enumerate((("first", "degrees"), ("second", ""))):
        chosen = white & (fractions[..., index] > CROSSING * fractions[..., 0])
        found = peaks[chosen].reshape(np.count_nonzero(chosen), -1, 3)
        angles = angles_to_nearest(directions[chosen][:, index], found)
        rows.append(median_angle(f"{name} fiber to the nearest peak, median", angles, short))
    return rows


_Compare = Callable[[Any, NDArray[np.bool_], Truth], list[Measured]]
_COMPARISONS: dict[str, tuple[type[Any], _Compare]] = {
    "brain_mask": (Volume, _brain_mask),  # first: it limits where the others are compared
    "denoised_dwi": (Dwi, _denoised_dwi),
    "dti": (MapSet, _dti),
    "noddi": (MapSet, _noddi),
    "csd_peaks": (MapSet, _csd_peaks),
    **{asset: (Volume, compare) for asset, compare in TRACT_COMPARISONS.items()},
}


def _mean_error(
    measure: str, found: Volume, true: NDArray[np.float32], where: NDArray[np.bool_], short: str = ""
) -> Measured:
    if not where.any():
        return Measured(measure, UNDEFINED, "no voxels", short)
    error = float(np.abs(found.array[where] - true[where]).mean())
    return Measured(measure, error, f"{error:.3f}", short)


def _correlation(measure: str, found: Volume, true: NDArray[np.float32], where: NDArray[np.bool_]) -> Measured:
    if not where.any() or np.ptp(found.array[where]) == 0:
        return Measured(measure, UNDEFINED, "undefined: constant values")
    correlation = float(np.corrcoef(found.array[where], true[where])[0, 1])
    return Measured(measure, correlation, f"{correlation:.3f}")
