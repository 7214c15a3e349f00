"""DIPY's denoising and tensor, timed in this process.

python -m benchmarks.dipy_peer STEP FOLDER SUBJECT OUT
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from dipy.core.gradients import gradient_table
from dipy.denoise.patch2self import patch2self
from dipy.reconst.dti import TensorModel

from benchmarks.dataset import Dataset
from benchmarks.process import report, report_problem, timed
from benchmarks.steps import SETTINGS, load_brain, load_dwi, load_mask
from kwneuro_assets.derivations.tensor import tensor_volumes
from kwneuro_assets.imaging import NotApplicable


def denoise(dataset: Dataset, out: Path) -> dict[str, Any]:
    """Patch2Self version 3, from file to file; as in ours, b=0 volumes are unchanged and there is no intensity shift.

    The b=0 volumes are moved to the front and back again: with `b0_denoising=False`, version 3 (DIPY 1.12.1) returns
    other volumes in the place of later b=0 volumes, which is not an error of the method. The copies take less than 1 %
    of the time.
    """
    dwi = load_dwi(dataset)
    order = np.argsort(~dwi.b0_mask, kind="stable")
    back = np.argsort(order)
    bvals = dwi.bvals[order]
    del dwi

    def run() -> Any:
        image: Any = nib.load(dataset.image)
        signal = np.asarray(image.dataobj, np.float32)
        if (order != back).any():
            signal = signal[..., order]
        result = patch2self(signal, bvals, b0_denoising=False, shift_intensity=False, verbose=False, version=3)
        if (order != back).any():
            result = result[..., back]
        nib.save(nib.Nifti1Image(result, image.affine), out / "denoised.nii.gz")
        return result

    result, timing = timed(run)
    np.save(out / "signal.npy", np.asarray(result, np.float32)[load_brain(dataset)])
    return timing


def tensor(dataset: Dataset, out: Path) -> dict[str, Any]:
    """Weighted least squares on the same volumes, with FA and MD."""
    dwi, inside = load_dwi(dataset), load_mask(dataset).array > 0
    chosen = tensor_volumes(dwi.gradients, SETTINGS.dti.max_bvalue)
    if isinstance(chosen, NotApplicable):
        return {"problem": chosen.reason}
    signal = dwi.array[..., chosen]
    table: Any = gradient_table(
        dwi.bvals[chosen], bvecs=dwi.world_bvecs[chosen], b0_threshold=dwi.gradients.b0_threshold
    )

    model: Any = TensorModel  # untyped

    def run() -> tuple[Any, Any]:
        fit = model(table, fit_method="WLS").fit(signal, mask=inside)
        return fit.fa, fit.md

    (fa, md), timing = timed(run)
    np.save(out / "fa.npy", fa[inside])
    np.save(out / "md.npy", md[inside])
    return timing


STEPS: dict[str, Callable[[Dataset, Path], dict[str, Any]]] = {"denoise": denoise, "tensor": tensor}


def main(step: str, folder: str, subject: str, out: str) -> None:
    timing = STEPS[step](Dataset(Path(folder), subject), Path(out))
    if "problem" in timing:
        report_problem(timing["problem"])
    else:
        report(timing)


if __name__ == "__main__":
    main(*sys.argv[1:])
