"""A slab of the realistic phantom, with its ground truth, as values."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, GradientTable, Volume
from kwneuro_assets.imaging.gradients import parse_bvals, parse_bvecs


@dataclass(frozen=True)
class Slab:
    dwi: Dwi
    mask: Volume
    noise_free: NDArray[np.float32]
    ndi: NDArray[np.float32]
    fwf: NDArray[np.float32]
    wm_fraction: NDArray[np.float32]


@functools.cache
def read_slab(phantom_tool: Path, slices: int = 4) -> Slab:
    """The slab of `slices` slices, generated once per test session."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, str(phantom_tool), folder, "--slices", str(slices)], check=True, capture_output=True
        )
        stem = Path(folder, "sub-01", "dwi", "sub-01_dwi")
        truth = Path(folder, "truth", "sub-01")
        image = nibabel.load(f"{stem}.nii.gz")
        bvals = parse_bvals(Path(f"{stem}.bval").read_text())
        table = GradientTable(bvals, parse_bvecs(Path(f"{stem}.bvec").read_text(), len(bvals)))
        series = Volume(np.asfortranarray(image.get_fdata(dtype=np.float32)), image.affine)

        def load(name: str) -> NDArray[np.float32]:
            return np.asarray(nibabel.load(truth / f"{name}.nii.gz").get_fdata(dtype=np.float32))

        return Slab(
            Dwi(series, table),
            Volume(load("mask").astype(np.uint8), image.affine),
            *(load(name) for name in ("noise_free_dwi", "ndi", "fwf", "wm")),
        )
