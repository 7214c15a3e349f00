"""The signals of pure white matter, grey matter and free water on every shell, found in the data themselves.

Unsupervised in the way of Dhollander, Raffelt and Connelly (ISMRM Workshop on Breaking the Barriers of Diffusion MRI,
2016, 5; Dhollander et al., ISMRM 2019, 555; MRtrix3's `dwi2response dhollander`): what is not white matter falls into
two groups by how fast its signal decays with the b-value.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.response import (
    FEW_VOXELS,
    FEWEST_VOXELS,
    LARGEST_SHARE,
    MOST_ISOTROPIC,
    TENSOR_MAX_BVALUE,
    WEAKLY_PROLATE,
    along_and_across,
    eroded,
    fit_zonal,
    single_fibre_voxels,
    without_contrast,
)
from kwneuro_assets.derivations.shells import SHELLS_WANTED
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, NotApplicable, TissueResponses, Volume
from kwneuro_assets.imaging.volume import binary_mask, require_same_grid

Floats = NDArray[np.float64]
Inside = NDArray[np.bool_]

ORDER = 8  # of the white response: order 10 moved no median angle of a phantom by 0.02 degree
HIGHEST_WHITE_FA = 0.2  # below it a voxel is no white matter: Dhollander's
GREY_SHARE, WATER_SHARE = 0.02, 0.1  # of their groups: Dhollander's
LEAST_CONTRAST = 1.5  # decay of free water over that of grey matter: 2 to 4 in brains
MEAN_TO_L0 = np.sqrt(4 * np.pi)  # a constant's coefficient of l=0

log = logging.getLogger(__name__)


def estimate_tissue_responses(dwi: Dwi, mask: Volume, *, white_voxels: int = 300) -> TissueResponses | NotApplicable:
    """The responses of white matter, grey matter and free water, averaged over voxels of the eroded mask.

    White matter: the `white_voxels` of the highest FA (but no more than a fifth of the mask) whose tensor is that of
    one fibre, as in `estimate_response`. All above an FA of 0.7 gave a flatter response on a phantom of known truth,
    and median angles of second fibres of 4.3 instead of 3.1 degrees. The others are the voxels with an FA below 0.2,
    in two groups by Otsu's threshold of their decay, the mean over shells of ln(b=0 / shell). Free water: the tenth
    of the faster group that decays fastest; grey matter: the 2 % of the slower one that are nearest to its
    median. Of small groups more is taken: 100 voxels or, if that is less, a fifth.

    Fewer than 100 voxels of a tissue and a white response with little contrast are logged as warnings.

    NotApplicable with fewer than two shells besides b=0, where the tensor is, where the white response is not lower
    along the fibre at the highest b-value, and where grey matter and free water cannot be told apart. Raises
    InvalidData for a mask that is empty, not binary, on another grid, or too small for a white response.
    """
    inside = binary_mask(mask)
    require_same_grid(inside, dwi.volume, "mask", "the diffusion-weighted image")
    shells = dwi.gradients.shells()
    if len(shells) < SHELLS_WANTED:
        return NotApplicable(
            f"Three tissues can be told apart by at least two shells besides b=0; found {len(shells)}."
        )
    tensor = fit_tensor(dwi, inside, max_bvalue=TENSOR_MAX_BVALUE)
    if isinstance(tensor, NotApplicable):
        return tensor
    white = single_fibre_voxels(tensor, inside, 1.0, white_voxels)  # no FA exceeds 1: the highest are taken
    core = eroded(inside.array.astype(bool), white_voxels)
    candidates = core & (tensor["fa"].array < HIGHEST_WHITE_FA) & (tensor["md"].array > 0) & ~white
    volumes = [np.flatnonzero(dwi.b0_mask).tolist(), *(list(shell.indices) for shell in shells)]
    means = _shell_means(dwi, candidates, volumes)
    chosen = _grey_and_water(means)
    if isinstance(chosen, NotApplicable):
        return chosen
    grey, water = chosen
    fibres = tensor["evecs"].array[white][:, :3].astype(np.float64)
    zonal = np.zeros((len(volumes), ORDER // 2 + 1))
    zonal[0, 0] = _shell_means(dwi, white, volumes[:1]).mean() * MEAN_TO_L0
    for row, indices in enumerate(volumes[1:], start=1):
        signals = dwi.signals(white, indices).astype(np.float64)
        zonal[row] = fit_zonal(signals, dwi.world_bvecs[indices], fibres, ORDER)
    bvalues = np.array([0.0, *(shell.bvalue for shell in shells)])
    counts = {"white": int(np.count_nonzero(white)), "grey": grey.size, "water": water.size}
    refusal = without_contrast(zonal[-1], bvalues[-1], counts["white"])
    if refusal:
        return refusal
    _warn_of_little_contrast(zonal, bvalues)
    for tissue, count in counts.items():
        if count < FEW_VOXELS:
            log.warning("the %s response comes from %d voxels only; %d or more are wanted", tissue, count, FEW_VOXELS)
    return TissueResponses(
        bvalues, zonal, *(means[:, voxels].mean(axis=1) * MEAN_TO_L0 for voxels in (grey, water)), *counts.values()
    )


def otsu_threshold(values: Floats) -> float:
    """The value that parts `values` (n,) into two groups with the largest variance between them (Otsu 1979).

    Exact, without a histogram; the lower group is what is at or below it.
    """
    ordered = np.sort(values)
    below = np.arange(1, ordered.size)
    sums = np.cumsum(ordered)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / (ordered.size - below)
    return float(ordered[(below * (ordered.size - below) * (high - low) ** 2).argmax()])


def _shell_means(dwi: Dwi, inside: Inside, volumes: list[list[int]]) -> Floats:
    """(shells, voxels)"""
    return np.array([dwi.signals(inside, indices).mean(axis=1, dtype=np.float64) for indices in volumes])


def _grey_and_water(means: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]] | NotApplicable:
    """Which of the voxels with these signals (shells, voxels), b=0 first, are taken for grey matter and free water."""
    lit = np.flatnonzero((means > 0).all(axis=0))
    if lit.size < 2:
        return _too_few(lit.size, 0)
    decay = np.log(means[0, lit] / means[1:, lit]).mean(axis=0)
    threshold = otsu_threshold(decay)
    slow, fast = np.flatnonzero(decay <= threshold), np.flatnonzero(decay > threshold)
    grey = slow[np.argsort(np.abs(decay[slow] - np.median(decay[slow])), kind="stable")][
        : _number(slow.size, GREY_SHARE)
    ]
    water = fast[np.argsort(-decay[fast], kind="stable")][: _number(fast.size, WATER_SHARE)]
    if min(grey.size, water.size) < FEWEST_VOXELS:
        return _too_few(slow.size, fast.size)
    typical, fastest = decay[grey].mean(), decay[water].mean()
    if fastest < LEAST_CONTRAST * typical:
        return NotApplicable(
            "Grey matter and free water cannot be told apart: outside the white matter, the mean of ln(b=0 / shell) is "
            f"{typical:.3g} in a typical voxel and {fastest:.3g} where it is highest."
        )
    return lit[grey], lit[water]


def _number(group: int, share: float) -> int:
    return round(max(share * group, min(FEW_VOXELS, LARGEST_SHARE * group)))


def _too_few(slow: int, fast: int) -> NotApplicable:
    return NotApplicable(
        f"The responses of grey matter and free water need {FEWEST_VOXELS / LARGEST_SHARE:.0f} voxels each with an FA "
        f"below {HIGHEST_WHITE_FA:g}; found {slow} whose signal decays slowly and {fast} where it does fast."
    )


def _warn_of_little_contrast(zonal: Floats, bvalues: Floats) -> None:
    for coefficients, bvalue in zip(zonal[1:], bvalues[1:], strict=True):
        along, across = along_and_across(coefficients)
        # At low b-values every response has little contrast.
        if along > (WEAKLY_PROLATE if bvalue == bvalues[-1] else MOST_ISOTROPIC) * across:
            log.warning(
                "the white-matter response at b=%.0f has little contrast: signal %.4g along the fibre, %.4g across",
                bvalue,
                along,
                across,
            )
