"""The files of the known truth of one synthetic subject."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Volume
from kwneuro_assets.imaging.volume import OnGrid, require_same_grid

WHITE_MATTER = 0.7  # minimum volume fraction of a voxel that counts as white matter
SINGLE_FIBER = 0.95  # minimum fraction of the first population in a single-fiber voxel


class Truth:
    """The values of the ground truth, read from its folder. Raises FileNotFoundError if there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.grid = self.load("mask")

    def load(self, name: str) -> Volume:
        """The image `<name>.nii.gz`, with the names of its volumes if there is a `<name>.json`."""
        import nibabel

        image = nibabel.Nifti1Image.from_filename(self.folder / f"{name}.nii.gz")
        names = self.folder / f"{name}.json"
        listed = json.loads(names.read_text(encoding="utf-8")) if names.is_file() else ()
        return Volume(np.asarray(image.dataobj), image.affine, tuple(listed))

    def noise_rms(self) -> float:
        """The root mean square of the noise in the mask."""
        return float(json.loads((self.folder / "noise.json").read_text(encoding="utf-8"))["rms_in_mask"])

    def check(self, volume: OnGrid, asset: str) -> None:
        """Raises InvalidData if `volume`, of the derivative `asset`, is on another grid."""
        require_same_grid(volume, self.grid, asset, "the truth")

    def fibers(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Directions (x, y, z, 3, 3) scaled by volume fraction, largest first, and the fractions (x, y, z, 3)."""
        peaks = self.load("peaks_world").array
        directions = peaks.reshape(*peaks.shape[:3], -1, 3)
        return directions, np.linalg.norm(directions, axis=-1)

    def single_fiber(self, inside: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """The white-matter voxels with a single fiber population, and its direction (n, 3) in each."""
        directions, fractions = self.fibers()
        chosen = inside & (fractions[..., 0] > SINGLE_FIBER * fractions.sum(axis=-1)) & self.white_matter()
        return chosen, directions[chosen][:, 0]

    def white_matter(self) -> NDArray[np.bool_]:
        """Where white matter is at least `WHITE_MATTER` of the voxel."""
        return np.asarray(self.load("wm").array >= WHITE_MATTER)
