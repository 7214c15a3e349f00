"""The time of the QC metrics of the DWI signal, without reading files.

    python -m benchmarks.qc FOLDER SUBJECT MASK

prints, for each of three repetitions, the seconds of `signal_metrics` with the raw and the denoised DWI series in
memory, and those of the processors: on a busy machine, the former are no measure. MASK is a NIfTI file.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.dataset import Dataset
from benchmarks.steps import load_dwi
from kwneuro_assets.derivations.denoise import patch2self
from kwneuro_assets.imaging import Volume
from kwneuro_assets.qc.signal import signal_metrics
from kwneuro_assets.storage.nifti import read_nifti
from kwneuro_assets.threads import thread_count

REPETITIONS = 3


def main(folder: str, subject: str, mask: str) -> None:
    raw = load_dwi(Dataset(Path(folder), subject))
    inside: Volume = read_nifti(Path(mask))
    denoised = patch2self(raw)
    grid = " x ".join(str(size) for size in raw.volume.shape)
    print(f"{grid}, {int((inside.array > 0).sum())} voxels in the mask, {thread_count()} threads")
    for _ in range(REPETITIONS):
        started, used = time.perf_counter(), time.process_time()
        signal_metrics(raw, denoised, inside)
        print(f"{time.perf_counter() - started:.2f} s, {time.process_time() - used:.2f} s of processors", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
