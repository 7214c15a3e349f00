"""kwneuro's own pipeline, as its notebook runs it; run by an interpreter that has it, which need have nothing else.

PYTHON -m benchmarks.kwneuro_peer (version | warm-up | denoise | chain) [FOLDER SUBJECT OUT]
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.dataset import Dataset
from benchmarks.process import tell, timed


def denoise(dataset: Dataset, out: Path) -> Any:
    """Load, denoise, save. Gives the denoised series with its voxels in memory."""
    from kwneuro.dwi import Dwi  # type: ignore[import-not-found,unused-ignore]
    from kwneuro.io import FslBvalResource, FslBvecResource, NiftiVolumeResource  # type: ignore[import-not-found,unused-ignore]

    series = Dwi(
        NiftiVolumeResource(dataset.image), FslBvalResource(dataset.bval), FslBvecResource(dataset.bvec)
    ).load()
    denoised = series.denoise()
    denoised.save(out, "denoised")
    return denoised


def chain(dataset: Dataset, out: Path) -> None:
    """Load, denoise, save, DTI with FA and MD, NODDI, each saved."""
    from kwneuro.io import NiftiVolumeResource  # type: ignore[import-not-found,unused-ignore]

    mask = NiftiVolumeResource(dataset.mask).load()
    denoised = denoise(dataset, out)
    tensor = denoised.estimate_dti(mask)
    tensor.save(out / "dti.nii.gz")
    for name, volume in zip(("fa", "md"), tensor.get_fa_md(), strict=True):
        NiftiVolumeResource.save(volume, out / f"{name}.nii.gz")
    denoised.estimate_noddi(mask).save(out / "noddi.nii.gz")


def main(step: str, *words: str) -> None:
    if step == "version":
        tell({"seconds": 0, "version": importlib.metadata.version("kwneuro")})
        return
    if step == "warm-up":
        import amico

        started = time.perf_counter()
        amico.setup()
        tell({"seconds": round(time.perf_counter() - started, 2)})
        return
    folder, subject, out = words
    dataset, place = Dataset(Path(folder).absolute(), subject), Path(out).absolute()
    os.chdir(place)  # AMICO leaves its kernels where it runs
    if step == "chain":
        chain(dataset, place)
        tell({"seconds": 0})
        return
    importlib.import_module("kwneuro.dwi")  # so that its imports are not timed
    import nibabel as nib
    import numpy as np

    result, figures = timed(lambda: denoise(dataset, place))
    brain: Any = nib.load(dataset.brain)
    np.save(place / "signal.npy", np.asarray(result.volume.get_array()[np.asarray(brain.dataobj) > 0], np.float32))
    tell(figures)


if __name__ == "__main__":
    main(*sys.argv[1:])
