"""One coarse synthetic subject for all tests of the demo."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from kwneuro_assets.demo.phantom import centered_affine, write_phantom
from kwneuro_assets.imaging import Dwi, GradientTable, Volume
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs

COARSE = (26, 32, 28)
COARSE_VOXEL = 6.2  # mm


@pytest.fixture(scope="session")
def coarse_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the synthetic head in left-handed voxels of 6.2 mm."""
    affine = centered_affine(COARSE, voxel=COARSE_VOXEL)
    return write_phantom(tmp_path_factory.mktemp("coarse"), affine=affine, shape=COARSE)


def read_dwi(folder: Path, subject: str = "sub-01") -> Dwi:
    stem = folder / subject / "dwi" / f"{subject}_dwi"
    bvals = parse_bvals(Path(f"{stem}.bval").read_text())
    bvecs = parse_bvecs(Path(f"{stem}.bvec").read_text(), len(bvals))
    return Dwi(read_volume(Path(f"{stem}.nii.gz")), GradientTable(bvals, bvecs))


def read_truth(folder: Path, name: str, subject: str = "sub-01") -> Volume:
    return read_volume(folder / "truth" / subject / f"{name}.nii.gz")


def read_volume(file: Path) -> Volume:
    """The image, with the names of its volumes if it shows tracts."""
    image = nibabel.Nifti1Image.from_filename(file)
    names = Path(str(file).replace(".nii.gz", ".json"))
    listed = json.loads(names.read_text()) if file.name.startswith("tract_") else ()
    return Volume(np.asarray(image.dataobj), image.affine, tuple(listed))
