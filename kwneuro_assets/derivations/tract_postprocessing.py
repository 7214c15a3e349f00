"""What TractSeg does with the output of its networks: closed gaps, dilated masks, unit vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.networks import quiet

# Bundles that TractSeg often finds in pieces: it lowers their thresholds if there are two, and closes gaps.
GAPS_CLOSED = ("CA", "FX_left", "FX_right")
_REACH = 6  # voxels: the edge of the block with which TractSeg closes gaps
_LOWEST = 0.1  # far below TractSeg's thresholds of 0.3 and 0.4 for bundles in pieces


def closed_mask(probability: NDArray[np.float32], bundle: str, threshold: float) -> NDArray[np.uint8]:
    """TractSeg's mask of one of the bundles `GAPS_CLOSED`, from its probability in TractSeg's cube."""
    with quiet():
        from tractseg.libs.img_utils import bundle_specific_postprocessing
    # TractSeg's thresholds are constants around 0.5, so the probabilities are mapped to bring ours to 0.5.
    if threshold != 0.5:
        probability = np.interp(probability, (0, threshold, 1), (0, 0.5, 1)).astype(np.float32)
    mask = np.zeros(probability.shape, np.uint8)
    occupied = np.argwhere(probability > _LOWEST)
    if len(occupied):
        # Closing is slow. Away from the bundle it changes nothing.
        low, high = occupied.min(axis=0), occupied.max(axis=0)
        box = tuple(slice(max(0, first - _REACH), last + 1 + _REACH) for first, last in zip(low, high, strict=True))
        with quiet():
            mask[box] = bundle_specific_postprocessing(probability[box][..., None], [bundle])[..., 0]
    return mask


def dilated(mask: NDArray[np.bool_], voxels: int) -> NDArray[np.bool_]:
    """The mask dilated by a number of voxels, along the axes (6 neighbors)."""
    from scipy.ndimage import binary_dilation

    # With iterations=0, SciPy would repeat until nothing changes.
    return np.asarray(binary_dilation(mask, iterations=voxels), np.bool_) if voxels else mask


def unit_vectors(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (n, 3) of length 1, or 0 where they were; in float64 before rounding, and by TractSeg's formula."""
    exact = vectors.astype(np.float64)
    return np.asarray(exact / (np.linalg.norm(exact, axis=-1) + 1e-20)[:, None], np.float32)
