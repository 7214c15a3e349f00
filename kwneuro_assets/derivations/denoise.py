"""Denoising by Patch2Self, in closed form.

Patch2Self (Fadnavis, Batson and Garyfallidis, NeurIPS 2020, arXiv:2011.01355; DIPY's `patch2self`) predicts each volume
from all others. The prediction contains the signal, which the volumes have in common, but not the noise, as long as
that is independent between volumes. With a patch of one voxel, this is one linear regression per volume. All
regressions follow from one Gram matrix: if P is the inverse of the Gram matrix of the centered volumes, volume j is
predicted from the others with the weights -P[:, j] / P[j, j].
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import Dwi, InvalidData, Volume, streamed
from kwneuro_assets.imaging.scratch import ScratchSeries
from kwneuro_assets.imaging.volume import not_finite, require_finite
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import one_blas_thread, parallel_map

Method = Literal["auto", "patch2self", "none"]

MIN_VOLUMES = (
    10  # diffusion-weighted ones; below it DIPY's patch2self warns: too few to predict the signal of the others
)
FOREGROUND_FRACTION = 0.1  # of the robust range: Smith 2002 (BET), section 2.1
ROBUST_RANGE = (2.0, 98.0)  # percentiles: the same
RIDGE = 1e-10  # of a volume's variance: far below the noise, and enough to invert if a volume occurs twice
CONSTANT = 1e-6  # relative standard deviation below which a volume is constant: rounding of float32
MOMENTS_FRACTION = 0.25  # of the work; the prediction takes about three times as long
FLOAT64_BYTES = 1 << 30  # of the slices in progress; limits the number of threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DenoisingPlan:
    """The denoising method for a DWI series, and the reason."""

    method: Literal["patch2self", "none"]
    reason: str


def denoising_plan(dwi: Dwi, method: Method, min_ratio: float) -> DenoisingPlan:
    """The method that `denoise` applies to this DWI series, and the reason.

    `auto` is `patch2self`, or `none` if the DWI series was interpolated, because its noise is then not independent.
    Patch2Self needs at least 10 diffusion-weighted volumes, and at least `min_ratio` foreground voxels for each of
    them: a regression over fewer voxels would fit their noise.
    """
    if method == "none":
        return DenoisingPlan("none", "Denoising is switched off.")
    if method == "auto" and dwi.interpolated:
        return DenoisingPlan("none", "The DWI series was interpolated, so its noise is not independent.")
    volumes = int(np.count_nonzero(~dwi.b0_mask))
    if volumes < MIN_VOLUMES:
        return DenoisingPlan(
            "none",
            f"Patch2Self needs at least {MIN_VOLUMES} diffusion-weighted volumes; this DWI series has {volumes}.",
        )
    voxels = int(np.count_nonzero(foreground(dwi)))
    ratio = f"{voxels} foreground voxels for {volumes} diffusion-weighted volumes, a ratio of {voxels / volumes:.1f}"
    if voxels < min_ratio * volumes:
        return DenoisingPlan("none", f"Patch2Self needs a ratio of {min_ratio:g} or more; this DWI series has {ratio}.")
    return DenoisingPlan("patch2self", f"Patch2Self was fitted on {ratio}.")


def denoise(dwi: Dwi, method: Method, min_ratio: float, *, progress: Progress = silent) -> Dwi:
    """The denoised DWI series; `dwi` if `denoising_plan` is `none`, without `preprocessing`. Raises as `patch2self`."""
    dwi = dwi.without_preprocessing()
    plan = denoising_plan(dwi, method, min_ratio)
    log.info(plan.reason)
    if plan.method == "none":
        return dwi
    return patch2self(dwi, progress=progress)


def patch2self(dwi: Dwi, *, progress: Progress = silent) -> Dwi:
    """The DWI series with each diffusion-weighted volume replaced by its least-squares prediction from all others.

    The regression is exact and deterministic, with an intercept; it is fitted to the foreground and applied to every
    voxel. b=0 volumes, and volumes that are constant over the foreground, stay unchanged and are not used as predictors
    (DIPY also separates b=0 volumes). Voxels without any diffusion-weighted signal stay zero. Negative predictions
    become zero, because a signal is not negative; nothing else is shifted. The result is float32 in Fortran order.

    A streamed DWI series is read several times, in slabs of slices. Its result is written to a compressed file in the
    folder for temporary files and streamed from there, with the same values.

    Raises InvalidData if the mean b=0 is constant, so that there is no foreground, and ScratchError if the folder for
    temporary files is full.
    """
    dwi = dwi.without_preprocessing()
    if isinstance(dwi.volume, Volume) and not dwi.array.flags.f_contiguous:  # very slow in C order
        dwi = dwi.with_array(np.asfortranarray(dwi.array))
    inside = foreground(dwi)
    if not inside.any():
        raise InvalidData("mean b=0 image", expected="a foreground brighter than the rest", found="no contrast")
    weighted = np.flatnonzero(~dwi.b0_mask)
    mean, gram = _moments(dwi, weighted, inside, progress)
    deviation = np.sqrt(np.diag(gram) / int(np.count_nonzero(inside)))
    varying = deviation > CONSTANT * np.abs(mean)
    if np.count_nonzero(varying) < 2:
        return dwi
    weighted, mean = weighted[varying], mean[varying, None]
    others = np.setdiff1d(np.arange(len(dwi.gradients)), weighted)
    weights = leave_one_out_weights(gram[np.ix_(varying, varying)]).T

    def predict(slab: NDArray[np.float32], array: NDArray[np.float32], z: int) -> None:
        signals = _signals(slab, z, weighted)
        dark = ~signals.any(axis=0)
        signals -= mean
        predicted = weights @ signals
        predicted += mean
        np.maximum(predicted, 0, out=predicted)
        predicted[:, dark] = 0
        array[:, :, z].T[weighted] = predicted.reshape(-1, *inside.shape[1::-1])
        if array is not slab:
            array[:, :, z].T[others] = slab[:, :, z].T[others]

    def denoised() -> Iterator[NDArray[np.float32]]:
        for part, slab in _slabs(dwi):
            array = slab if slab.flags.writeable else np.empty_like(slab, order="F")
            slices = parallel_map(partial(predict, slab, array), range(len(part)), max_threads=_at_once(dwi))
            for done, _ in enumerate(slices, start=part.start + 1):
                progress(MOMENTS_FRACTION + (1 - MOMENTS_FRACTION) * done / inside.shape[2])
            yield array

    if isinstance(dwi.volume, Volume):
        (array,) = denoised()
        return dwi.with_array(array)
    scratch = ScratchSeries()
    for slab in denoised():
        require_finite(not_finite(slab), slab.size)  # as in Volume
        scratch.add(slab)
    return replace(dwi, volume=scratch.volume(dwi.volume.grid, dwi.affine))


def leave_one_out_weights(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The regression weights (n, n) of each variable (column) on all others, from their centered Gram matrix (n, n).

    The diagonal is zero. Equal variables predict each other.

    >>> leave_one_out_weights(np.array([[4.0, 2.0], [2.0, 4.0]])).round(6).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    scale = np.sqrt(np.diag(gram))
    correlation = gram / np.outer(scale, scale)
    with one_blas_thread():
        inverse = np.linalg.inv(correlation + RIDGE * np.eye(scale.size))
    weights: NDArray[np.float64] = -inverse / np.diag(inverse) * scale / scale[:, None]
    np.fill_diagonal(weights, 0)
    return weights


def foreground(dwi: Dwi) -> NDArray[np.bool_]:
    """(x, y, z) True in tissue: mean b=0 above a tenth of its robust range.

    Smith, Human Brain Mapping 17 (2002) 143, section 2.1 (BET), doi:10.1002/hbm.10062. Percentiles are deterministic
    and robust against a few very bright voxels. Unlike Otsu's threshold, they do not cut through the tissue of an image
    that has no background or no skull.
    """
    mean_b0 = dwi.mean_b0().array
    low, high = np.percentile(mean_b0, ROBUST_RANGE)
    return np.asarray(mean_b0 > low + FOREGROUND_FRACTION * (high - low))


def _moments(
    dwi: Dwi, volumes: NDArray[np.intp], inside: NDArray[np.bool_], progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean (n,) and the centered Gram matrix (n, n) of the volumes at these indices, over the voxels `inside`."""
    positions = np.flatnonzero(inside.ravel(order="F"))

    def total(image: NDArray[np.float32]) -> np.float64:
        return image.ravel(order="F")[positions].sum(dtype=np.float64)

    mean = np.array(list(parallel_map(total, dwi.images(volumes.tolist())))) / positions.size
    chosen = [inside[:, :, z].T.ravel() for z in range(inside.shape[2])]
    slices = [z for z, some in enumerate(chosen) if some.any()]

    def centered_product(slab: NDArray[np.float32], start: int, z: int) -> NDArray[np.float64]:
        signals = _signals(slab, z - start, volumes)[:, chosen[z]] - mean[:, None]
        return np.asarray(signals @ signals.T)

    gram = np.zeros((volumes.size, volumes.size))
    done = 0
    for part, slab in _slabs(dwi):
        product = partial(centered_product, slab, part.start)
        for one in parallel_map(product, [z for z in slices if z in part], max_threads=_at_once(dwi)):
            gram += one
            done += 1
            progress(MOMENTS_FRACTION * done / len(slices))
    return mean, gram


