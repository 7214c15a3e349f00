"""A few summary numbers per derivative, for the metadata of a materialization and comparison between subjects.

Every function takes the value and the inputs that it was computed from (by asset name; each is optional), and returns
numbers by name, with the unit in the name; a mapping is a table, shown as JSON. A mean over no voxel is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.derivations.group_response import Response
from kwneuro_assets.derivations.response import along_and_across
from kwneuro_assets.derivations.tensor import not_positive
from kwneuro_assets.figures.bundles import layer_names
from kwneuro_assets.figures.group import members_of
from kwneuro_assets.figures.rows import inside_brain, on_grid
from kwneuro_assets.figures.tissues import TISSUES, fitted, tissue_fractions
from kwneuro_assets.figures.view import foreground
from kwneuro_assets.imaging import Dwi, MapSet, TissueResponses, Volume
from kwneuro_assets.qc import bundle_checks
from kwneuro_assets.qc.bundle_checks import listed, voxel_counts
from kwneuro_assets.qc.peaks import count_peaks
from kwneuro_assets.threads import parallel_map

Summary = dict[str, float | int | str | Mapping[str, float]]

_DIGITS = 5  # significant digits; further ones depend on the order of summation


def denoised_summary(value: Dwi, inputs: Mapping[str, object]) -> Summary:
    """Root mean square of the residual, as a fraction of the mean signal, over the head and all volumes."""
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
    fraction = (squares / count) ** 0.5 / (signal / count) if signal > 0 else 0.0
    return {"residual_rms_fraction_of_mean_signal": rounded(fraction), "volumes": volumes}


def mean_b0_summary(value: Volume, inputs: Mapping[str, object]) -> Summary:
    """The median signal of the head."""
    return {"median_signal": rounded(np.median(value.array[foreground(value.array)]))}


def brain_mask_summary(value: Volume, inputs: Mapping[str, object]) -> Summary:
    """The volume of the brain."""
    voxels = int(np.count_nonzero(value.array))
    return {"volume_ml": rounded(voxels * value.voxel_volume_ml), "voxels": voxels}


def tensor_summary(value: MapSet, inputs: Mapping[str, object]) -> Summary:
    """Mean FA and MD in the brain mask, and the number of voxels whose fitted tensor was not positive definite."""
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
    """Order, b-values and voxels of the response, and its anisotropy: the signal along the fiber over that across it.

    For three tissues, the anisotropy is that of white matter at the highest b-value.
    """
    if isinstance(value, TissueResponses):
        return {
            "order": value.order,
            "bvalues_s_per_mm2": ", ".join(f"{bvalue:.0f}" for bvalue in value.bvalues),
            "wm_voxels": value.wm_voxels,
            "gm_voxels": value.gm_voxels,
            "csf_voxels": value.csf_voxels,
            "ratio_along_to_across": _along_to_across(value.wm[-1]),
        }
    return {
        "order": value.order,
        "bvalue_s_per_mm2": rounded(value.bvalue),
        "voxels": value.voxels,
        "ratio_along_to_across": _along_to_across(value.coefficients),
    }


def group_response_summary(value: Response, inputs: Mapping[str, object]) -> Summary:
    """The number of subjects in the mean, of subjects with another kind of response or none, and the mean's summary."""
    group = members_of(value, inputs)
    return {
        "subjects": len(group.responses),
        "subjects_left_out": group.left_out,
        "subjects_not_applicable": group.not_applicable,
        **response_summary(value, inputs),
    }


def peaks_summary(value: MapSet, inputs: Mapping[str, object]) -> Summary:
    """Mean number of peaks per voxel, the fraction of voxels with a peak, and mean tissue fractions if known."""
    amplitudes = value["peakvalues"].array
    inside = inside_brain(inputs, value["peakvalues"], fitted(value))
    counts = count_peaks(amplitudes[inside])
    fractions = zip(TISSUES, tissue_fractions(value), strict=False)
    return {
        "mean_peaks_per_voxel": _mean(counts),
        "fraction_of_mask_with_peak": _mean(counts > 0),
        **{f"mean_{tissue.key}_fraction": _mean(fraction.array, inside) for tissue, fraction in fractions},
    }


def tracts_summary(value: Volume, inputs: Mapping[str, object]) -> Summary:
    """The number of bundles that were found, the empty ones, the volume of their union and of each, and the implausible
    ones: much larger on one side, or outside the voxels where deconvolution found a peak or a tissue.
    """
    counts, names = voxel_counts(value.array), layer_names(value)
    volumes = {name: count * value.voxel_volume_ml for name, count in zip(names, counts.tolist(), strict=True) if count}
    peaks = inputs.get("csd_peaks")
    brain = on_grid(peaks.get("peakvalues"), value) if isinstance(peaks, MapSet) else None
    inside = fitted(peaks) > 0 if brain and isinstance(peaks, MapSet) else np.ones(value.grid, bool)
    return {
        **_stack_summary(value, counts, "bundles"),
        "bundles_one_sided": listed(bundle_checks.one_sided(names, counts)),
        "bundles_outside_brain": listed(bundle_checks.outside(value, names, counts, inside)),
        "bundle_volumes_ml": {name: float(f"{volume:.3g}") for name, volume in volumes.items()},
    }


def endings_summary(value: Volume, inputs: Mapping[str, object]) -> Summary:
    """The number of endings that were found (two per bundle), the empty ones, those that are missing although the other
    one of the bundle was found, and the volume of their union.
    """
    counts = voxel_counts(value.array)
    return {
        **_stack_summary(value, counts, "endings"),
        "endings_missing_of_found_bundles": listed(bundle_checks.with_one_ending(layer_names(value), counts)),
    }


def orientations_summary(value: Volume, inputs: Mapping[str, object]) -> Summary:
    """The number of bundles that have a direction in any voxel."""
    bundles = voxel_counts(value.array).reshape(-1, 3).sum(axis=1) > 0
    return {
        "bundles_with_directions": int(np.count_nonzero(bundles)),
        "fraction_of_bundles_with_directions": _mean(bundles),
    }


def _stack_summary(stack: Volume, counts: NDArray[np.int64], what: str) -> Summary:
    union = sum(int(np.count_nonzero(slab.any(axis=-1))) for slab in stack.array)
    return {
        f"{what}_found": int(np.count_nonzero(counts)),
        f"{what}_of": len(counts),
        f"{what}_empty": listed(bundle_checks.empty(layer_names(stack), counts)),
        "total_ml": rounded(union * stack.voxel_volume_ml),
    }


def _along_to_across(coefficients: NDArray[np.float64]) -> float:
    along, across = along_and_across(coefficients)
    return rounded(along / across) if across else 0.0


def _mean(values: NDArray[Any], inside: NDArray[np.bool_] | None = None) -> float:
    chosen = values if inside is None else values[inside]
    return rounded(np.mean(chosen, dtype=np.float64)) if chosen.size else 0.0


def rounded(value: Any) -> float:
    """A number with as many digits as do not depend on the order of a sum."""
    return float(f"{float(value):.{_DIGITS}g}")
