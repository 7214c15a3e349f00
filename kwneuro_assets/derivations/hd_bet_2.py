"""HD-BET 2: nnU-Net's predictor in this process, with its patches and their mirrored copies in parallel on a CPU.

Preprocessing, weighting, summation and resampling are nnU-Net's own. It takes the output of the network for one patch
after the other, in its fixed order, while threads compute the next ones: the result has the same bits for any number
of threads, and those of nnU-Net itself in one thread.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.devices import NetworkDevice, loaded
from kwneuro_assets.derivations.network_files import NNUNET_FILES, safe_nnunet_folder
from kwneuro_assets.derivations.networks import quiet
from kwneuro_assets.imaging import Volume
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import map_ahead, thread_count

Axes = tuple[int, ...]
Slicers = list[tuple[slice, ...]]  # nnU-Net's, each of one patch

MAX_PASSES = 4  # at the same time: one through a patch of 128 x 128 x 128 voxels needs 2 GB


@quiet()
def segment_by_hd_bet_2(
    image: Volume, weights: Path, device: NetworkDevice, progress: Progress = silent
) -> NDArray[np.bool_]:
    """The brain (z, y, x) in an `image` whose voxel axes are (z, y, x) in the LPS frame.

    `weights` is a folder such as HD-BET 2's. If the device says so, the network also segments mirrored copies, and the
    mean counts. Raises InvalidData if the weights are not those of an nnU-Net (none of their code is run).
    """
    channels = np.ascontiguousarray(image.array, np.float32)[np.newaxis]

    def segment(name: str) -> Any:
        predictor = _for_one_image(_predictor(weights, name), device.mirroring, progress)
        # The only prediction function of nnU-Net that starts no worker processes.
        return predictor.predict_single_npy_array(channels, {"spacing": list(image.voxel_size)})

    return np.asarray(device.run(segment) != 0)


def _predictor(weights: Path, device: str) -> Any:
    """nnU-Net's predictor with these weights, loaded once in this process."""
    files = [(weights / name).stat() for name in NNUNET_FILES]
    key = ("hd-bet", weights, *((file.st_size, file.st_mtime_ns) for file in files), device)
    return loaded(key, lambda: _load(weights, device))


def _load(weights: Path, device: str) -> Any:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    benchmark = torch.backends.cudnn.benchmark
    predictor: Any = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        perform_everything_on_device=device != "cpu",
        device=torch.device(device),
        allow_tqdm=False,
    )
    torch.backends.cudnn.benchmark = benchmark  # nnU-Net turns it on: another run may select other convolutions
    with safe_nnunet_folder(weights) as folder:
        predictor.initialize_from_trained_model_folder(str(folder), "all")
    return predictor


def _for_one_image(predictor: Any, mirroring: bool, progress: Progress) -> Any:
    """A predictor with the same network that reads the outputs for its patches from `_Outputs`."""
    one = copy.copy(predictor)
    one.use_mirroring = mirroring
    outputs = _Outputs(one, progress)

    def predict(data: Any, slicers: Slicers, do_on_device: bool = True) -> Any:
        outputs.start(data, slicers)
        return predictor_class._internal_predict_sliding_window_return_logits(one, data, slicers, do_on_device)

    predictor_class = type(predictor)
    one._internal_predict_sliding_window_return_logits = predict
    one._internal_maybe_mirror_and_predict = lambda patch: outputs.next_patch()
    return one


class _Outputs:
    """The output of the network for each patch of an image: the mean of its mirrored copies."""

    def __init__(self, predictor: Any, progress: Progress) -> None:
        self._predictor = predictor
        self._progress = progress
        self._copies = _mirrored_copies(predictor.allowed_mirroring_axes if predictor.use_mirroring else None)
        self._patches = self._done = 0
        self._passes: Iterator[Any] = iter(())

    def start(self, data: Any, slicers: Slicers) -> None:
        """Begins with the patches `slicers` of the image `data` (channels, z, y, x), which is a PyTorch tensor."""
        on_cpu = self._predictor.device.type == "cpu"
        self._patches, self._done = len(slicers), 0
        given = ((data[slicer][None], axes) for slicer in slicers for axes in self._copies)
        threads = min(thread_count(), MAX_PASSES)
        self._passes = map_ahead(self._forward, given, threads) if on_cpu else map(self._forward, given)

    def next_patch(self) -> Any:
        """The output (1, classes, z, y, x) for the next patch, summed in nnU-Net's order of the copies."""
        total = next(self._passes)
        for _ in self._copies[1:]:
            total += next(self._passes)
        if len(self._copies) > 1:
            total /= len(self._copies)
        self._done += 1
        self._progress(self._done / self._patches)
        return total

    def _forward(self, given: tuple[Any, Axes]) -> Any:
        import torch

        patch, axes = given
        device = self._predictor.device
        torch.set_flush_denormal(True)  # for this thread, as `network_threads` does
        # nnU-Net computes in half precision on a GPU, which changes voxels.
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            return torch.flip(self._predictor.network(torch.flip(patch.to(device), axes)), axes)


def _mirrored_copies(mirrored: Sequence[int] | None) -> list[Axes]:
    """The axes along which each copy of a patch (1, channels, z, y, x) is reversed, the original first."""
    axes = [axis + 2 for axis in mirrored or ()]
    return [chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)]
