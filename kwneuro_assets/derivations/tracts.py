"""White matter bundles from fibre peaks, by TractSeg's own networks (package TractSeg, version 2.10).

Wasserthal et al., NeuroImage 183 (2018): masks of 72 bundles and of their endings; Medical Image Analysis 58
(2019): orientation maps. TractSeg's configurations, slices, network and clean-up are called here. Its one-stop
`run_tractseg` is not: that one downloads, prints, may call `sys.exit`, and keeps all classes in all three
directions twice in memory, 10 GB for the endings.
"""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.networks import inference, needs_extra, network_threads, quiet
from kwneuro_assets.derivations.orientation import nearest, orientation, reoriented, tilt, world_aligned_grid
from kwneuro_assets.imaging import InvalidData, Volume
from kwneuro_assets.imaging.volume import require_same_grid
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import thread_count

# Names of the weight files in the folder that each function is given.
MASK_WEIGHTS = "pretrained_weights_tract_segmentation_v3.npz"
ENDING_WEIGHTS = "pretrained_weights_endings_segmentation_v4.npz"
ORIENTATION_WEIGHTS = tuple(f"pretrained_weights_peak_regression_part{part}_v2.npz" for part in (1, 2, 3, 4))

TRACTSEG_AXES = "LAS"  # of the images that TractSeg was trained on
PEAKS = 3  # that its networks take
# TractSeg takes voxels for cubes along the world's axes. Beyond these tolerances the grid is resampled to such
# ones: at the rim of a brain, 90 mm from its middle, one degree is 1.6 mm, less than a voxel.
TILT_TOLERANCE = 1.0  # degrees
ANISOTROPY_TOLERANCE = 1.05  # longest edge of a voxel over its shortest

Finish = Callable[[NDArray[np.float32]], NDArray[Any]]


def segment_tracts(peaks: Volume, *, weights: Path, threshold: float = 0.5, progress: Progress = silent) -> Volume:
    """The 72 bundles of TractSeg as uint8 masks (x, y, z, 72) on the grid of `peaks`, named along the fourth axis.

    `peaks` is (x, y, z, 3 * n), n >= 3, strongest first, in the world frame and on any grid; the three strongest
    count. `weights` is the folder that holds `MASK_WEIGHTS`. A voxel is in a bundle where its probability, the
    mean over slices along x, y and z, is above `threshold`; where the anterior commissure or the fornix come out
    in two pieces TractSeg lowers theirs (to 0.6 and 0.8 of it), and it always closes their gaps.

    An image without any peak has no bundles: zero everywhere. Raises InvalidData for other shapes and for weights
    of another network; FileNotFoundError without weights; ModuleNotFoundError without TractSeg.
    """

    def masks(probability: NDArray[np.float32]) -> NDArray[Any]:
        from tractseg.libs.img_utils import bundle_specific_postprocessing

        # TractSeg's thresholds are constants around 0.5, so the probabilities are bent to bring ours there.
        if threshold != 0.5:
            for index in range(len(network.bundles)):
                probability[..., index] = np.interp(probability[..., index], (0, threshold, 1), (0, 0.5, 1))
        with quiet():
            return np.asarray(bundle_specific_postprocessing(probability, network.bundles))

    network = _network("TractSeg_PeakRot4", "All", weights / MASK_WEIGHTS)
    found = _predict(peaks, network, "xyz", masks, progress)
    return Volume(found.astype(np.uint8, copy=False), peaks.affine, network.bundles)


def segment_endings(peaks: Volume, *, weights: Path, threshold: float = 0.5, progress: Progress = silent) -> Volume:
    """Both ends of the 72 bundles as uint8 masks (x, y, z, 144), named `<bundle>_b` and `<bundle>_e`.

    As `segment_tracts`, with `ENDING_WEIGHTS` in the folder `weights`, and a voxel counts from `threshold` on. The
    order is TractSeg's for endings, which is not quite that of its bundles.
    """
    network = _network("EndingsSeg_PeakRot4", "All_endpoints", weights / ENDING_WEIGHTS)
    found = _predict(peaks, network, "xyz", lambda probability: (probability >= threshold).astype(np.uint8), progress)
    return Volume(found.astype(np.uint8, copy=False), peaks.affine, network.bundles)


