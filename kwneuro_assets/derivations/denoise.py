"""Denoising by Patch2Self, in closed form.

Patch2Self (Fadnavis, Batson and Garyfallidis, NeurIPS 2020) predicts each volume from all the others: what they
share is signal, what they do not is noise, as long as the noise of the volumes is independent. With a patch of
one voxel that is a linear regression per volume, each leaving out another one, and all of them follow from one
Gram matrix: with P the inverse of the Gram matrix of the centred volumes, volume j is predicted from the others
with the weights -P[:, j] / P[j, j].
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

LEAST_VOLUMES = 10  # diffusion-weighted ones: DIPY's patch2self warns below it, too few to span the signal of the rest
FOREGROUND_SHARE = 0.1  # of the robust range, and the two percentiles of that range: Smith 2002 (BET), section 2.1
ROBUST_RANGE = (2.0, 98.0)
RIDGE = 1e-10  # of a volume's variance: nothing beside noise, enough to invert where a volume occurs twice
CONSTANT = 1e-6  # relative standard deviation (float32's rounding) below which a volume counts as constant
MOMENTS_SHARE = 0.25  # of the work: the rest, predicting everywhere, takes about three times as long
FLOAT64_BYTES = 1 << 30  # of the slices that are worked on at once, by as many threads as that allows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DenoisingPlan:
    """What will be done to a series, and why, in one sentence."""

    method: Literal["patch2self", "none"]
    reason: str


def denoising_plan(dwi: Dwi, method: Method, minimum_ratio: float) -> DenoisingPlan:
    """Whether Patch2Self is applied to this series.

    `auto` is `patch2self` unless the series was interpolated, which makes the noise of its voxels dependent.
    In either case it needs at least 10 diffusion-weighted volumes, and `minimum_ratio` foreground voxels for
    each of them: a regression over few voxels fits their noise.
    """
    if method == "none":
        return DenoisingPlan("none", "Denoising is switched off.")
    if method == "auto" and dwi.interpolated:
        return DenoisingPlan("none", "The series was interpolated, so its noise is not independent.")
    volumes = int(np.count_nonzero(~dwi.b0_mask))
    if volumes < LEAST_VOLUMES:
        return DenoisingPlan(
            "none", f"Patch2Self needs at least {LEAST_VOLUMES} diffusion-weighted volumes; this series has {volumes}."
        )
    voxels = int(np.count_nonzero(foreground(dwi)))
    ratio = f"{voxels} foreground voxels for {volumes} diffusion-weighted volumes, a ratio of {voxels / volumes:.1f}"
    if voxels < minimum_ratio * volumes:
        return DenoisingPlan("none", f"Patch2Self needs a ratio of {minimum_ratio:g} or more; this series has {ratio}.")
    return DenoisingPlan("patch2self", f"Patch2Self was fitted on {ratio}.")


def denoise(dwi: Dwi, method: Method, minimum_ratio: float, *, progress: Progress = silent) -> Dwi:
    """The series with its noise reduced, or the very same series where `denoising_plan` says `none`."""
    plan = denoising_plan(dwi, method, minimum_ratio)
    log.info(plan.reason)
    if plan.method == "none":
        return dwi
    return patch2self(dwi, progress=progress)


def patch2self(dwi: Dwi, *, progress: Progress = silent) -> Dwi:
    """Each diffusion-weighted volume replaced by its least-squares prediction from all the others.

    Exact and deterministic, with intercept; fitted on the foreground, applied to every voxel. The b=0 volumes
    are left as they are and predict nothing (DIPY treats the two kinds apart as well), and so is a volume that
    is constant over the foreground. Voxels without any diffusion-weighted signal stay zero. A signal is never
    negative, so predictions below zero become zero; there is no other shift. float32, in Fortran order.

    A series that is streamed is read a few times over, in slabs of slices, and what comes of it goes to a compressed
    file in the folder for temporary files, from which it is streamed in turn; raises ScratchError where there is no
    room. The values are the same.

    Raises InvalidData where the mean b=0 is the same everywhere, so that nothing stands out as foreground.
    """
    if isinstance(dwi.volume, Volume) and not dwi.array.flags.f_contiguous:  # gathering volumes takes for ever in it
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
            slices = parallel_map(partial(predict, slab, array), range(len(part)), at_most=_at_once(dwi))
            for done, _ in enumerate(slices, start=part.start + 1):
                progress(MOMENTS_SHARE + (1 - MOMENTS_SHARE) * done / inside.shape[2])
            yield array

    if isinstance(dwi.volume, Volume):
        (whole,) = denoised()
        return dwi.with_array(whole)
    scratch = ScratchSeries()
    for slab in denoised():
        require_finite(not_finite(slab), slab.size)  # as Volume does
        scratch.add(slab)
    return replace(dwi, volume=scratch.volume(dwi.volume.grid, dwi.affine))


def leave_one_out_weights(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Regression weights (n, n) of each variable, a column, on all the others, from their centred Gram matrix.

    The diagonal is zero. Variables that repeat each other predict each other.
    """
    scale = np.sqrt(np.diag(gram))
    correlation = gram / np.outer(scale, scale)
    with one_blas_thread():
        inverse = np.linalg.inv(correlation + RIDGE * np.eye(scale.size))
    weights: NDArray[np.float64] = -inverse / np.diag(inverse) * scale / scale[:, None]
    np.fill_diagonal(weights, 0)
    return weights