def _slabs(dwi: Dwi) -> Iterator[tuple[range, NDArray[np.float32]]]:
    """The DWI series in slabs of slices: the range of slices, and their voxels (x, y, slices, n).

    A DWI series in memory is one read-only slab. A streamed one comes in slabs of as many slices as LARGE allows; each
    slab reuses the memory of the one before.
    """
    x, y, z = dwi.volume.grid
    if isinstance(dwi.volume, Volume):
        yield range(z), dwi.array
        return
    count = dwi.volume.shape[3]
    together = min(z, max(1, streamed.LARGE // (x * y * count * np.dtype(np.float32).itemsize)))
    place = np.empty((x, y, together, count), np.float32, order="F")
    for start in range(0, z, together):
        part = range(start, min(start + together, z))
        slab = place[:, :, : len(part)]
        for index, image in enumerate(dwi.images()):
            slab[..., index] = image[:, :, part.start : part.stop]
        yield part, slab


def _at_once(dwi: Dwi) -> int:
    """The number of slices in progress at once: each takes two arrays of float64 and one of float32."""
    x, y, _ = dwi.volume.grid
    return max(1, FLOAT64_BYTES // (x * y * dwi.volume.shape[3] * (2 * 8 + 4)))


def _signals(slab: NDArray[np.float32], z: int, volumes: NDArray[np.intp]) -> NDArray[np.float64]:
    """One slice of the volumes at these indices, (volumes, voxels), x fastest."""
    # Slice by slice, to limit the memory for float64; in Fortran order, a plane of a volume is contiguous.
    return np.asarray(slab[:, :, z].T[volumes].reshape(volumes.size, -1), np.float64)
