"""The response functions of WM, GM and CSF on every shell, estimated from the data.

Unsupervised, as by Dhollander, Raffelt and Connelly (ISMRM Workshop on Breaking the Barriers of Diffusion MRI, 2016, 5;
Dhollander et al., ISMRM 2019, 555; MRtrix3's `dwi2response dhollander`): voxels outside of WM are separated into two
groups by the decay of their signal with the b-value.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.response import (
    FEW_VOXELS,
    FEWEST_VOXELS,
    LARGEST_FRACTION,
    MAX_ISOTROPIC,
    TENSOR_MAX_BVALUE,
    WEAKLY_PROLATE,
    along_and_across,
    core_of,
    fit_zonal,
    single_fiber_voxels,
    without_contrast,
)
from kwneuro_assets.derivations.shells import SHELLS_WANTED
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, NotApplicable, TissueResponses, Volume
from kwneuro_assets.imaging.volume import mask_of

Floats = NDArray[np.float64]
Inside = NDArray[np.bool_]

ORDER = 8  # of the WM response function: order 10 changed median angles of a phantom by less than 0.02 degree
MAX_NON_WM_FA = 0.2  # a voxel below it is not WM: Dhollander's value
GM_FRACTION, CSF_FRACTION = 0.02, 0.1  # of their groups: Dhollander's values
MIN_CONTRAST = 1.5  # decay of CSF over that of GM: 2 to 4 in brains
MEAN_TO_L0 = np.sqrt(4 * np.pi)  # the coefficient of l=0 of a constant

log = logging.getLogger(__name__)


def estimate_tissue_responses(dwi: Dwi, mask: Volume, *, wm_voxels: int = 300) -> TissueResponses | NotApplicable:
    """The response functions of WM, GM and CSF, averaged over voxels of the eroded mask, in the units of the image.

    WM: the `wm_voxels` single-fiber voxels with the highest FA (but at most a fifth of the mask), as in
    `estimate_response`. All voxels with an FA above 0.7 gave a flatter response function on a phantom with known truth,
    and a median angular error of second fibers of 4.3 instead of 3.1 degrees. GM and CSF: the voxels with an FA below
    0.2, in two groups separated by Otsu's threshold of their decay, the mean over shells of ln(b=0 / shell). CSF is the
    fastest tenth of the faster group; GM is the 2 % of the slower group that are nearest to its median. From small
    groups, 100 voxels are used or, if that is less, a fifth.

    The signal at b=0 is the mean of the b=0 volumes, whatever their real b-values, as in MRtrix3's dwi2response:
    deconvolution compares the same volumes with it.

    Fewer than 100 voxels of a tissue and a WM response function with little contrast are logged as warnings.

    Returns NotApplicable if there are fewer than two shells besides b=0, if `fit_tensor` does, if the WM response
    function at the highest b-value is not lower along the fiber than across, or if GM and CSF cannot be separated.
    Raises InvalidData if the mask is empty, not binary, on another grid, or too small for a WM response function.
    """
    inside = mask_of(dwi.volume, mask)
    shells = dwi.gradients.shells()
    if len(shells) < SHELLS_WANTED:
        return NotApplicable(
            f"The response functions of three tissues need at least two shells besides b=0; found {len(shells)}."
        )
    tensor = fit_tensor(dwi, inside, max_bvalue=TENSOR_MAX_BVALUE)
    if isinstance(tensor, NotApplicable):
        return tensor
    wm = single_fiber_voxels(tensor, inside, 1.0, wm_voxels)  # no FA exceeds 1: selects the highest
    core = core_of(tensor, inside, wm_voxels)
    candidates = core & (tensor["fa"].array < MAX_NON_WM_FA) & ~wm
    volumes = [np.flatnonzero(dwi.b0_mask).tolist(), *(list(shell.indices) for shell in shells)]
    means = _shell_means(dwi, candidates, volumes)
    chosen = _gm_and_csf(means)
    if isinstance(chosen, NotApplicable):
        return chosen
    gm, csf = chosen
    fibers = tensor["evecs"].array[wm][:, :3].astype(np.float64)
    zonal = np.zeros((len(volumes), ORDER // 2 + 1))
    zonal[0, 0] = _shell_means(dwi, wm, volumes[:1]).mean() * MEAN_TO_L0
    for row, indices in enumerate(volumes[1:], start=1):
        signals = dwi.signals(wm, indices).astype(np.float64)
        zonal[row] = fit_zonal(signals, dwi.world_bvecs[indices], fibers, ORDER)
    bvalues = np.array([0.0, *(shell.bvalue for shell in shells)])
    counts = {"WM": int(np.count_nonzero(wm)), "GM": gm.size, "CSF": csf.size}
    refusal = without_contrast(zonal[-1], bvalues[-1], counts["WM"])
    if refusal:
        return refusal
    _warn_of_little_contrast(zonal, bvalues)
    for tissue, count in counts.items():
        if count < FEW_VOXELS:
            log.warning(
                "the %s response function is estimated from only %d voxels; at least %d are recommended",
                tissue,
                count,
                FEW_VOXELS,
            )
    return TissueResponses(
        bvalues, zonal, *(means[:, voxels].mean(axis=1) * MEAN_TO_L0 for voxels in (gm, csf)), *counts.values()
    )


def otsu_threshold(values: Floats) -> float:
    """The threshold that splits `values` (n,) into two groups with the maximum variance between them.

    Otsu, IEEE Transactions on Systems, Man, and Cybernetics 9 (1979) 62, doi:10.1109/TSMC.1979.4310076. Exact, without
    a histogram. Values equal to the threshold belong to the lower group.

    >>> otsu_threshold(np.array([1.0, 1.2, 5.0, 5.1]))
    1.2
    """
    ordered = np.sort(values)
    below = np.arange(1, ordered.size)
    sums = np.cumsum(ordered)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / (ordered.size - below)
    return float(ordered[(below * (ordered.size - below) * (high - low) ** 2).argmax()])


def _shell_means(dwi: Dwi, inside: Inside, volumes: list[list[int]]) -> Floats:
    """(shells, voxels) the mean signals of the volumes of each shell."""
    return np.array([dwi.signals(inside, indices).mean(axis=1, dtype=np.float64) for indices in volumes])


def _gm_and_csf(means: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]] | NotApplicable:
    """The indices of the GM and CSF voxels among voxels with mean signals (shells, voxels), b=0 first."""
    lit = np.flatnonzero((means > 0).all(axis=0))
    if lit.size < 2:
        return _too_few(lit.size, 0)
    decay = np.log(means[0, lit] / means[1:, lit]).mean(axis=0)
    threshold = otsu_threshold(decay)
    slow, fast = np.flatnonzero(decay <= threshold), np.flatnonzero(decay > threshold)
    gm = slow[np.argsort(np.abs(decay[slow] - np.median(decay[slow])), kind="stable")][
        : _number(slow.size, GM_FRACTION)
    ]
    csf = fast[np.argsort(-decay[fast], kind="stable")][: _number(fast.size, CSF_FRACTION)]
    if min(gm.size, csf.size) < FEWEST_VOXELS:
        return _too_few(slow.size, fast.size)
    typical, fastest = decay[gm].mean(), decay[csf].mean()
    if fastest < MIN_CONTRAST * typical:
        return NotApplicable(
            "GM and CSF cannot be separated: outside of WM, the mean of ln(b=0 / shell) is "
            f"{typical:.3g} in a typical voxel and {fastest:.3g} where it is highest."
        )
    return lit[gm], lit[csf]


def _number(group: int, fraction: float) -> int:
    return round(max(fraction * group, min(FEW_VOXELS, LARGEST_FRACTION * group)))


def _too_few(slow: int, fast: int) -> NotApplicable:
    return NotApplicable(
        f"The response functions of GM and CSF need {FEWEST_VOXELS / LARGEST_FRACTION:.0f} voxels each with "
        f"an FA below {MAX_NON_WM_FA:g}; found {slow} with slow and {fast} with fast decay of the signal."
    )


def _warn_of_little_contrast(zonal: Floats, bvalues: Floats) -> None:
    for coefficients, bvalue in zip(zonal[1:], bvalues[1:], strict=True):
        along, across = along_and_across(coefficients)
        # At low b-values, every response function has little contrast.
        if along > (WEAKLY_PROLATE if bvalue == bvalues[-1] else MAX_ISOTROPIC) * across:
            log.warning(
                "the WM response function at b=%.0f has little contrast: signal %.4g along the fiber, %.4g across",
                bvalue,
                along,
                across,
            )
