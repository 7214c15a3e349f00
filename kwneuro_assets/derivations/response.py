"""The single-fiber response function: the signal of one coherent fiber population on one shell."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.harmonics import zonal_harmonics
from kwneuro_assets.derivations.shells import MAX_LMAX, choose_shell
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, InvalidData, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.imaging.volume import mask_of
from kwneuro_assets.threads import one_blas_thread

TENSOR_MAX_BVALUE = 1500.0  # s/mm^2: the default of the dti asset; above it the signal is not Gaussian
EROSIONS = 3  # of the mask, MRtrix3's default in dwi2response: removes partial volume and residual motion
LARGEST_FRACTION = 0.2  # of the mask: WM is more, but voxels with lower FA are not single fibers
FEWEST_VOXELS = 10  # below it, no response function is estimated
FEW_VOXELS = 100  # below it, a warning is logged
MAX_PLANAR = (
    0.25  # (second - third) / first eigenvalue: above it two fibers cross (Westin, doi:10.1016/S1361-8415(02)00053-1)
)
MIN_THIRD = 0.01  # third / first eigenvalue: at least 0.1 in tissue; lower for eigenvalues that were raised
MD_RANGE = (0.5, 1.5)  # of the median MD of the mask: below is noise or air, above is CSF
WEAKLY_PROLATE = 0.8  # signal along / across the fiber: 0.1 to 0.5 in WM
MAX_ISOTROPIC = 0.99  # the same ratio: above it there is no contrast to deconvolve with

log = logging.getLogger(__name__)


def estimate_response(
    dwi: Dwi,
    mask: Volume,
    *,
    shell: Literal["auto"] | float,
    lmax: int = MAX_LMAX,
    fa_threshold: float,
    min_voxels: int,
) -> ResponseFunction | NotApplicable:
    """The response function on the shell that `choose_shell` selects, averaged over single-fiber voxels.

    These are the voxels of the eroded mask with an FA above `fa_threshold`; if they are fewer than `min_voxels`, the
    `min_voxels` voxels with the highest FA, but at most a fifth of the mask. FA and fiber direction are those of a
    tensor fitted up to b=1500. Voxels are excluded if their tensor is planar or has an eigenvalue near zero, or if
    their MD is far from the median of the mask. Voxels without signal are ignored, also in the median and in the fifth.
    The voxels are selected once: a second selection by the ratio of their peaks (Tournier et al., NMR in Biomedicine
    26, 2013, doi:10.1002/nbm.3017) increased median angular errors on a phantom with known truth by 0.03 to 0.14
    degree.

    The coefficients are in the units of the image, up to the order of the shell. Few voxels and a response function
    with little contrast are logged as warnings.

    Returns NotApplicable if `choose_shell` or `fit_tensor` does, or if the signal along the fiber is not lower than
    across. Raises InvalidData if the shell does not exist, if the mask is empty, not binary or on another grid, or if
    it has fewer than 10 usable voxels.
    """
    inside = mask_of(dwi.volume, mask)
    chosen = choose_shell(dwi.gradients, shell, lmax)
    if isinstance(chosen, NotApplicable):
        return chosen
    tensor = fit_tensor(dwi, inside, max_bvalue=TENSOR_MAX_BVALUE)
    if isinstance(tensor, NotApplicable):
        return tensor
    voxels = single_fiber_voxels(tensor, inside, fa_threshold, min_voxels)
    indices = list(chosen.shell.indices)
    coefficients = fit_zonal(
        dwi.signals(voxels, indices).astype(np.float64),
        dwi.world_bvecs[indices],
        tensor["evecs"].array[voxels][:, :3].astype(np.float64),
        chosen.order,
    )
    return _checked(coefficients, chosen.shell.bvalue, int(np.count_nonzero(voxels)))


def single_fiber_voxels(tensor: MapSet, mask: Volume, fa_threshold: float, min_voxels: int) -> NDArray[np.bool_]:
    """(x, y, z) True in single-fiber voxels, which the response function is estimated from; see `estimate_response`.

    Raises InvalidData if there are fewer than 10.
    """
    fa, md, evals = (tensor[name].array for name in ("fa", "md", "evals"))
    core = core_of(tensor, mask, min_voxels)
    first, second, third = np.moveaxis(evals, 3, 0)
    low, high = (factor * np.median(md[core]) if core.any() else 0 for factor in MD_RANGE)
    trusted = core & (second - third <= MAX_PLANAR * first) & (third > MIN_THIRD * first) & (md > low) & (md < high)
    passing = trusted & (fa > fa_threshold)
    if np.count_nonzero(passing) < min_voxels:
        passing = _highest(fa, trusted, min(min_voxels, int(LARGEST_FRACTION * np.count_nonzero(core))))
    if np.count_nonzero(passing) < FEWEST_VOXELS:
        wanted, inside = FEWEST_VOXELS / LARGEST_FRACTION, mask.array > 0
        # If only a few of many voxels are usable, the mask covers more than the brain.
        better = "a larger mask" if np.count_nonzero(inside) < wanted else "a mask of the brain alone"
        raise InvalidData(
            "mask for the fiber response",
            expected=f"at least {wanted:.0f} voxels with the tensor of a single fiber",
            found=f"{np.count_nonzero(inside)} voxels, {np.count_nonzero(inside & (md > 0))} of them with signal, "
            f"{np.count_nonzero(trusted)} with such a tensor",
            remedy=f"Use {better}, or a response function from a file (csd.wm_response).",
        )
    return passing


def core_of(tensor: MapSet, mask: Volume, min_voxels: int) -> NDArray[np.bool_]:
    """(x, y, z) True in the voxels of the eroded `mask` that have a tensor.

    Up to three erosions, as many as leave enough voxels. The mask is first limited to voxels with signal, which it may
    exceed by far; holes without signal are filled before.
    """
    from scipy.ndimage import binary_erosion, binary_fill_holes

    has_signal = tensor["md"].array > 0
    body = (mask.array > 0) & binary_fill_holes(has_signal)
    for passes in range(EROSIONS, 0, -1):
        core: NDArray[np.bool_] = binary_erosion(body, iterations=passes) & has_signal
        if np.count_nonzero(core) * LARGEST_FRACTION >= min_voxels:
            return core
    return body & has_signal


def fit_zonal(
    signals: NDArray[np.float64], directions: NDArray[np.float64], fibers: NDArray[np.float64], order: int
) -> NDArray[np.float64]:
    """(order / 2 + 1,) the zonal coefficients of signals (voxels, n) at `directions` (n, 3) about `fibers` (voxels, 3).

    One least-squares fit to all pairs of angle and signal: voxels with different fiber directions sample different
    angles.
    """
    with one_blas_thread():
        design = zonal_harmonics(order, (fibers @ directions.T).ravel())
        return np.linalg.lstsq(design, signals.ravel(), rcond=None)[0].astype(np.float64, copy=False)


def along_and_across(coefficients: NDArray[np.float64]) -> tuple[float, float]:
    """The signal of a response function along the fiber and perpendicular to it.

    >>> along, across = along_and_across(np.array([1000.0, -400.0]))
    >>> along < across
    True
    """
    along, across = zonal_harmonics(2 * (coefficients.size - 1), [1.0, 0.0]) @ coefficients
    return float(along), float(across)


def require_contrast(coefficients: NDArray[np.float64], bvalue: float, what: str) -> None:
    """Raises InvalidData about `what` if a response function has as much signal along the fiber as across."""
    along, across = along_and_across(coefficients)
    if along >= MAX_ISOTROPIC * across:
        raise InvalidData(
            what,
            expected="less signal along the fiber than across",
            found=f"{along:.4g} along and {across:.4g} across at b={bvalue:.0f}",
            remedy="Check the file: MRtrix3's format lists l = 0, 2, 4, ..., and l = 2 is negative.",
        )


def without_contrast(coefficients: NDArray[np.float64], bvalue: float, voxels: int) -> NotApplicable | None:
    """NotApplicable if an estimate from `voxels` voxels has as much signal along the fiber as across, else None."""
    along, across = along_and_across(coefficients)
    if along < MAX_ISOTROPIC * across:
        return None
    return NotApplicable(
        f"The {voxels} voxels with the highest FA show no fiber: at b={bvalue:.0f} their signal is {along:.4g} "
        f"along the tensor and {across:.4g} across."
    )


def _highest(fa: NDArray[np.float32], among: NDArray[np.bool_], number: int) -> NDArray[np.bool_]:
    candidates = np.flatnonzero(among)
    chosen = np.zeros(among.size, np.bool_)
    chosen[candidates[np.argsort(-fa.ravel()[candidates], kind="stable")[:number]]] = True
    return chosen.reshape(among.shape)


def _checked(coefficients: NDArray[np.float64], bvalue: float, voxels: int) -> ResponseFunction | NotApplicable:
    refusal = without_contrast(coefficients, bvalue, voxels)
    if refusal:
        return refusal
    along, across = along_and_across(coefficients)
    if along > WEAKLY_PROLATE * across:
        log.warning(
            "the response function at b=%.0f has little contrast: signal %.4g along the fiber, %.4g across",
            bvalue,
            along,
            across,
        )
    if voxels < FEW_VOXELS:
        log.warning(
            "the response function is estimated from only %d voxels; at least %d are recommended", voxels, FEW_VOXELS
        )
    return ResponseFunction(coefficients, bvalue, voxels)
