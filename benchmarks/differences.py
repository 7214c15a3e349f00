"""Differences between a peer's values and ours in each voxel of the mask.

python -m benchmarks.differences STEP FOLDER SUBJECT OURS THEIRS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.dataset import Dataset
from benchmarks.process import report

# The quantities of each step: file name, and name with unit.
QUANTITIES = {
    "denoise": {"signal": "signal"},
    "tensor": {"fa": "FA", "md": "MD, mm^2/s"},
    "noddi": {"ndi": "NDI", "odi": "ODI", "fwf": "FWF"},
    "response": {},
    "response and csd": {"peaks": "first peak, degrees"},
    "csd": {"peaks": "first peak, degrees"},
    "multi-tissue": {"peaks": "first peak, degrees"},
}


def differences(step: str, dataset: Dataset, ours: Path, theirs: Path) -> list[dict[str, Any]]:
    """Mean, 99th percentile and maximum of the absolute difference of each quantity that both folders have.

    For peaks, the difference is the angle between our first peak and the peer's nearest, because the order of two peaks
    with similar amplitudes is arbitrary.
    """
    found = []
    for name, title in QUANTITIES[step].items():
        mine, other = values(ours, name, dataset), values(theirs, name, dataset)
        if mine is None or other is None:
            continue
        difference = angles(mine, other) if name == "peaks" else np.abs(mine - other)
        found.append(
            {
                "quantity": title,
                "mean": float(difference.mean()),
                "percentile_99": float(np.percentile(difference, 99)),
                "largest": float(difference.max()),
            }
        )
    return found


def angles(first: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Degrees between the first of the peaks (voxels, 3 * n) and the nearest of the others; signs have no effect."""
    mine = first[:, :3].astype(np.float64)
    theirs = np.nan_to_num(others.astype(np.float64)).reshape(len(others), -1, 3)
    lengths = np.linalg.norm(mine, axis=1)[:, None] * np.linalg.norm(theirs, axis=2)
    exists = lengths > 0
    cosines = np.abs(np.einsum("vi,vpi->vp", mine, theirs)) / np.where(exists, lengths, 1) * exists
    nearest = np.degrees(np.arccos(np.minimum(cosines.max(axis=1), 1)))
    return np.asarray(nearest[exists.any(axis=1)])


def values(folder: Path, name: str, dataset: Dataset) -> NDArray[Any] | None:
    """A quantity (voxels of the mask, ...), or None if the folder does not have it."""
    if (folder / f"{name}.npy").exists():
        return np.asarray(np.load(folder / f"{name}.npy"), np.float64)
    if not (folder / f"{name}.nii").exists():
        return None
    image: Any = nib.load(folder / f"{name}.nii")
    mask: Any = nib.load(dataset.mask)
    # MRtrix3 may write voxel axes in another order than in its input.
    transform = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.io_orientation(mask.affine))
    image = image.as_reoriented(transform)
    if not np.allclose(image.affine, mask.affine, atol=1e-2):
        raise ValueError(f"{name} in {folder}: expected the grid of the mask")
    return np.asarray(image.dataobj, np.float64)[np.asarray(mask.dataobj) > 0]


def main(step: str, folder: str, subject: str, ours: str, theirs: str) -> None:
    report({"seconds": 0, "differences": differences(step, Dataset(Path(folder), subject), Path(ours), Path(theirs))})


if __name__ == "__main__":
    main(*sys.argv[1:])
