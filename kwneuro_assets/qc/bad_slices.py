"""Bad slices as DSI Studio counts them, for comparison with QSIPrep's `raw_num_bad_slices`.

DSI Studio (Yeh; `get_bad_slices`) correlates each slice of a volume with the two adjacent slices and with the same
slice of the volumes before and after, over the entire slice, takes the highest correlation, and counts a slice if the
four neighbors have correlations that are together higher by 0.4. A slice that is only darker is as correlated as
before: this count does not find it, and it counts slices of clean data with low SNR.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import GradientTable
from kwneuro_assets.qc.metrics import Metric

LIMIT = 0.4  # of the sum of four differences of correlations
MIN_PLANE = 1 / 16  # of the plane in the mask: smaller slices are not judged

BAD_SLICE_METRICS = (
    Metric(
        "raw_num_bad_slices",
        "Bad slices by DSI Studio's rule",
        "Number of slices of single raw volumes whose highest correlation with an adjacent slice, or with the same "
        "slice of the volume before or after, is lower than that of these four neighbors by 0.4 in sum. For comparison "
        "with QSIPrep only: dropout does not change a correlation, and clean noisy data have such slices.",
        "1",
        "lower",
        None,
        "https://qsiprep.readthedocs.io/en/latest/preprocessing.html",
        "integer",
    ),
)

Image = NDArray[np.float32]


class BadSlices:
    """The count of bad slices, from the volumes of a DWI series in any order.

    A volume is compared with its neighbors in the order of DSI Studio: the first b=0 volume, then all others, by shell.
    Only volumes whose neighbors have not yet been read are in memory.
    """

    def __init__(self, gradients: GradientTable, grid: tuple[int, int, int]) -> None:
        shells = [index for shell in gradients.shells() for index in shell.indices]
        self._order = [*np.flatnonzero(gradients.b0_mask)[:1].tolist(), *shells]
        self._places = {index: place for place, index in enumerate(self._order)}
        self._best = np.zeros((len(self._order), grid[2]), np.float32)
        self._pending: dict[int, NDArray[np.float32]] = {}
        self._partners = [{place - 1, place + 1} & set(range(len(self._order))) for place in range(len(self._order))]

    def prepared(self, index: int, image: Image) -> NDArray[np.float32] | None:
        """The standardized slices of volume `index`, None if it is not compared."""
        return standardized_slices(image) if index in self._places else None

    def add(self, index: int, prepared: NDArray[np.float32] | None) -> None:
        """Adds volume `index`, with its `prepared` slices."""
        if prepared is None:
            return
        place, planes = self._places[index], prepared
        if len(planes) > 1:
            along = np.einsum("zp,zp->z", planes[1:], planes[:-1])
            self._raise(place, slice(1, None), along)
            self._raise(place, slice(None, -1), along)
        for partner in [one for one in self._partners[place] if one in self._pending]:
            between = np.einsum("zp,zp->z", planes, self._pending[partner])
            self._raise(place, slice(None), between)
            self._raise(partner, slice(None), between)
            self._partners[place].discard(partner)
            self._partners[partner].discard(place)
            if not self._partners[partner]:
                del self._pending[partner]
        if self._partners[place]:
            self._pending[place] = planes

    def count(self, inside: NDArray[np.bool_]) -> int:
        """The number of bad slices, after all volumes were added; `inside` is the mask (x, y, z)."""
        judged = inside.sum(axis=(0, 1)) >= inside.shape[0] * inside.shape[1] * MIN_PLANE
        judged[:1] = judged[-2:] = False  # DSI Studio ignores the first and the last two
        # A neighbor beyond the first or the last volume counts as equal.
        padded = np.pad(self._best, 1, mode="edge")
        excess = padded[1:-1, :-2] + padded[1:-1, 2:] + padded[:-2, 1:-1] + padded[2:, 1:-1] - 4 * self._best
        return int(np.count_nonzero((excess > LIMIT) & judged))

    def _raise(self, place: int, slices: slice, correlation: NDArray[np.float32]) -> None:
        self._best[place, slices] = np.maximum(self._best[place, slices], correlation)


def standardized_slices(image: Image) -> NDArray[np.float32]:
    """(slices, x * y) the slices of a volume (x, y, z) with mean 0 and norm 1, zero if constant.

    The product of two is their correlation.
    """
    planes = np.array(image.T, np.float32, order="C").reshape(image.shape[2], -1)
    planes -= planes.mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
    norm = np.sqrt(np.einsum("zp,zp->z", planes, planes))
    planes /= np.where(norm > 0, norm, 1)[:, None]
    return planes
