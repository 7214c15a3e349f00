"""A few numbers per derivative, for the list of materializations: does this subject look like the others?

Every function takes the value and the inputs it was computed from (by asset name; any may be missing), and returns
numbers by name, the unit in the name where there is one. A mean over no voxel is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.group_response import Response
from kwneuro_assets.derivations.response import along_and_across
from kwneuro_assets.derivations.tensor import not_positive
from kwneuro_assets.imaging import Dwi, MapSet, TissueResponses, Volume
from kwneuro_assets.quality.group import members_of
from kwneuro_assets.quality.rows import inside_brain
from kwneuro_assets.quality.tissues import TISSUES, fitted, tissue_shares
from kwneuro_assets.quality.view import foreground
from kwneuro_assets.threads import parallel_map

Summary = dict[str, float | int | str]

COUNTED_PEAK = 0.5  # share of the voxel's largest above which a peak counts
_DIGITS = 5  # significant ones: those after depend on the order of summation


def denoised_summary(value: Dwi, inputs: Mapping[str, object]) -> Summary:
    """Root mean square of what denoising took out, as a share of the mean signal, over head and all volumes."""
    noisy = inputs.get("dwi")
    volumes = value.volume.shape[3]
    if not isinstance(noisy, Dwi) or noisy.volume.shape != value.volume.shape:
        return {"volumes": volumes}
    inside = foreground(noisy.image(int(np.flatnonzero(noisy.b0_mask)[0])))
    positions = np.flatnonzero(inside.ravel(order="F"))

    def sums(pair: tuple[NDArray[np.float32], NDArray[np.float32]]) -> tuple[np.float64, np.float64]:
        before, after = (image.ravel(order="F")[positions] for image in pair)
        return np.square(before - after).sum(dtype=np.float64), before.sum(dtype=np.float64)

    pairs = zip(noisy.images(), value.images(), strict=True)
    squares, signal = np.sum(list(parallel_map(sums, pairs)), axis=0)
    count = positions.size * volumes
    share = (squares / count) ** 0.5 / (signal / count) if signal > 0 else 0.0
    return {"residual_rms_share_of_mean_signal": _rounded(share), "volumes": volumes}


def mean_b0_summary(value: Volume, inputs: Mapping[str, object]) -> Summary:
    """The median signal of the head."""
    return {"median_signal": _rounded(np.median(value.array[foreground(value.array)]))}


def brain_mask_summary(value: Volume, inputs: Mapping[str, object]) -> Summary:
    """The volume of the brain."""
    voxels = int(np.count_nonzero(value.array))
    return {"volume_ml": _rounded(voxels * value.voxel_volume_ml), "voxels": voxels}


def tensor_summary(value: MapSet, inputs: Mapping[str, object]) -> Summary:
    """Mean FA and MD in the brain mask, and the voxels in which the fitted tensor was not positive definite."""
    inside = inside_brain(inputs, value["fa"], value["md"].array)
    return {
        "mean_fa": _mean(value["fa"].array, inside),
        "mean_md_mm2_per_s": _mean(value["md"].array, inside),
        "voxels_not_positive_definite": int(np.count_nonzero(not_positive(value["evals"].array))),
    }


def noddi_summary(value: MapSet, inputs: Mapping[str, object]) -> Summary:
    """Mean NDI, ODI and FWF in the brain mask."""
    inside = inside_brain(inputs, value["ndi"], value["ndi"].array + value["fwf"].array)
    return {f"mean_{name}": _mean(value[name].array, inside) for name in ("ndi", "odi", "fwf")}


def response_summary(value: Response, inputs: Mapping[str, object]) -> Summary:
    """What the response is made of, and how sharp it is: the signal along the fibre as a share of that across.

    Of three tissues that is the white matter's at the highest b-value.
    """
    if isinstance(value, TissueResponses):
        return {
            "order": value.order,
            "bvalues_s_per_mm2": ", ".join(f"{bvalue:.0f}" for bvalue in value.bvalues),
            "white_voxels": value.white_voxels,
            "grey_voxels": value.grey_voxels,
            "water_voxels": value.water_voxels,
            "ratio_along_to_across": _along_to_across(value.white[-1]),
        }
    return {
        "order": value.order,
        "bvalue_s_per_mm2": _rounded(value.bvalue),
        "voxels": value.voxels,
        "ratio_along_to_across": _along_to_across(value.coefficients),
    }


def group_response_summary(value: Response, inputs: Mapping[str, object]) -> Summary:
    """Of how many subjects it is the mean, how many have another kind of response or none, and the mean's summary."""
    group = members_of(value, inputs)
    return {
        "subjects": len(group.responses),
        "subjects_left_out": group.left_out,
        "subjects_not_applicable": group.not_applicable,
        **response_summary(value, inputs),
    }


