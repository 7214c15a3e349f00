"""How far a peer's values lie from ours, voxel by voxel of the mask.

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
from benchmarks.process import tell

# What both give, by step: the name of its file, and what it is called with its unit.
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
    """Mean, 99th percentile and largest of the absolute difference of each quantity that both folders hold.

    Of peaks it is the angle from our first to the peer's nearest, where both have one: which of two fibres of about the
    same size is called the first is chance.
    """
    found = []
    for name, title in QUANTITIES[step].items():
        mine, other = values(ours, name, dataset), values(theirs, name, dataset)
        if mine is None or other is None:
            continue
        apart = angles(mine, other) if name == "peaks" else np.abs(mine - other)
        found.append(
            {
                "quantity": title,
                "mean": float(apart.mean()),
                "percentile_99": float(np.percentile(apart, 99)),
                "largest": float(apart.max()),
            }
        )
    return found


def angles(first: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Degrees between the first of the peaks (voxels, 3 * n) and the nearest of the others, axes without a sign."""
    mine = first[:, :3].astype(np.float64)
    theirs = np.nan_to_num(others.astype(np.float64)).reshape(len(others), -1, 3)
    lengths = np.linalg.norm(mine, axis=1)[:, None] * np.linalg.norm(theirs, axis=2)
    there = lengths > 0
    cosines = np.abs(np.einsum("vi,vpi->vp", mine, theirs)) / np.where(there, lengths, 1) * there
    nearest = np.degrees(np.arccos(np.minimum(cosines.max(axis=1), 1)))
    return np.asarray(nearest[there.any(axis=1)])


def values(folder: Path, name: str, dataset: Dataset) -> NDArray[Any] | None:
    """A quantity as an array (voxels of the mask, ...), or None where the folder does not hold it."""
    if (folder / f"{name}.npy").exists():
        return np.asarray(np.load(folder / f"{name}.npy"), np.float64)
    if not (folder / f"{name}.nii").exists():
        return None
    image: Any = nib.load(folder / f"{name}.nii")
    mask: Any = nib.load(dataset.mask)
    # MRtrix3 may write voxel axes in another order than it read them.
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.io_orientation(mask.affine))
    image = image.as_reoriented(turn)
    if not np.allclose(image.affine, mask.affine, atol=1e-2):
        raise ValueError(f"{name} of {folder} is on another grid than the mask")
    return np.asarray(image.dataobj, np.float64)[np.asarray(mask.dataobj) > 0]


def main(step: str, folder: str, subject: str, ours: str, theirs: str) -> None:
    tell({"seconds": 0, "differences": differences(step, Dataset(Path(folder), subject), Path(ours), Path(theirs))})


if __name__ == "__main__":
    main(*sys.argv[1:])