def orientation_maps(
    peaks: Volume, masks: Volume, *, weights: Path, dilation: int = 1, progress: Progress = silent
) -> Volume:
    """The local direction of each bundle: float32 (x, y, z, 216), unit vectors in the world frame.

    The fourth axis goes bundle by bundle and is named `<bundle>_x`, `_y`, `_z`. `peaks` is as for
    `segment_tracts`, `masks` (x, y, z, 72) its result; a map is zero outside its bundle's mask widened by
    `dilation` voxels (6 neighbours). `weights` is the folder of the four `ORIENTATION_WEIGHTS`, each for 18
    bundles. As in TractSeg's own command, only slices along y are used, which these networks were trained on. A
    direction's sign carries no meaning.

    Raises as `segment_tracts`, and InvalidData for masks on another grid or of other bundles.
    """
    require_same_grid(masks, peaks, "bundle masks", "the peaks")
    parts = [_network("Peaks_AngL", f"All_Part{n}", weights / file) for n, file in enumerate(ORIENTATION_WEIGHTS, 1)]
    bundles = tuple(bundle for part in parts for bundle in part.bundles)
    if masks.array.ndim != 4 or masks.shape[3] != len(bundles) or masks.names not in ((), bundles):
        raise InvalidData(
            "bundle masks",
            expected=f"the {len(bundles)} bundles of TractSeg, in its order",
            found=f"shape {masks.shape}, first names {masks.names[:3]}",
        )
    maps = np.zeros((*peaks.grid, len(bundles), 3), np.float32)
    for index, part in enumerate(parts):

        def overall(fraction: float, index: int = index) -> None:
            progress((index + fraction) / len(parts))

        vectors = _predict(peaks, part, "y", lambda values: values, overall)
        vectors = vectors.reshape(*peaks.grid, len(part.bundles), 3)
        for place, bundle in enumerate(part.bundles):
            inside = _widened(masks.array[..., bundles.index(bundle)] > 0, dilation)
            maps[..., bundles.index(bundle), :][inside] = _unit(vectors[inside, place])
    names = tuple(f"{bundle}_{axis}" for bundle in bundles for axis in "xyz")
    return Volume(maps.reshape(*peaks.grid, -1), peaks.affine, names)


@dataclass(frozen=True)
class _Network:
    """One of TractSeg's trained networks: its configuration, its weights, the bundles it knows."""

    config: Any
    weights: Path
    bundles: tuple[str, ...]


def _network(name: str, classes: str, weights: Path) -> _Network:
    if not weights.is_file():
        raise FileNotFoundError(f"TractSeg's weights are not there: {weights}")
    with needs_extra("tractseg"), inference(), quiet():
        from tractseg.data.dataset_specific_utils import get_bundle_names, get_correct_input_dim
        from tractseg.libs.exp_utils import get_correct_labels_type

        config = importlib.import_module(f"tractseg.experiments.pretrained_models.{name}").Config()
        bundles = tuple(get_bundle_names(classes)[1:])  # the first is the background
        config.CLASSES = classes
        config.NR_OF_CLASSES = len(bundles) * (3 if config.EXPERIMENT_TYPE == "peak_regression" else 1)
        config.INPUT_DIM = get_correct_input_dim(config)
        config.VERBOSE = False
        return _Network(get_correct_labels_type(config), weights, bundles)


def _predict(peaks: Volume, network: _Network, directions: str, finish: Finish, progress: Progress) -> NDArray[Any]:
    """The network's mean answer over slices along `directions`, after `finish`, on the grid of `peaks`."""
    if peaks.array.ndim != 4 or peaks.shape[3] < 3 * PEAKS or peaks.shape[3] % 3:
        raise InvalidData("peaks", expected=f"(x, y, z, 3 * n), n >= {PEAKS}", found=f"shape {peaks.shape}")
    strongest = Volume(peaks.array[..., : 3 * PEAKS], peaks.affine)
    progress(0.0)
    if not strongest.array.any():
        progress(1.0)
        return np.zeros((*peaks.grid, network.config.NR_OF_CLASSES), np.float32)
    upright = max(peaks.voxel_size) / min(peaks.voxel_size) <= ANISOTROPY_TOLERANCE and tilt(peaks) <= TILT_TOLERANCE
    if upright:
        turned = reoriented(strongest, TRACTSEG_AXES)
    else:
        turned = nearest(strongest, *world_aligned_grid(strongest, min(strongest.voxel_size)))
    with inference():
        answer = Volume(_in_network_space(turned.array, network, directions, finish, progress), turned.affine)
    back = reoriented(answer, orientation(peaks)) if upright else nearest(answer, peaks.grid, peaks.affine)
    progress(1.0)
    return back.array