def foreground(dwi: Dwi) -> NDArray[np.bool_]:
    """(x, y, z) True in head and other tissue: mean b=0 above a tenth of its robust range (Smith 2002, BET).

    Percentiles are deterministic, bear a few absurdly bright voxels, and split neither an image without
    background nor one without skull through its tissue, as Otsu's threshold does.
    """
    mean_b0 = dwi.mean_b0().array
    low, high = np.percentile(mean_b0, ROBUST_RANGE)
    return np.asarray(mean_b0 > low + FOREGROUND_SHARE * (high - low))


def _moments(
    dwi: Dwi, volumes: NDArray[np.intp], inside: NDArray[np.bool_], progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (n,) and centred Gram matrix (n, n) of those volumes over the voxels `inside`."""
    positions = np.flatnonzero(inside.ravel(order="F"))

    def total(image: NDArray[np.float32]) -> np.float64:
        return image.ravel(order="F")[positions].sum(dtype=np.float64)

    mean = np.array(list(parallel_map(total, dwi.images(volumes.tolist())))) / positions.size
    chosen = [inside[:, :, z].T.ravel() for z in range(inside.shape[2])]
    slices = [z for z, some in enumerate(chosen) if some.any()]

    def centred_product(slab: NDArray[np.float32], start: int, z: int) -> NDArray[np.float64]:
        signals = _signals(slab, z - start, volumes)[:, chosen[z]] - mean[:, None]
        return np.asarray(signals @ signals.T)

    gram = np.zeros((volumes.size, volumes.size))
    done = 0
    for part, slab in _slabs(dwi):
        product = partial(centred_product, slab, part.start)
        for one in parallel_map(product, [z for z in slices if z in part], at_most=_at_once(dwi)):
            gram += one
            done += 1
            progress(MOMENTS_SHARE * done / len(slices))
    return mean, gram


def _slabs(dwi: Dwi) -> Iterator[tuple[range, NDArray[np.float32]]]:
    """The series in slabs of slices, (x, y, slices, n): which slices these are, and their voxels.

    The whole array, read-only, where the series is in memory. Else as many slices at once as may be in memory, each
    slab in the place of the one before it.
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
    """How many slices may be worked on at once: as float64 each is there before and after, and as float32 between."""
    x, y, _ = dwi.volume.grid
    return max(1, FLOAT64_BYTES // (x * y * dwi.volume.shape[3] * (2 * 8 + 4)))


def _signals(slab: NDArray[np.float32], z: int, volumes: NDArray[np.intp]) -> NDArray[np.float64]:
    """One slice of those volumes, (volumes, voxels), x fastest."""
    # A slice at a time bounds the memory that float64 takes; a volume's plane is contiguous in Fortran order.
    return np.asarray(slab[:, :, z].T[volumes].reshape(volumes.size, -1), np.float64)
