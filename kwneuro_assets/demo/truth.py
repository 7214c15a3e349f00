"""How close derivatives of the synthetic subject came to what is known of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, MapSet, Volume
from kwneuro_assets.imaging.volume import OnGrid, require_same_grid

MOSTLY_WHITE = 0.7  # volume fraction from which a voxel counts as white matter
ONLY_FIBRE = 0.95  # share of a voxel's fibres from which the first is the only one
CROSSING = 0.4  # of the first fibre's volume, from which a second one is looked for
MOSTLY_WATER = 0.5  # share of free water from which a voxel's neurite density means nothing


class Score(NamedTuple):
    """One line of the table: the derivative, what was measured, and the result with its unit."""

    asset: str
    measure: str
    result: str


def score(store_values: Mapping[str, object], truth_folder: Path) -> list[Score]:
    """Compares derivatives, by the names of their assets, with the truth that `write_phantom` wrote.

    `brain_mask` is a Volume, `denoised_dwi` a Dwi, `dti`, `noddi` and `csd_peaks` are MapSets, all on the grid of the
    truth; whatever is absent or not applicable has no lines. Maps are compared inside the true brain, and inside
    `brain_mask` where it is given, since outside of it nothing was computed.

    Raises InvalidData for a derivative on another grid, FileNotFoundError where there is no truth.
    """
    truth = _Truth(truth_folder)
    rows: list[Score] = []
    inside = truth.load("mask").array > 0
    mask = store_values.get("brain_mask")
    if isinstance(mask, Volume):
        truth.check(mask, "brain_mask")
        rows.append(Score("brain_mask", "Dice with the true brain", f"{dice(mask.array > 0, inside):.3f}"))
        inside = inside & (mask.array > 0)
    denoised = store_values.get("denoised_dwi")
    if isinstance(denoised, Dwi):
        truth.check(denoised.volume, "denoised_dwi")
        rows += _noise(denoised, inside, truth)
    for asset, compare in _COMPARISONS.items():
        maps = store_values.get(asset)
        if isinstance(maps, MapSet):
            truth.check(next(iter(maps.values())), asset)
            rows += [Score(asset, measure, result) for measure, result in compare(maps, inside, truth)]
    return rows


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The overlap of two masks, from 0 to 1 (Dice 1945)."""
    return float(2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second)))


def angles_to_nearest(vectors: NDArray[np.floating], peaks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Degrees (n,) from each axis in `vectors` (n, 3) to the nearest axis in `peaks` (n, k, 3).

    Lengths and signs play no part; a peak of zero is none, and without any the angle is 90.
    """
    cosines = np.abs(np.einsum("nkc,nc->nk", _unit(peaks), _unit(vectors))).max(axis=1)
    return np.asarray(np.degrees(np.arccos(np.clip(cosines, 0, 1))))


class _Truth:
    """The files of the truth folder, as values."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.grid = self.load("mask")

    def load(self, name: str) -> Volume:
        import nibabel

        image = nibabel.Nifti1Image.from_filename(self.folder / f"{name}.nii.gz")
        return Volume(np.asarray(image.dataobj), image.affine)

    def noise_rms(self) -> float:
        return float(json.loads((self.folder / "noise.json").read_text(encoding="utf-8"))["rms_in_mask"])

    def check(self, volume: OnGrid, asset: str) -> None:
        require_same_grid(volume, self.grid, asset, "the truth")

    def fibres(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Directions (x, y, z, 3, 3) scaled by volume fraction, the largest first, and the fractions (x, y, z, 3)."""
        peaks = self.load("peaks_world").array
        directions = peaks.reshape(*peaks.shape[:3], -1, 3)
        return directions, np.linalg.norm(directions, axis=-1)

    def only_fibre(self, inside: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """The white-matter voxels with one fibre population, and its direction in each (n, 3)."""
        directions, fractions = self.fibres()
        chosen = inside & (fractions[..., 0] > ONLY_FIBRE * fractions.sum(axis=-1)) & self.white_matter()
        return chosen, directions[chosen][:, 0]

    def white_matter(self) -> NDArray[np.bool_]:
        return np.asarray(self.load("wm").array >= MOSTLY_WHITE)


_Rows = list[tuple[str, str]]


def _noise(denoised: Dwi, inside: NDArray[np.bool_], truth: _Truth) -> list[Score]:
    error = denoised.array[inside] - truth.load("noise_free_dwi").array[inside]
    after = float(np.sqrt(np.mean(error**2, dtype=np.float64)))
    result = f"{after:.1f} ({truth.noise_rms():.1f} before denoising)"
    return [Score("denoised_dwi", "root mean square error in the brain", result)]


def _dti(maps: MapSet, inside: NDArray[np.bool_], truth: _Truth) -> _Rows:
    chosen, fibre = truth.only_fibre(inside)
    found = maps["evecs"].array[chosen][:, None, :3]
    return [("first eigenvector to the only fibre, median", _median_angle(angles_to_nearest(fibre, found)))]


def _noddi(maps: MapSet, inside: NDArray[np.bool_], truth: _Truth) -> _Rows:
    ndi, fwf = truth.load("ndi").array, truth.load("fwf").array
    tissue = inside & (fwf < MOSTLY_WATER)
    chosen, fibre = truth.only_fibre(inside)
    return [
        ("NDI in white matter, mean absolute error", _mean_error(maps["ndi"], ndi, inside & truth.white_matter())),
        ("NDI in grey and white matter, correlation", _correlation(maps["ndi"], ndi, tissue)),
        ("FWF in the brain, mean absolute error", _mean_error(maps["fwf"], fwf, inside)),
        ("FWF in the brain, correlation", _correlation(maps["fwf"], fwf, inside)),
        (
            "direction to the only fibre, median",
            _median_angle(angles_to_nearest(fibre, maps["direction"].array[chosen][:, None, :])),
        ),
    ]


def _csd_peaks(maps: MapSet, inside: NDArray[np.bool_], truth: _Truth) -> _Rows:
    directions, fractions = truth.fibres()
    peaks = maps["peaks"].array
    white = inside & truth.white_matter()
    rows = []
    for index, name in enumerate(("first", "second")):
        chosen = white & (fractions[..., index] > CROSSING * fractions[..., 0])
        found = peaks[chosen].reshape(np.count_nonzero(chosen), -1, 3)
        angles = angles_to_nearest(directions[chosen][:, index], found)
        rows.append((f"{name} fibre to the nearest peak, median", _median_angle(angles)))
    return rows


_COMPARISONS: dict[str, Callable[[MapSet, NDArray[np.bool_], _Truth], _Rows]] = {
    "dti": _dti,
    "noddi": _noddi,
    "csd_peaks": _csd_peaks,
}


def _median_angle(angles: NDArray[np.float64]) -> str:
    return f"{np.median(angles):.1f} degrees in {angles.size} voxels" if angles.size else "no such voxel"


def _mean_error(found: Volume, true: NDArray[np.float32], where: NDArray[np.bool_]) -> str:
    return f"{np.abs(found.array[where] - true[where]).mean():.3f}" if where.any() else "no such voxel"


def _correlation(found: Volume, true: NDArray[np.float32], where: NDArray[np.bool_]) -> str:
    if not where.any() or np.ptp(found.array[where]) == 0:
        return "undefined: nothing varies"
    return f"{np.corrcoef(found.array[where], true[where])[0, 1]:.3f}"


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True).astype(np.float64)
    unit: NDArray[np.float64] = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0)
    return unit
