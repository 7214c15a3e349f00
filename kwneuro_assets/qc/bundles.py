"""QC metrics of the tract masks."""

from __future__ import annotations

from kwneuro_assets.imaging import NotApplicable, Volume
from kwneuro_assets.qc import bundle_checks
from kwneuro_assets.qc.bundle_checks import MAX_OUTSIDE, MAX_SIDE_RATIO, Pair, listed
from kwneuro_assets.qc.cells import number
from kwneuro_assets.qc.inputs import volume_on
from kwneuro_assets.qc.metrics import Better, Metric
from kwneuro_assets.qc.summary import Row

BUNDLE_VOLUME = "bundle_volume_ml_{bundle}"

_TRACTSEG = "https://doi.org/10.1016/j.neuroimage.2018.07.070"
_REMARK = "Healthy brains are not symmetric either, and a lesion may displace a bundle."


def _count(name: str, label: str, description: str, better: Better = "lower") -> Metric:
    return Metric(
        name, label, description, unit="bundles", better=better, check="model", reference=_TRACTSEG, kind="integer"
    )


def _names(name: str, label: str, description: str) -> Metric:
    return Metric(name, label, description, unit="", better="neither", kind="text")


BUNDLE_METRICS = (
    _count("bundles_found", "Bundles found", "Bundles with at least one voxel.", "higher"),
    _count("bundles_empty", "Empty bundles", "Bundles without a voxel."),
    _names("bundles_empty_names", "Empty bundles by name", "Names of the bundles without a voxel, or `none`."),
    Metric(
        name="bundle_side_ratio_max",
        label="Largest left/right ratio of a bundle",
        description="Volume of the larger side of a bundle divided by that of the other side, for the pair in which it "
        "is largest. Pairs with an empty side are counted by bundles_one_sided. " + _REMARK,
        unit="1",
        better="lower",
        check="model",
        reference="https://doi.org/10.1073/pnas.0702116104",
    ),
    _names(
        "bundle_side_ratio_max_name",
        "Bundle with the largest left/right ratio",
        "The bundle of bundle_side_ratio_max, and its larger side.",
    ),
    _count(
        "bundles_one_sided",
        "One-sided bundles",
        f"Pairs of bundles of which one side has more than {MAX_SIDE_RATIO:g} times the volume of the other, or is the "
        f"only one with a voxel. {_REMARK}",
    ),
    _names(
        "bundles_one_sided_names",
        "One-sided bundles by name",
        "Names of the one-sided bundles with their ratio, or `none`.",
    ),
    _count(
        "bundles_outside_brain",
        "Bundles outside the brain",
        f"Bundles with more than {MAX_OUTSIDE:.0%} of their volume outside the brain mask.",
    ),
    _names(
        "bundles_outside_brain_names",
        "Bundles outside the brain by name",
        "Names of the bundles outside the brain with the fraction that is outside, or `none`.",
    ),
    Metric(
        name=BUNDLE_VOLUME,
        label="Volume of {bundle}",
        description="Volume of the tract mask of {bundle}; 0 if it is empty.",
        unit="ml",
        better="neither",
        check="model",
        reference=_TRACTSEG,
    ),
)


def bundle_metrics(tract_masks: Volume | NotApplicable | None, brain_mask: Volume | NotApplicable | None) -> Row:
    """The columns of `BUNDLE_METRICS` from masks (x, y, z, n), one per bundle, named `<bundle>_left`, `<bundle>_right`.

    Each bundle has a column of its own for its volume; without tract masks, there are none of them, and the others are
    None. The bundles outside the brain are None without a brain mask (x, y, z) on the grid of the masks.
    """
    masks = volume_on(None, tract_masks)
    row: Row = dict.fromkeys((metric.name for metric in BUNDLE_METRICS if metric.name != BUNDLE_VOLUME), None)
    if masks is None or masks.array.ndim != 4:
        return row
    names = masks.names or tuple(str(number) for number in range(1, masks.shape[3] + 1))
    voxels = bundle_checks.voxel_counts(masks.array)
    empty = bundle_checks.empty(names, voxels)
    one_sided = bundle_checks.one_sided(names, voxels)
    row |= {
        "bundles_found": len(names) - len(empty),
        "bundles_empty": len(empty),
        "bundles_empty_names": listed(empty),
        "bundles_one_sided": len(one_sided),
        "bundles_one_sided_names": listed(one_sided),
        **_largest_ratio(bundle_checks.pairs(names, voxels)),
    }
    if brain := volume_on(masks, brain_mask):
        outside = bundle_checks.outside(masks, names, voxels, brain.array > 0)
        row |= {"bundles_outside_brain": len(outside), "bundles_outside_brain_names": listed(outside)}
    volumes = (voxels * masks.voxel_volume_ml).tolist()
    return row | {
        BUNDLE_VOLUME.format(bundle=name): number(volume) for name, volume in zip(names, volumes, strict=True)
    }


def _largest_ratio(pairs: list[Pair]) -> Row:
    found = [pair for pair in pairs if pair.left and pair.right]
    if not found:
        return {}
    largest = max(found, key=lambda pair: pair.ratio)
    return {
        "bundle_side_ratio_max": number(largest.ratio),
        "bundle_side_ratio_max_name": str(largest),
    }
