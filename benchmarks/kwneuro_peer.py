"""kwneuro's own pipeline, as in its notebook; runs in an interpreter that needs only kwneuro.

PYTHON -m benchmarks.kwneuro_peer (version | warm-up | denoise | chain | subject) [FOLDER SUBJECT OUT]
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.dataset import Dataset
from benchmarks.process import report, timed

# kwneuro's names of TractSeg's results, by those of our assets.
TRACTS = {
    "tract_masks": "tract_segmentation",
    "tract_endings": "endings_segmentation",
    "tract_orientations": "TOM",
}


def denoise(dataset: Dataset, out: Path) -> Any:
    """Load, denoise and save; returns the denoised DWI in memory."""
    from kwneuro.dwi import Dwi
    from kwneuro.io import FslBvalResource, FslBvecResource, NiftiVolumeResource

    dwi = Dwi(NiftiVolumeResource(dataset.image), FslBvalResource(dataset.bval), FslBvecResource(dataset.bvec)).load()
    denoised = dwi.denoise()
    denoised.save(out, "denoised")
    return denoised


def chain(dataset: Dataset, out: Path) -> None:
    """Load, denoise, fit DTI with FA and MD, and NODDI; save each result."""
    from kwneuro.io import NiftiVolumeResource

    mask = NiftiVolumeResource(dataset.mask).load()
    denoised = denoise(dataset, out)
    tensor = denoised.estimate_dti(mask)
    tensor.save(out / "dti.nii.gz")
    for name, volume in zip(("fa", "md"), tensor.get_fa_md(), strict=True):
        NiftiVolumeResource.save(volume, out / f"{name}.nii.gz")
    denoised.estimate_noddi(mask).save(out / "noddi.nii.gz")


def subject(dataset: Dataset, out: Path) -> list[dict[str, Any]]:
    """All steps up to the tracts, each saved; the seconds and peak memory of each, under the names of our assets.

    The brain mask is that of the dataset: kwneuro's own extraction downloads the weights of HD-BET 2. A step that needs
    what is not installed has a `problem` in place of its seconds.
    """
    from kwneuro.csd import compute_csd_peaks, estimate_response_function
    from kwneuro.io import NiftiVolumeResource
    from kwneuro.tractseg import extract_tractseg

    mask = NiftiVolumeResource(dataset.mask).load()
    steps: list[dict[str, Any]] = []
    denoised = _step(steps, "denoised_dwi", lambda: denoise(dataset, out))
    _step(steps, "mean_b0", lambda: NiftiVolumeResource.save(denoised.compute_mean_b0(), out / "mean_b0.nii.gz"))
    _step(steps, "dti", lambda: _save_tensor(denoised.estimate_dti(mask), out))
    _step(steps, "noddi", lambda: denoised.estimate_noddi(mask).save(out / "noddi.nii.gz"))
    response = _step(steps, "fiber_response", lambda: estimate_response_function(denoised, mask))
    peaks = _step(steps, "csd_peaks", lambda: compute_csd_peaks(denoised, mask, response=response, n_peaks=3))
    for name, kind in TRACTS.items():

        def segment(kind: str = kind) -> None:
            found = extract_tractseg(denoised, mask, output_type=kind, csd_peaks=peaks)
            NiftiVolumeResource.save(found, out / f"{kind}.nii.gz")

        _step(steps, name, segment)
    return steps


def _save_tensor(tensor: Any, out: Path) -> None:
    from kwneuro.io import NiftiVolumeResource

    tensor.save(out / "dti.nii.gz")
    for name, volume in zip(("fa", "md"), tensor.get_fa_md(), strict=True):
        NiftiVolumeResource.save(volume, out / f"{name}.nii.gz")


def _step(steps: list[dict[str, Any]], name: str, run: Callable[[], Any]) -> Any:
    """The result of `run`, whose seconds and peak memory are added to `steps`."""
    _restart_peak()
    started = time.perf_counter()
    try:
        result = run()
    except ImportError as error:
        steps.append({"step": name, "problem": str(error)})
        return None
    seconds = time.perf_counter() - started
    steps.append({"step": name, "seconds": round(seconds, 2), "peak_mb": _peak_mb()})
    return result


def _restart_peak() -> None:
    """Makes the kernel measure the peak memory from now on (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(step: str, *words: str) -> None:
    if step == "version":
        report({"seconds": 0, "version": importlib.metadata.version("kwneuro")})
        return
    if step == "warm-up":
        import amico

        started = time.perf_counter()
        amico.setup()
        report({"seconds": round(time.perf_counter() - started, 2)})
        return
    folder, key, out = words
    dataset, place = Dataset(Path(folder).absolute(), key), Path(out).absolute()
    os.chdir(place)  # AMICO writes its kernels into the working directory
    if step == "chain":
        chain(dataset, place)
        report({"seconds": 0})
        return
    if step == "subject":
        report({"seconds": 0, "steps": subject(dataset, place)})
        return
    importlib.import_module("kwneuro.dwi")  # not part of the time
    import nibabel as nib
    import numpy as np

    result, timing = timed(lambda: denoise(dataset, place))
    brain: Any = nib.load(dataset.brain)
    np.save(place / "signal.npy", np.asarray(result.volume.get_array()[np.asarray(brain.dataobj) > 0], np.float32))
    report(timing)


if __name__ == "__main__":
    main(*sys.argv[1:])
