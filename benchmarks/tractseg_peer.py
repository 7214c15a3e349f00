"""`run_tractseg` called with the default options of TractSeg's command, timed in this process.

    python -m benchmarks.tractseg_peer STEP FOLDER OUT

FOLDER is that of `network_inputs`. Writes the result to OUT, one array.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.network_inputs import load, peaks_file, weights_folder
from benchmarks.network_steps import RESULT, some_masks
from benchmarks.process import report, timed
from kwneuro_assets.threads import thread_count
from kwneuro_assets_tests.testkit.small_networks import TRACTSEG_CLASSES

OPTIONS: dict[str, dict[str, Any]] = {
    "masks": {"output_type": "tract_segmentation"},
    "probabilities": {"output_type": "tract_segmentation", "get_probs": True},
    "endings": {"output_type": "endings_segmentation"},
    # TractSeg's command runs these networks in one direction, on which they were trained.
    "orientations": {"output_type": "TOM", "single_orientation": True},
}


def main(step: str, folder: str, out: str) -> None:
    import tractseg.libs.system_config as system
    from tractseg.experiments import base
    from tractseg.python_api import run_tractseg

    place, weights = Path(folder), weights_folder(Path(folder))
    peaks = load(peaks_file(place))
    system.SystemConfig.WEIGHTS_DIR = system.SystemConfig.TRACT_SEG_HOME = str(weights)
    base.Config.UNET_NR_FILT = _filters(weights)
    options = OPTIONS[step]
    if step == "orientations":
        bundles = _write_bundles(peaks.affine, some_masks(peaks).array, place / "bundles")
        options = {**options, "tract_segmentations_path": str(bundles)}
    result, timing = timed(lambda: run_tractseg(peaks.array.copy(), nr_cpus=thread_count(), **options))
    np.save(Path(out) / RESULT, np.asarray(result, np.uint8 if result.dtype == np.uint8 else np.float32))
    report(timing)


def _filters(weights: Path) -> int:
    """The filters of the first convolution: 64 in TractSeg's own weights."""
    import torch

    state = torch.load(weights / next(iter(TRACTSEG_CLASSES)), map_location="cpu", weights_only=True)["unet"]
    return int(next(iter(state.values())).shape[0])


def _write_bundles(affine: Any, masks: Any, folder: Path) -> Path:
    """Writes the mask of each bundle as the file that TractSeg reads."""
    from tractseg.data.dataset_specific_utils import get_bundle_names

    folder.mkdir(exist_ok=True)
    for index, bundle in enumerate(get_bundle_names("All")[1:]):
        nib.save(nib.Nifti1Image(masks[..., index], affine), folder / f"{bundle}.nii.gz")
    return folder


if __name__ == "__main__":
    main(*sys.argv[1:])