def peaks_summary(value: MapSet, inputs: Mapping[str, object]) -> Summary:
    """How many peaks a voxel of the brain has, how many voxels have any, and the tissues' mean shares, if known."""
    amplitudes = value["peakvalues"].array
    inside = inside_brain(inputs, value["peakvalues"], fitted(value))
    counts = count_peaks(amplitudes[inside])
    shares = zip(TISSUES, tissue_shares(value), strict=False)
    return {
        "mean_peaks_per_voxel": _mean(counts),
        "share_of_mask_with_a_peak": _mean(counts > 0),
        **{f"mean_{tissue.short}_share": _mean(share.array, inside) for tissue, share in shares},
    }


def tracts_summary(value: Volume, inputs: Mapping[str, object]) -> Summary:
    """How many bundles were found, which were not, and the volume of all of them together."""
    return _stack_summary(value, "bundles")


def endings_summary(value: Volume, inputs: Mapping[str, object]) -> Summary:
    """How many endings were found (two for each bundle), which were not, and the volume of all of them together."""
    return _stack_summary(value, "endings")


def orientations_summary(value: Volume, inputs: Mapping[str, object]) -> Summary:
    """For how many bundles there is a direction anywhere."""
    bundles = voxel_counts(value.array).reshape(-1, 3).sum(axis=1) > 0
    return {
        "bundles_with_directions": int(np.count_nonzero(bundles)),
        "share_of_bundles_with_directions": _mean(bundles),
    }


def count_peaks(amplitudes: NDArray[Any]) -> NDArray[np.intp]:
    """(...) the number of peaks above half of the largest, from amplitudes (..., n), the largest first."""
    counted = (amplitudes > COUNTED_PEAK * amplitudes[..., :1]) & (amplitudes > 0)
    counts: NDArray[np.intp] = np.asarray(np.count_nonzero(counted, axis=-1))
    return counts


def voxel_counts(stack: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) voxels other than zero in each layer of a stack (x, y, z, n)."""
    if _layers_lie_apart(stack):
        return np.array([np.count_nonzero(stack[..., layer]) for layer in range(stack.shape[3])], np.int64)
    counts = np.zeros(stack.shape[3], np.int64)
    for slab in stack:
        counts += np.count_nonzero(slab, axis=(0, 1))
    return counts


def _stack_summary(stack: Volume, what: str) -> Summary:
    counts = voxel_counts(stack.array)
    names = stack.names or tuple(str(index) for index in range(len(counts)))
    together = sum(int(np.count_nonzero(slab.any(axis=-1))) for slab in stack.array)
    return {
        f"{what}_found": int(np.count_nonzero(counts)),
        f"{what}_of": len(counts),
        f"{what}_empty": ", ".join(name for name, count in zip(names, counts, strict=True) if not count) or "none",
        "total_ml": _rounded(together * stack.voxel_volume_ml),
    }


def _along_to_across(coefficients: NDArray[np.float64]) -> float:
    along, across = along_and_across(coefficients)
    return _rounded(along / across) if across else 0.0


def _layers_lie_apart(stack: NDArray[Any]) -> bool:
    return stack.strides[3] == max(stack.strides)


def _mean(values: NDArray[Any], inside: NDArray[np.bool_] | None = None) -> float:
    chosen = values if inside is None else values[inside]
    return _rounded(np.mean(chosen, dtype=np.float64)) if chosen.size else 0.0


def _rounded(value: Any) -> float:
    return float(f"{float(value):.{_DIGITS}g}")
