"""NODDI with AMICO's dictionary, solved in Gram form.

NODDI: Zhang et al., NeuroImage 61 (2012), doi:10.1016/j.neuroimage.2012.03.072. AMICO: Daducci et al., NeuroImage 105
(2015), doi:10.1016/j.neuroimage.2014.10.026, package dmri-amico. The dictionary, the three fits (`noddi_solver`) and
the fiber direction (from an ordinary least-squares tensor on all shells) are AMICO's, and so are the results. Voxels
with the same direction of the dictionary are fitted together, because their Gram matrices are equal.

One thing differs: the atoms have the signal at the real b-value of a b=0 volume, where AMICO's are 1. With b=50 instead
of 0, the error of FWF is 0.001 instead of -0.07 (docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.b0_signal import with_b0_signal
from kwneuro_assets.derivations.noddi_dictionary import NoddiDictionary, noddi_dictionary
from kwneuro_assets.derivations.tensor import UNKNOWNS, principal_axes, tensor_rank, with_positive_largest
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, Volume
from kwneuro_assets.imaging.mapset import scatter
from kwneuro_assets.imaging.volume import mask_of
from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.threads import in_blocks, parallel_map

LINEAR_PENALTY, QUADRATIC_PENALTY = 0.5, 1e-3  # lambda 1 and 2 of AMICO's elastic net: AMICO's defaults for NODDI
BLOCK = 10_000  # voxels whose directions are estimated at a time
GROUP = 1_000  # voxels fitted at a time, in about 30 ms
ESTIMATES = 4  # numbers per voxel from the solver: NDI, ODI, FWF, RMSE
PREPARED_FRACTION = 0.1  # of the work on a whole brain: dictionary and directions


def fit_noddi(
    dwi: Dwi,
    mask: Volume,
    dpar: float,
    diso: float,
    directions: int,
    *,
    rmse: bool = False,
    tissue_weighted: bool = False,
    progress: Progress = silent,
) -> MapSet | NotApplicable:
    """The NODDI maps in the voxels of `mask` (x, y, z): neurite density, orientation dispersion, free water fraction.

    `dpar` and `diso` are the diffusivities along neurites and of free water, in mm^2/s; `directions` is the number of
    orientations in AMICO's dictionary. The fit uses the mean b-value of each shell, and the real b-values of b=0
    volumes.

    Maps, float32: `ndi`, `odi` and `fwf` (x, y, z), from 0 to 1; `direction` (x, y, z, 3), unit vectors in the world
    frame (scanner RAS+), with their largest component positive. With `rmse`, also `rmse` (x, y, z), the root mean
    square of the residuals divided by the mean b=0. With `tissue_weighted`, also `ndiweighted` and `odiweighted`
    (x, y, z): NDI and ODI times 1 - FWF, for regional means weighted by the tissue fraction (Parker et al., NeuroImage
    245, 2021, doi:10.1016/j.neuroimage.2021.118749). A voxel whose mean b=0 is not positive is zero in every map.
    Results of a voxel do not depend on other voxels or on the number of threads.

    Returns NotApplicable if there are fewer than two shells besides b=0 or fewer than six independent directions.
    Raises InvalidData if the mask is on another grid, empty or not binary, or if AMICO does not support this number of
    directions; ModuleNotFoundError if dmri-amico is not installed.
    """
    mask = mask_of(dwi.volume, mask)
    refusal = _refusal(dwi)
    if refusal:
        return refusal
    dictionary = noddi_dictionary(dwi.gradients.to_frame("world", dwi.affine), dpar, diso, directions)
    from kwneuro_assets.derivations.compiled import compile_now
    from kwneuro_assets.derivations.noddi_solver import fit_voxels

    inside = mask.array > 0
    signals = dwi.signals(inside, dictionary.order)
    scale = _inverse(dwi.mean_b0().array[inside])
    count = len(signals)

    axes = np.zeros((count, 3))
    bvecs = dwi.world_bvecs[dictionary.order]

    def orient(block: slice) -> None:
        normalized, lit = _normalized(signals[block], scale[block])
        axes[block][lit] = principal_axes(dictionary.bvals, bvecs, normalized[lit])

    in_blocks(orient, count, BLOCK)
    progress(PREPARED_FRACTION)

    estimates = np.zeros((count, ESTIMATES))
    work = list(_by_direction(dictionary, axes))
    if work:
        compile_now(fit_voxels, np.empty((1, 1)), np.empty((1, 1)), *_matrices(dictionary, work[0].direction))

    def fit(group: _Group) -> int:
        normalized, _ = _normalized(signals[group.voxels], scale[group.voxels])
        found = np.empty((len(normalized), ESTIMATES))
        fit_voxels(normalized, found, *_matrices(dictionary, group.direction))
        estimates[group.voxels] = found
        return len(found)

    done = 0
    for fitted in parallel_map(fit, work):
        done += fitted
        progress(PREPARED_FRACTION + (1 - PREPARED_FRACTION) * done / count)

    ndi, odi, fwf, residual = estimates.T
    maps = {"ndi": ndi, "odi": odi, "fwf": fwf, "direction": with_positive_largest(axes)}
    if rmse:
        maps["rmse"] = residual
    if tissue_weighted:
        maps |= {"ndiweighted": ndi * (1 - fwf), "odiweighted": odi * (1 - fwf)}
    return MapSet({name: scatter(values.astype(np.float32), mask) for name, values in maps.items()})


class _Group(NamedTuple):
    """Voxels with the same direction of the dictionary."""

    direction: int
    voxels: NDArray[np.intp]


def _by_direction(dictionary: NoddiDictionary, axes: NDArray[np.float64]) -> Iterator[_Group]:
    """All voxels with an axis, in groups of at most `GROUP` with the same direction."""
    voxels = np.flatnonzero(axes.any(axis=1))
    found = dictionary.direction_of(axes[voxels])
    in_order = np.argsort(found, kind="stable")
    starts = np.flatnonzero(np.diff(found[in_order], prepend=-1))
    for direction, group in zip(found[in_order][starts], np.split(voxels[in_order], starts[1:]), strict=False):
        for first in range(0, group.size, GROUP):
            yield _Group(int(direction), group[first : first + GROUP])


def _matrices(dictionary: NoddiDictionary, direction: int) -> tuple[Any, ...]:
    """The arguments of `fit_voxels` for one direction of the dictionary."""
    atoms = dictionary.atoms(direction)
    weighted = atoms[dictionary.unweighted :]
    scaled = weighted[:, :-1] * dictionary.scale
    penalized = scaled.T @ scaled
    penalized[np.diag_indices_from(penalized)] += QUADRATIC_PENALTY
    return (
        atoms,
        dictionary.unweighted,
        atoms.T @ atoms,
        penalized,
        weighted.T @ weighted[:, -1],
        dictionary.scale,
        LINEAR_PENALTY,
        dictionary.densities,
        dictionary.concentrations,
    )


def _refusal(dwi: Dwi) -> NotApplicable | None:
    shells = dwi.gradients.shells()
    if len(shells) < 2:
        found = f"one, b={shells[0].bvalue:.0f}" if shells else "none"
        return NotApplicable(f"NODDI needs at least two shells besides b=0; this dataset has {found}")
    rank = tensor_rank(dwi.gradients, np.arange(len(dwi.gradients)))
    if rank < UNKNOWNS:
        return NotApplicable(f"NODDI needs at least 6 independent directions; this dataset has {rank - 1} of them")
    return None


def _inverse(mean_b0: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / S0 in AMICO's precision (float32); 0 where there is no signal."""
    positive = with_b0_signal(mean_b0)
    with np.errstate(over="ignore"):
        return np.where(positive, 1 / np.where(positive, mean_b0, np.float32(1)), np.float32(0))


def _normalized(
    raw: NDArray[np.float32], inverse_b0: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The signals divided by S0, not below zero, and the voxels in which they are finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        signal = np.maximum((raw * inverse_b0[:, None]).astype(np.float64), 0)
    return np.ascontiguousarray(signal), (inverse_b0 > 0) & np.isfinite(signal).all(axis=1)
