"""Makes the dataset that is measured on: a given one or a synthetic one, whole or as small as a short run needs.

    python -m benchmarks.cutting FOLDER '{"source": ..., "subject": ..., "slices": ..., "voxels": ...}'

A process of its own: its memory is not to be counted with what is measured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.dataset import Dataset
from benchmarks.process import tell
from kwneuro_assets.demo.phantom import write_phantom
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.subjects import SubjectKey

SYNTHETIC = "sub-01"


def synthetic(folder: Path) -> Path:
    """The demo's head with its true brain mask as a dataset of its own."""
    source = write_phantom(folder, SYNTHETIC)
    mask = source / SYNTHETIC / "dwi" / f"{SYNTHETIC}_desc-brain_mask.nii.gz"
    mask.write_bytes((source / "truth" / SYNTHETIC / "mask.nii.gz").read_bytes())
    return source


def cut(source: Path, subject: str, slices: int | None, voxels: int | None, folder: Path) -> Dataset:
    """Writes that subject of `source` into `folder`, which is to be empty, and says what of it counts.

    `slices` keeps so many axial ones about the middle of the brain. `voxels` keeps so many in the mask, those nearest
    its middle; the image stays whole. What is kept whole is linked, and so is read as it lies there.
    """
    found = SourceDataset(SourceSettings(url=str(source)))
    key = SubjectKey.parse(subject)
    series = found.series(key)
    if len(series.runs) > 1:
        raise SystemExit(f"{subject} has {len(series.runs)} runs; most peers read one file: measure on one of them")
    run, mask_file = series.runs[0], Path(str(found.mask(key)))
    dataset = Dataset(folder, str(key))
    dataset.stem.parent.mkdir(parents=True)
    Path(f"{dataset.stem}_dwi.bval").write_bytes(run.bval.read_bytes())
    Path(f"{dataset.stem}_dwi.bvec").write_bytes(run.bvec.read_bytes())

    mask: Any = nib.load(mask_file)
    part = _slab(mask, slices)
    image = Path(str(run.image))
    _write_part(image, part, Path(f"{dataset.stem}_dwi{''.join(image.suffixes[-2:])}"))
    truth = source / "truth" / dataset.subject / dataset.truth.name
    if truth.exists():
        _write_part(truth, part, dataset.truth)
    mask = mask.slicer[part] if part else mask
    inside = np.asarray(mask.dataobj) > 0
    for kept, path in ((inside, dataset.brain), (_nearest(inside, mask.affine, voxels), dataset.mask)):
        nib.save(nib.Nifti1Image(kept.astype(np.uint8), mask.affine), path)
    return dataset


def described(dataset: Dataset) -> dict[str, Any]:
    """What is told of the dataset beside the figures."""
    image: Any = nib.load(dataset.image)
    counts = [int(np.count_nonzero(np.asarray(nib.load(path).dataobj))) for path in (dataset.mask, dataset.brain)]  # type: ignore[attr-defined]
    return {
        "subject": dataset.subject,
        "shape": list(image.shape),
        "voxels_fitted": counts[0],
        "voxels_of_brain": counts[1],
    }


def _slab(mask: Any, slices: int | None) -> tuple[slice, ...]:
    """The part of the grid that is kept, () for all."""
    # The voxel axis that runs most nearly up: volumes of a sagittal acquisition are stored otherwise.
    upward = np.abs(mask.affine[2, :3]) / np.linalg.norm(mask.affine[:3, :3], axis=0)
    axis = int(upward.argmax())
    size = mask.shape[axis]
    if slices is None or slices >= size:
        return ()
    middle = np.nonzero(np.asarray(mask.dataobj))[axis].mean()
    start = int(np.clip(round(middle - slices / 2), 0, size - slices))
    return tuple(slice(start, start + slices) if index == axis else slice(None) for index in range(3))


def _nearest(inside: NDArray[np.bool_], affine: NDArray[np.float64], voxels: int | None) -> NDArray[np.bool_]:
    """So many voxels of the mask, those nearest its middle."""
    places = np.argwhere(inside)
    if voxels is None or voxels >= len(places):
        return inside
    distance = np.linalg.norm((places - places.mean(axis=0)) @ affine[:3, :3].T, axis=1)
    kept = np.zeros_like(inside)
    kept[tuple(places[np.argsort(distance, kind="stable")[:voxels]].T)] = True
    return kept


def _write_part(image: Path, part: tuple[slice, ...], target: Path) -> None:
    if not part:
        target.symlink_to(image.absolute())
        return
    whole: Any = nib.load(image)
    nib.save(whole.slicer[part], target)


def main(folder: str, wanted: str) -> None:
    choice = json.loads(wanted)
    source = Path(choice["source"]) if choice["source"] else synthetic(Path(folder) / "synthetic")
    dataset = cut(source, choice["subject"], choice["slices"], choice["voxels"], Path(folder) / "source")
    tell({"seconds": 0, **described(dataset)})


if __name__ == "__main__":
    main(*sys.argv[1:])
