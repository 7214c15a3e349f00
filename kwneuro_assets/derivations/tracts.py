"""White matter bundles from FOD peaks, by the networks of TractSeg (package TractSeg, version 2.10).

Tract masks of 72 bundles and their endings: Wasserthal et al., NeuroImage 183 (2018),
doi:10.1016/j.neuroimage.2018.07.070. Tract orientation maps: Wasserthal et al., Medical Image Analysis 58 (2019),
doi:10.1016/j.media.2019.101559.

The results are those of `run_tractseg` with the options of TractSeg's command, bit for bit. This package calls
TractSeg's configurations, slices, networks and postprocessing, but not `run_tractseg` itself, which downloads files,
prints, may call `sys.exit`, computes equal slices again, and holds all classes in all three directions in memory twice
(10 GB for the endings).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kwneuro_assets.derivations.devices import NetworkDevice
from kwneuro_assets.derivations.tract_postprocessing import GAPS_CLOSED, closed_mask, dilated, unit_vectors
from kwneuro_assets.derivations.tract_prediction import PlacedPeaks, Prediction, strongest_peaks
from kwneuro_assets.derivations.tractseg_network import TractNetwork, tract_network
from kwneuro_assets.imaging import InvalidData, Segmentation, Volume
from kwneuro_assets.imaging.volume import require_same_grid
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import parallel_map

# Names of the files of network weights in the folder `weights`.
MASK_WEIGHTS = "pretrained_weights_tract_segmentation_v3.npz"
ENDING_WEIGHTS = "pretrained_weights_endings_segmentation_v4.npz"
ORIENTATION_WEIGHTS = tuple(f"pretrained_weights_peak_regression_part{part}_v2.npz" for part in (1, 2, 3, 4))


def segment_tracts(
    peaks: Volume,
    *,
    weights: Path,
    threshold: float = 0.5,
    bundle_thresholds: Mapping[str, float] | None = None,
    with_probabilities: bool = False,
    device: NetworkDevice | None = None,
    progress: Progress = silent,
) -> Volume:
    """The tract masks of TractSeg's 72 bundles (x, y, z, 72), uint8, on the grid of `peaks`, with the bundle names.

    `peaks` is (x, y, z, 3 * n), n >= 3, strongest first, in the world frame (scanner RAS+) and on any grid; the three
    strongest are used. `weights` is the folder that contains `MASK_WEIGHTS`. A voxel belongs to a bundle if its
    probability, the mean over slices along x, y and z, is above `threshold`, or above the threshold of the bundle in
    `bundle_thresholds`. If the anterior commissure or the fornix has two components, TractSeg reduces their thresholds
    (to 0.6 and 0.8 of it); it always closes their gaps. `device` is where the network runs, a CPU by default.

    With `with_probabilities`, they are a Segmentation: its probabilities are zero outside of the box around all peaks.

    If no voxel has a peak, all masks are empty. Raises InvalidData if `peaks` has another shape, if the weights are
    those of another network, or if a bundle of `bundle_thresholds` does not exist; FileNotFoundError if the file of
    weights is missing; ModuleNotFoundError if TractSeg is not installed.
    """
    network = tract_network("TractSeg_PeakRot4", "All", weights / MASK_WEIGHTS)
    limits = _limits(network.bundles, threshold, bundle_thresholds or {})
    everywhere = [network.bundles.index(bundle) for bundle in GAPS_CLOSED]
    prediction = _prediction(peaks, network, everywhere, device, progress)

    closed = {}
    if prediction:
        for index in everywhere:
            mask = closed_mask(prediction.in_cube(index), network.bundles[index], limits[index])
            closed[index] = prediction.from_cube(mask)

    def mask_of(found: Prediction, index: int) -> NDArray[Any]:
        return closed[index] if index in closed else found.output(index) > limits[index]

    masks = _volume(peaks, network, prediction, mask_of, np.uint8)
    if with_probabilities:
        masks = Segmentation.of(masks, _volume(peaks, network, prediction, Prediction.output, np.float32))
    progress(1.0)
    return masks


def segment_endings(
    peaks: Volume,
    *,
    weights: Path,
    threshold: float = 0.5,
    device: NetworkDevice | None = None,
    progress: Progress = silent,
) -> Volume:
    """The masks of both endings of the 72 bundles (x, y, z, 144), uint8, named `<bundle>_b` and `<bundle>_e`.

    Input, weights (`ENDING_WEIGHTS`) and errors are as in `segment_tracts`. A voxel belongs to an ending if its
    probability is at least `threshold`. The order is TractSeg's for endings, which differs from that of its bundles.
    """
    network = tract_network("EndingsSeg_PeakRot4", "All_endpoints", weights / ENDING_WEIGHTS)
    prediction = _prediction(peaks, network, (), device, progress)
    endings = _volume(peaks, network, prediction, lambda found, index: found.output(index) >= threshold, np.uint8)
    progress(1.0)
    return endings


def orientation_maps(
    peaks: Volume,
    masks: Volume,
    *,
    weights: Path,
    dilation: int = 1,
    device: NetworkDevice | None = None,
    progress: Progress = silent,
) -> Volume:
    """The tract orientation maps (TOMs) of the 72 bundles (x, y, z, 216), float32, unit vectors in the world frame.

    The fourth axis is named `<bundle>_x`, `<bundle>_y`, `<bundle>_z`, bundle by bundle. `peaks` is as in
    `segment_tracts`, and `masks` (x, y, z, 72) its result. A map is zero outside the mask of its bundle, dilated by
    `dilation` voxels (6 neighbors). `weights` is the folder that contains the four `ORIENTATION_WEIGHTS`, each for 18
    bundles. As in TractSeg's command, only slices along y are used, on which these networks were trained. The sign of a
    vector has no meaning.

    Raises as `segment_tracts`, and InvalidData if `masks` is on another grid or has other bundles.
    """
    require_same_grid(masks, peaks, "tract masks", "the peaks")
    parts = [
        tract_network("Peaks_AngL", f"All_Part{n}", weights / file) for n, file in enumerate(ORIENTATION_WEIGHTS, 1)
    ]
    bundles = tuple(bundle for part in parts for bundle in part.bundles)
    if masks.array.ndim != 4 or masks.shape[3] != len(bundles) or masks.names not in ((), bundles):
        raise InvalidData(
            "tract masks",
            expected=f"the {len(bundles)} bundles of TractSeg, in its order",
            found=f"shape {masks.shape}, first names {masks.names[:3]}",
        )
    maps = _zeros(peaks, 3 * len(bundles), np.float32)
    strongest = strongest_peaks(peaks)
    progress(0.0)
    if strongest.array.any():
        placed = PlacedPeaks(strongest, parts[0].cube)
        for number, part in enumerate(parts):

            def overall(fraction: float, number: int = number) -> None:
                progress((number + fraction) / len(parts))

            prediction = Prediction(placed, part, "y", device=device, progress=overall)
            _fill_maps(maps, prediction, [bundles.index(bundle) for bundle in part.bundles], masks, dilation)
            del prediction  # before the next one is computed
    progress(1.0)
    return Volume(maps, peaks.affine, tuple(f"{bundle}_{axis}" for bundle in bundles for axis in "xyz"))


def _limits(bundles: Sequence[str], threshold: float, exceptions: Mapping[str, float]) -> list[float]:
    """The threshold of each bundle."""
    if unknown := [name for name in exceptions if name not in bundles]:
        raise InvalidData("bundle thresholds", expected=f"bundles of TractSeg ({', '.join(bundles)})", found=unknown[0])
    return [exceptions.get(bundle, threshold) for bundle in bundles]


def _prediction(
    peaks: Volume, network: TractNetwork, everywhere: Sequence[int], device: NetworkDevice | None, progress: Progress
) -> Prediction | None:
    """The mean output over slices along x, y and z; None if no voxel has a peak."""
    strongest = strongest_peaks(peaks)
    progress(0.0)
    if not strongest.array.any():
        return None

    def most(fraction: float) -> None:
        progress(0.95 * fraction)  # the rest is for what follows

    placed = PlacedPeaks(strongest, network.cube)
    return Prediction(placed, network, "xyz", everywhere=everywhere, device=device, progress=most)


def _volume(
    peaks: Volume,
    network: TractNetwork,
    prediction: Prediction | None,
    compute: Callable[[Prediction, int], NDArray[Any]],
    dtype: DTypeLike,
) -> Volume:
    """The result of `compute` for each class of a prediction, on the grid of the peaks; zeros without a prediction."""
    result = _zeros(peaks, network.classes, dtype)

    def fill(index: int) -> None:
        assert prediction is not None
        result[..., index] = compute(prediction, index)

    _for_each(fill, network.classes if prediction else 0)
    return Volume(result, peaks.affine, network.bundles)


def _fill_maps(
    maps: NDArray[np.float32], prediction: Prediction, bundles: Sequence[int], masks: Volume, dilation: int
) -> None:
    """Writes the vectors of a prediction for `bundles` into `maps` (x, y, z, 216), inside of the dilated masks."""

    def fill(place: int) -> None:
        bundle = bundles[place]
        inside = dilated(masks.array[..., bundle] > 0, dilation)
        vectors = np.stack([prediction.output(3 * place + axis)[inside] for axis in range(3)], axis=-1)
        for axis, values in enumerate(unit_vectors(vectors).T):
            maps[..., 3 * bundle + axis][inside] = values

    _for_each(fill, len(bundles))


def _for_each(work: Callable[[int], None], count: int) -> None:
    for _ in parallel_map(work, range(count)):
        pass


def _zeros(peaks: Volume, count: int, dtype: DTypeLike) -> NDArray[Any]:
    """An array (x, y, z, count) in the order of a NIfTI file, in which each class is contiguous."""
    return np.zeros((*peaks.grid, count), dtype, order="F")
