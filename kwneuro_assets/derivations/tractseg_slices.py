"""The mean output of a TractSeg network over slices along x, y and z; equal slices are computed once.

TractSeg's scaling repeats voxels, so about half of the slices of a brain equal the one before them. A network gives
equal slices equal outputs, so every bit of the mean is the same.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.networks import quiet
from kwneuro_assets.derivations.tractseg_cube import Axes
from kwneuro_assets.derivations.tractseg_network import TractNetwork
from kwneuro_assets.progress import Progress
from kwneuro_assets.threads import map_ahead, thread_count

_GPU_SLICES = 8  # that go through a network together; on a CPU, one per thread: other numbers change bits there


@dataclass(frozen=True)
class Wanted:
    """The part of the output to keep: the classes, and the voxels of the cube along each axis."""

    classes: Sequence[int]
    axes: Axes

    def zeros(self) -> NDArray[np.float32]:
        """An array for it, (classes, x, y, z)."""
        return np.zeros((len(self.classes), *map(len, self.axes)), np.float32)

    def of(self, outputs: Any, axis: int) -> NDArray[np.float32]:
        """That part of the outputs (n, classes, a, b) of slices along `axis`, a PyTorch tensor."""
        import torch

        others = (indices for other, indices in enumerate(self.axes) if other != axis)
        rows, columns = (torch.as_tensor(indices, device=outputs.device) for indices in others)
        if len(self.classes) < outputs.shape[1]:
            outputs = outputs[:, list(self.classes)]
        return np.asarray(outputs.index_select(2, rows).index_select(3, columns).cpu())


def mean_outputs(
    cube: NDArray[np.float32],
    network: TractNetwork,
    directions: str,
    wanted: Sequence[Wanted],
    device: str,
    progress: Progress,
) -> list[NDArray[np.float32]]:
    """For each of `wanted`, the mean output (classes, x, y, z) over slices of the cube along `directions`."""
    import torch

    module = network.module(device)
    sums = [part.zeros() for part in wanted]
    on_gpu = device != "cpu"
    for number, direction in enumerate(directions):
        axis = "xyz".index(direction)

        def answer(slices: Sequence[Any], axis: int = axis) -> list[list[NDArray[np.float32]]]:
            with torch.inference_mode():  # a mode of the thread
                outputs = network.outputs(module, torch.cat(tuple(slices)).to(device))
                return [list(part.of(outputs, axis)) for part in wanted]

        needed = {int(index) for part in wanted for index in part.axes[axis]}
        different, places = _different(_slices(cube, network, direction), needed)
        # Bounded: the answers for all slices would need more memory than the result.
        groups = _in_groups(different, _GPU_SLICES if on_gpu else 1)
        answers = map_ahead(answer, groups, 1 if on_gpu else thread_count())
        flat = itertools.chain.from_iterable(zip(*parts, strict=True) for parts in answers)
        for done, (parts, where) in enumerate(zip(flat, places, strict=True), start=1):
            for total, part, values in zip(sums, wanted, parts, strict=True):
                target = np.moveaxis(total, axis + 1, 0)
                for place in np.flatnonzero(np.isin(part.axes[axis], where)):
                    target[place] += values
            progress((number + done / len(places)) / len(directions))
    for total in sums:
        total /= len(directions)
    return sums


def _slices(cube: NDArray[np.float32], network: TractNetwork, direction: str) -> Iterator[Any]:
    """The slices (1, 9, a, b) of the cube along one direction, standardized by TractSeg, as PyTorch tensors."""
    with quiet():
        from tractseg.data.data_loader_inference import DataLoaderInference
    config = copy.copy(network.config)
    config.SLICE_DIRECTION = direction
    config.NR_OF_CLASSES = 1  # of an empty reference image, which the loader allocates, too
    return (batch["data"] for batch in DataLoaderInference(config, data=cube).get_batch_generator())


def _different(slices: Iterable[Any], needed: set[int]) -> tuple[list[Any], list[list[int]]]:
    """The needed slices that differ from the one before and from the empty one, and all places of each."""
    import torch

    different: list[Any] = []
    places: list[list[int]] = []
    recent: list[int] = []  # numbers of the empty slice and the one before
    for place, piece in enumerate(slices):
        if place not in needed:
            continue
        same = next((known for known in recent if torch.equal(piece, different[known])), None)
        if same is not None:
            places[same].append(place)
            continue
        recent = [known for known in recent if not different[known].any()] + [len(different)]
        different.append(piece)
        places.append([place])
    return different, places


def _in_groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The items in lists of `size`, the last of which may be shorter."""
    iterator = iter(items)
    return iter(lambda: list(itertools.islice(iterator, size)), [])
