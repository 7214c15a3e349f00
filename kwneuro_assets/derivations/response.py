"""The single-fibre response: the signal of one coherent fibre population on one shell."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.harmonics import zonal_harmonics
from kwneuro_assets.derivations.shells import MAX_ORDER, choose_shell
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, InvalidData, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.imaging.volume import binary_mask, require_same_grid
from kwneuro_assets.threads import one_blas_thread

TENSOR_MAX_BVALUE = 1500.0  # s/mm^2: the default of the dti derivative; beyond it the signal is far from Gaussian
EROSIONS = 3  # passes at the mask's edge, MRtrix3's default in dwi2response: partial volume and residual motion
LARGEST_SHARE = 0.2  # of the mask: white matter of a brain is more, but the highest FA beyond it is no single fibre
FEWEST_VOXELS = 10  # below it there is no response
FEW_VOXELS = 100  # below it the response is worth a warning
MOST_PLANAR = 0.25  # (second - third) / first eigenvalue: above it two fibres cross (Westin 2002)
LEAST_THIRD = 0.01  # third / first eigenvalue: tissue has 0.1 and more, the raised eigenvalues of noise have less
MD_RANGE = (0.5, 1.5)  # of the mask's median MD: below are noise and air, above is fluid
WEAKLY_PROLATE = 0.8  # signal along / across the fibre: 0.1 to 0.5 in white matter
MOST_ISOTROPIC = 0.99  # the same: above it nothing is left to deconvolve with

log = logging.getLogger(__name__)


def estimate_response(
    dwi: Dwi,
    mask: Volume,
    *,
    shell: Literal["auto"] | float,
    max_order: int = MAX_ORDER,
    fa_threshold: float,
    minimum_voxels: int,
) -> ResponseFunction | NotApplicable:
    """The response of the shell that `choose_shell` takes, averaged over voxels that hold a single fibre.

    These are the voxels of the eroded mask with an FA above `fa_threshold`; where they are fewer than
    `minimum_voxels`, that many of the highest FA, but no more than a fifth of the mask. FA and the fibre's direction
    are those of a tensor fitted up to b=1500. Voxels whose tensor is planar, has an eigenvalue of about
    zero, or a mean diffusivity far from the mask's median are left out. They are chosen once: choosing again by
    the ratio of their peaks (Tournier 2013) moved median angles on a phantom of known truth by +0.03 to +0.14 degree.

    The coefficients are in the units of the image, of the shell's order. Few voxels and a response with little
    contrast are logged as warnings.

    NotApplicable where `choose_shell` or the tensor are, or where the signal along the fibre is no lower than across.
    Raises InvalidData for a shell that does not exist, a mask that is empty, not binary or on another grid, or one
    with fewer than 10 voxels to take.
    """
    inside = binary_mask(mask)
    require_same_grid(inside, dwi.volume, "mask", "the diffusion-weighted image")
    chosen = choose_shell(dwi.gradients, shell, max_order)
    if isinstance(chosen, NotApplicable):
        return chosen
    tensor = fit_tensor(dwi, inside, max_bvalue=TENSOR_MAX_BVALUE)
    if isinstance(tensor, NotApplicable):
        return tensor
    voxels = single_fibre_voxels(tensor, inside, fa_threshold, minimum_voxels)
    indices = list(chosen.shell.indices)
    coefficients = fit_zonal(
        dwi.signals(voxels, indices).astype(np.float64),
        dwi.world_bvecs[indices],
        tensor["evecs"].array[voxels][:, :3].astype(np.float64),
        chosen.order,
    )
    return _judged(coefficients, chosen.shell.bvalue, int(np.count_nonzero(voxels)))


def single_fibre_voxels(tensor: MapSet, mask: Volume, fa_threshold: float, minimum_voxels: int) -> NDArray[np.bool_]:
    """(x, y, z) True in the voxels that the response is taken from; see `estimate_response`."""
    core = eroded(mask.array.astype(bool), minimum_voxels)
    fa, md, evals = (tensor[name].array for name in ("fa", "md", "evals"))
    first, second, third = np.moveaxis(evals, 3, 0)
    low, high = (share * np.median(md[core]) for share in MD_RANGE)
    trusted = core & (second - third <= MOST_PLANAR * first) & (third > LEAST_THIRD * first) & (md > low) & (md < high)
    passing = trusted & (fa > fa_threshold)
    if np.count_nonzero(passing) < minimum_voxels:
        passing = _highest(fa, trusted, min(minimum_voxels, int(LARGEST_SHARE * np.count_nonzero(core))))
    if np.count_nonzero(passing) < FEWEST_VOXELS:
        raise InvalidData(
            "mask for the fibre response",
            expected=f"at least {FEWEST_VOXELS / LARGEST_SHARE:.0f} voxels with plausible tensors",
            found=f"{np.count_nonzero(core)} voxels, {np.count_nonzero(trusted)} of them plausible",
            remedy="Use a larger mask, or a response from a file (csd.response).",
        )
    return passing


def fit_zonal(
    signals: NDArray[np.float64], directions: NDArray[np.float64], fibres: NDArray[np.float64], order: int
) -> NDArray[np.float64]:
    """(order / 2 + 1,) zonal coefficients of signals (voxels, n) at `directions` (n, 3) about `fibres` (voxels, 3).

    One least-squares fit to all pairs of angle and signal, so that voxels with their fibres at different angles to
    the directions fill each other's gaps.
    """
    with one_blas_thread():
        design = zonal_harmonics(order, (fibres @ directions.T).ravel())
        return np.linalg.lstsq(design, signals.ravel(), rcond=None)[0].astype(np.float64, copy=False)


def along_and_across(coefficients: NDArray[np.float64]) -> tuple[float, float]:
    """The signal of a response along its fibre and at right angles to it."""
    along, across = zonal_harmonics(2 * (coefficients.size - 1), [1.0, 0.0]) @ coefficients
    return float(along), float(across)


def require_contrast(coefficients: NDArray[np.float64], bvalue: float, what: str) -> None:
    """Raises InvalidData for a response, called `what`, with as much signal along its fibre as across."""
    along, across = along_and_across(coefficients)
    if along >= MOST_ISOTROPIC * across:
        raise InvalidData(
            what,
            expected="less signal along the fibre than across",
            found=f"{along:.4g} along and {across:.4g} across at b={bvalue:.0f}",
            remedy="A response in MRtrix3's form lists l = 0, 2, 4, ..., of which l = 2 is negative.",
        )


def without_contrast(coefficients: NDArray[np.float64], bvalue: float, voxels: int) -> NotApplicable | None:
    """Why an estimate from so many voxels is no response, if there is as much signal along the fibre as across."""
    along, across = along_and_across(coefficients)
    if along < MOST_ISOTROPIC * across:
        return None
    return NotApplicable(
        f"The {voxels} voxels with the highest FA show no fibre: at b={bvalue:.0f} their signal is {along:.4g} "
        f"along the tensor and {across:.4g} across."
    )


def eroded(inside: NDArray[np.bool_], minimum_voxels: int) -> NDArray[np.bool_]:
    """The mask without its edge, as deep as enough voxels remain."""
    from scipy.ndimage import binary_erosion

    for passes in range(EROSIONS, 0, -1):
        core: NDArray[np.bool_] = binary_erosion(inside, iterations=passes)
        if np.count_nonzero(core) * LARGEST_SHARE >= minimum_voxels:
            return core
    return inside


def _highest(fa: NDArray[np.float32], among: NDArray[np.bool_], number: int) -> NDArray[np.bool_]:
    candidates = np.flatnonzero(among)
    chosen = np.zeros(among.size, np.bool_)
    chosen[candidates[np.argsort(-fa.ravel()[candidates], kind="stable")[:number]]] = True
    return chosen.reshape(among.shape)


def _judged(coefficients: NDArray[np.float64], bvalue: float, voxels: int) -> ResponseFunction | NotApplicable:
    refusal = without_contrast(coefficients, bvalue, voxels)
    if refusal:
        return refusal
    along, across = along_and_across(coefficients)
    if along > WEAKLY_PROLATE * across:
        log.warning(
            "the fibre response at b=%.0f has little contrast: signal %.4g along the fibre, %.4g across",
            bvalue,
            along,
            across,
        )
    if voxels < FEW_VOXELS:
        log.warning("the fibre response comes from %d voxels only; %d or more are wanted", voxels, FEW_VOXELS)
    return ResponseFunction(coefficients, bvalue, voxels)
