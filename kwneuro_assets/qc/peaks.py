"""QC metrics of the peaks of the fiber orientation distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import MapSet, NotApplicable, Volume
from kwneuro_assets.qc.inputs import maps_on, volume_on
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.qc.summary import Row, fraction
from kwneuro_assets.qc.white_matter import WhiteMatter

COUNTED_PEAK = 0.5  # fraction of the voxel's largest peak above which a peak counts

_TOURNIER = "https://doi.org/10.1016/j.neuroimage.2007.02.016"

PEAK_METRICS = (
    Metric(
        name="wm_peaks_per_voxel",
        label="Peaks per voxel of white matter",
        description="Mean number of peaks in white matter whose amplitude is above half of the voxel's largest peak. "
        "Noise, and wrong gradients, add peaks.",
        unit="1",
        better="neither",
        check="model",
        reference=_TOURNIER,
    ),
    Metric(
        name="wm_with_peak_fraction",
        label="White matter with a peak",
        description="Fraction of white matter in which deconvolution found a peak.",
        unit="1",
        better="higher",
        check="model",
        reference=_TOURNIER,
    ),
)


def peak_metrics(csd_peaks: MapSet | NotApplicable | None, white: WhiteMatter | None) -> Row:
    """The columns of `PEAK_METRICS` from the map `peakvalues` (x, y, z, n), largest first.

    Values are None where the map is missing, or where no voxel is white matter.
    """
    inside: Volume | None = volume_on(None, white.mask if white else None)
    maps = maps_on(inside, csd_peaks)
    if maps is None or inside is None:
        return dict.fromkeys((metric.name for metric in PEAK_METRICS), None)
    counts = count_peaks(maps["peakvalues"].array[inside.array > 0])
    return {
        "wm_peaks_per_voxel": fraction(counts.sum(), counts.size),
        "wm_with_peak_fraction": fraction(np.count_nonzero(counts), counts.size),
    }


def count_peaks(amplitudes: NDArray[Any]) -> NDArray[np.intp]:
    """The number of peaks (...) above half of the largest, from amplitudes (..., n), largest first.

    >>> count_peaks(np.array([[0.8, 0.5, 0.1], [0.0, 0.0, 0.0]]))
    array([2, 0])
    """
    counted = (amplitudes > COUNTED_PEAK * amplitudes[..., :1]) & (amplitudes > 0)
    counts: NDArray[np.intp] = np.asarray(np.count_nonzero(counted, axis=-1))
    return counts
