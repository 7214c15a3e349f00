"""QC metrics of the signal at b=0 in and around the brain mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import NotApplicable, Volume
from kwneuro_assets.qc.inputs import volume_on
from kwneuro_assets.qc.metrics import Better, Metric
from kwneuro_assets.qc.summary import PPM, Row, fraction
from kwneuro_assets.qc.symmetry import Mirror

HEAD = 0.15  # of the 99th percentile of the image: brighter voxels are the head, others air and bone
DARK = 0.1  # of the median in the mask: tissue is brighter, even near the sinuses
NEIGHBORHOOD = 10.0  # mm: averages over it have little noise, and are not affected by sulci
ONE_SIDED = 0.5  # of the signal at the mirrored place: coils and lesions differ less


def _metric(name: str, label: str, description: str, unit: str, better: Better = "lower") -> Metric:
    return Metric(name, label, description, unit, better, check="mask")


BRAIN_SIGNAL_METRICS = (
    _metric(
        "head_outside_mask_fraction",
        "Head outside the brain mask",
        "Fraction of the head outside the mask. Head are the voxels whose mean b=0 signal is above 15 % of its 99th "
        "percentile; besides the brain, they are scalp, muscles and eyes, as far as fat suppression and field of view "
        "leave them.",
        "1",
        "neither",
    ),
    _metric(
        "mask_b0_not_positive_ppm",
        "Brain without signal at b=0",
        "Voxels of the mask whose mean b=0 signal is zero or negative, per million. They are left out of all fits.",
        "ppm",
    ),
    _metric(
        "mask_b0_dark_fraction",
        "Dark part of the brain",
        "Fraction of the mask whose mean b=0 signal is below a tenth of its median in the mask: signal dropout, or a "
        "mask that extends into air.",
        "1",
    ),
    _metric(
        "b0_asymmetry",
        "Left-right asymmetry of b=0",
        "(right - left) / (right + left), where both are the mean b=0 signal over the mask on one side of the "
        "midsagittal plane.",
        "1",
        "neither",
    ),
    _metric(
        "b0_one_sided_fraction",
        "Brain that is dark on one side",
        "Fraction of the mask whose mean b=0 signal, averaged over 10 mm, is below half of the signal at the mirrored "
        "place, among the voxels whose mirrored place is in the mask, too. A quarter is half of a hemisphere.",
        "1",
    ),
)


def brain_signal_metrics(
    mean_b0: Volume | NotApplicable | None, brain_mask: Volume | NotApplicable | None, mirror: Mirror | None
) -> Row:
    """The columns of `BRAIN_SIGNAL_METRICS` from the mean b=0 and the mask (x, y, z), and the reflection of the mask.

    All are None without a mask, with an empty one, or without a mean b=0 on its grid.
    """
    row: Row = dict.fromkeys((metric.name for metric in BRAIN_SIGNAL_METRICS), None)
    mask = volume_on(None, brain_mask)
    image = volume_on(mask, mean_b0)
    if mask is None or image is None or not mask.array.any():
        return row
    inside, head = mask.array > 0, _head(image.array)
    signal = image.array[inside]
    row |= {
        "head_outside_mask_fraction": fraction(np.count_nonzero(head & ~inside), np.count_nonzero(head)),
        "mask_b0_not_positive_ppm": fraction(np.count_nonzero(signal <= 0), signal.size, PPM),
        "mask_b0_dark_fraction": fraction(np.count_nonzero(signal < DARK * np.median(signal)), signal.size),
    }
    if mirror:
        row["b0_asymmetry"] = _asymmetry(signal, mirror)
        row["b0_one_sided_fraction"] = _one_sided(image, inside, mirror)
    return row


def _head(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray((image > HEAD * np.percentile(image, 99)) & (image > 0))


def _asymmetry(signal: NDArray[np.float32], mirror: Mirror) -> float | None:
    if mirror.right.all() or not mirror.right.any():
        return None
    right, left = (float(signal[side].mean(dtype=np.float64)) for side in (mirror.right, ~mirror.right))
    return fraction(right - left, right + left)


def _one_sided(mean_b0: Volume, inside: NDArray[np.bool_], mirror: Mirror) -> float | None:
    """The fraction of the voxels whose reflection is in the mask, too, that are darker than half of it."""
    averages = _averages(mean_b0, inside)
    opposite = averages.ravel()[mirror.mirrored]
    paired = inside.ravel()[mirror.mirrored] & (mirror.mirrored >= 0)
    dark = (averages[inside] < ONE_SIDED * opposite) & paired
    return fraction(np.count_nonzero(dark), np.count_nonzero(paired))


def _averages(mean_b0: Volume, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean (x, y, z) over the voxels of the mask in a box of about `NEIGHBORHOOD` around each voxel of the mask."""
    from scipy.ndimage import uniform_filter

    sizes = [max(1, round(NEIGHBORHOOD / edge)) for edge in mean_b0.voxel_size]
    sizes = [size + 1 - size % 2 for size in sizes]  # odd: the box is centered
    total = uniform_filter(np.where(inside, mean_b0.array, 0).astype(np.float64), sizes, mode="constant")
    weight = uniform_filter(inside.astype(np.float64), sizes, mode="constant")
    return np.asarray(total / np.where(inside, weight, 1))
