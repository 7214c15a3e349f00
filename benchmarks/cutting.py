"""Writes the dataset of a benchmark: a given or a synthetic one, entire or reduced for a short run.

    python -m benchmarks.cutting FOLDER '{"source": ..., "subject": ..., "slices": ..., "voxels": ...}'

It runs in a separate process, so that its memory is not part of a measurement.
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
from benchmarks.process import report
from kwneuro_assets.demo.phantom import write_phantom
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.subjects import SubjectKey

SYNTHETIC = "sub-01"


def synthetic(folder: Path) -> Path:
    """Write the synthetic head of the demo with its true brain mask; returns its folder."""
    source = write_phantom(folder, SYNTHETIC)
    mask = source / SYNTHETIC / "dwi" / f"{SYNTHETIC}_desc-brain_mask.nii.gz"
    mask.write_bytes((source / "truth" / SYNTHETIC / "mask.nii.gz").read_bytes())
    return source


def cut(source: Path, subject: str, slices: int | None, voxels: int | None, folder: Path) -> Dataset:
    """Write a subject of `source` into the empty `folder`; returns the dataset.

    `slices` is the number of axial slices about the middle of the brain, None for all. `voxels` is the number of voxels
    in the mask, those nearest to its middle; the image has all voxels. Files that are not reduced are linked.
    """
    found = SourceDataset(SourceSettings(url=str(source)))
    key = SubjectKey.parse(subject)
    scan = found.series(key)
    if len(scan.runs) > 1:
        raise SystemExit(
            f"{subject} has {len(scan.runs)} runs: expected a subject with one run, because most peers read one file"
        )
    run, mask_file = scan.runs[0], Path(str(found.mask(key)))
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
    for values, path in ((inside, dataset.brain), (_nearest(inside, mask.affine, voxels), dataset.mask)):
        nib.save(nib.Nifti1Image(values.astype(np.uint8), mask.affine), path)
    return dataset


def described(dataset: Dataset) -> dict[str, Any]:
    """The description of the dataset in the results."""
    image: Any = nib.load(dataset.image)
    counts = [int(np.count_nonzero(np.asarray(nib.load(path).dataobj))) for path in (dataset.mask, dataset.brain)]  # type: ignore[attr-defined]
    return {
        "subject": dataset.subject,
        "shape": list(image.shape),
        "voxels_fitted": counts[0],
        "voxels_of_brain": counts[1],
    }


def _slab(mask: Any, slices: int | None) -> tuple[slice, ...]:
    """The slices of the grid that are written, () for all."""
    # The voxel axis nearest to inferior-superior: a sagittal acquisition has another order.
    upward = np.abs(mask.affine[2, :3]) / np.linalg.norm(mask.affine[:3, :3], axis=0)
    axis = int(upward.argmax())
    size = mask.shape[axis]
    if slices is None or slices >= size:
        return ()
    middle = np.nonzero(np.asarray(mask.dataobj))[axis].mean()
    start = int(np.clip(round(middle - slices / 2), 0, size - slices))
    return tuple(slice(start, start + slices) if index == axis else slice(None) for index in range(3))


def _nearest(inside: NDArray[np.bool_], affine: NDArray[np.float64], voxels: int | None) -> NDArray[np.bool_]:
    """The mask of the `voxels` voxels nearest to the middle of a mask."""
    places = np.argwhere(inside)
    if voxels is None or voxels >= len(places):
        return inside
    distance = np.linalg.norm((places - places.mean(axis=0)) @ affine[:3, :3].T, axis=1)
    nearest = np.zeros_like(inside)
    nearest[tuple(places[np.argsort(distance, kind="stable")[:voxels]].T)] = True
    return nearest


def _write_part(image: Path, part: tuple[slice, ...], target: Path) -> None:
    if not part:
        target.symlink_to(image.absolute())
        return
    full: Any = nib.load(image)
    nib.save(full.slicer[part], target)


def main(folder: str, options: str) -> None:
    choice = json.loads(options)
    source = Path(choice["source"]) if choice["source"] else synthetic(Path(folder) / "synthetic")
    dataset = cut(source, choice["subject"], choice["slices"], choice["voxels"], Path(folder) / "source")
    report({"seconds": 0, **described(dataset)})


if __name__ == "__main__":
    main(*sys.argv[1:])