def _in_network_space(
    peaks: NDArray[np.float32], network: _Network, directions: str, finish: Finish, progress: Progress
) -> NDArray[Any]:
    """As `_predict`, for an array in TractSeg's orientation: its brain is fitted into TractSeg's cube and back."""
    with quiet():
        from tractseg.libs import data_utils

    classes = network.config.NR_OF_CLASSES
    cropped, _, box, shape = data_utils.crop_to_nonzero(peaks)
    cube, fit = data_utils.pad_and_scale_img_to_square_img(cropped, target_size=network.config.INPUT_DIM[0], nr_cpus=1)
    answer = finish(_mean_over_directions(cube, network, directions, progress))
    answer = data_utils.cut_and_scale_img_back_to_original_img(answer, fit, nr_cpus=1)
    return np.asarray(data_utils.add_original_zero_padding_again(answer, box, shape, classes))


def _mean_over_directions(
    cube: NDArray[np.float32], network: _Network, directions: str, progress: Progress
) -> NDArray[np.float32]:
    with quiet():
        from tractseg.data.data_loader_inference import DataLoaderInference

        predict = _predictor(network)
    total = np.zeros((*cube.shape[:3], network.config.NR_OF_CLASSES), np.float32)
    # The loader also makes an empty truth image, for which one class is enough.
    config = copy.copy(network.config)
    config.NR_OF_CLASSES = 1
    # A slice to each thread: each pass has one thread (see `inference`), and the threads wait for each other less.
    with network_threads(thread_count()) as pool:
        for index, direction in enumerate(directions):
            config.SLICE_DIRECTION = direction
            slices = np.moveaxis(total, "xyz".index(direction), 0)
            batches = (batch["data"] for batch in DataLoaderInference(config, data=cube).get_batch_generator())
            for place, answer in enumerate(pool.map(predict, batches)):
                slices[place] += answer
                progress((index + (place + 1) / len(slices)) / len(directions))
    total /= len(directions)
    return total


def _predictor(network: _Network) -> Callable[[Any], NDArray[np.float32]]:
    """A function from a slice (1, 9, a, b), a tensor, to the network's answer (a, b, classes)."""
    import torch
    from tractseg.models.base_model import BaseModel

    model = BaseModel(network.config, inference=True)
    # TractSeg's own loading says nothing and keeps random weights where the file lacks the key `unet`.
    try:
        model.net.load_state_dict(torch.load(network.weights, map_location="cpu", weights_only=True)["unet"])
    except Exception as error:  # torch raises a different kind for each way in which a file can be wrong
        raise InvalidData(
            "network weights",
            expected=f"TractSeg's, for {network.config.NR_OF_CLASSES} classes",
            found=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            remedy="Remove the file and fetch it again.",
        ).at(network.weights) from error

    def predict(piece: Any) -> NDArray[np.float32]:
        with torch.inference_mode():  # which, like the number of threads, each thread has for itself
            return np.asarray(model.predict(piece)[0])

    @functools.cache
    def of_an_empty_slice() -> NDArray[np.float32]:
        return predict(torch.zeros(1, 3 * PEAKS, *network.config.INPUT_DIM))

    return lambda piece: predict(piece) if piece.any() else of_an_empty_slice()


def _widened(mask: NDArray[np.bool_], voxels: int) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_dilation

    # With no iterations SciPy would go on until nothing changes.
    return np.asarray(binary_dilation(mask, iterations=voxels), np.bool_) if voxels else mask


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0))
