"""The output of TractSeg's networks for the peaks of one subject, class by class on the grid of the peaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.devices import NetworkDevice
from kwneuro_assets.derivations.networks import inference
from kwneuro_assets.derivations.tractseg_cube import Cube
from kwneuro_assets.derivations.tractseg_grid import TractSegGrid
from kwneuro_assets.derivations.tractseg_network import PEAKS, TractNetwork
from kwneuro_assets.derivations.tractseg_slices import Wanted, mean_outputs
from kwneuro_assets.imaging import InvalidData, Volume
from kwneuro_assets.progress import Progress


def strongest_peaks(peaks: Volume) -> Volume:
    """The three strongest peaks (x, y, z, 9) of `peaks` (x, y, z, 3 * n), which is ordered by strength.

    Raises InvalidData if `peaks` has another shape, or less than three peaks per voxel.
    """
    if peaks.array.ndim != 4 or peaks.shape[3] < 3 * PEAKS or peaks.shape[3] % 3:
        raise InvalidData("peaks", expected=f"(x, y, z, 3 * n), n >= {PEAKS}", found=f"shape {peaks.shape}")
    return Volume(peaks.array[..., : 3 * PEAKS], peaks.affine)


class PlacedPeaks:
    """Peaks (x, y, z, 9) where TractSeg's networks take them: on TractSeg's grid, in its cube of `size` voxels.

    Raises ValueError if no voxel has a peak.
    """

    def __init__(self, peaks: Volume, size: int) -> None:
        self.grid = TractSegGrid(peaks)
        self.cube = Cube(self.grid.image.array, size)


class Prediction:
    """The mean outputs of a network over slices along `directions`, such as "xyz".

    `everywhere` are the classes whose output is also stored at every voxel of the cube.
    """

    def __init__(
        self,
        peaks: PlacedPeaks,
        network: TractNetwork,
        directions: str,
        *,
        everywhere: Sequence[int] = (),
        device: NetworkDevice | None,
        progress: Progress,
    ) -> None:
        self._peaks = peaks
        wanted = [Wanted(range(network.classes), peaks.cube.used)]
        if everywhere:
            edge = np.arange(network.cube)
            wanted.append(Wanted(everywhere, (edge, edge, edge)))

        def work(name: str) -> list[NDArray[np.float32]]:
            with inference():
                return mean_outputs(peaks.cube.array(), network, directions, wanted, name, progress)

        self._used, *rest = (device or NetworkDevice()).run(work)
        self._everywhere = dict(zip(everywhere, rest[0], strict=True)) if rest else {}

    def output(self, index: int) -> NDArray[np.float32]:
        """The output (x, y, z) of one class on the grid of the peaks."""
        return self._peaks.grid.back(self._peaks.cube.to_image(self._used[index]))

    def in_cube(self, index: int) -> NDArray[np.float32]:
        """The output of one class of `everywhere` at all voxels of the cube."""
        return self._everywhere[index]

    def from_cube(self, values: NDArray[Any]) -> NDArray[Any]:
        """The image (x, y, z) on the grid of the peaks of values at all voxels of the cube."""
        return self._peaks.grid.back(self._peaks.cube.all_to_image(values))
