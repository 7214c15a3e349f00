"""Alignment with MNI space, and the masks, endings and orientation maps of bundles."""

from __future__ import annotations

from kwneuro_assets.demo.networks import DEMO_NOTE
from kwneuro_assets.reports.boilerplate.context import Context
from kwneuro_assets.reports.boilerplate.prose import cite, counted, listed, paragraph, shown
from kwneuro_assets.reports.boilerplate.records import RecordedStep

_TRACT_STEPS = ("tract_masks", "tract_endings", "tract_orientations")


def mni_alignment(step: RecordedStep, context: Context) -> str:
    """The registration with the FA template, if a stored segmentation was computed from it."""
    users = [user for name in _TRACT_STEPS if (user := context.steps.get(name)) and user.takes("mni_alignment")]
    dipy = step.with_version("DIPY", "dipy")
    used = "The peaks were rotated and moved accordingly for TractSeg, and its results were brought back to the DWI."
    return paragraph(
        [
            "The map of fractional anisotropy (FA) was registered rigidly with the FA template of TractSeg "
            f"(MNI152NLin6Asym) by {dipy} {cite('garyfallidis2014')}, which maximized mutual information "
            f"{cite('mattes2003')} over all voxels, starting from the rotation of a coarse grid with the highest "
            "correlation.",
            used if users else "",
        ]
    )


def tract_masks(step: RecordedStep, context: Context) -> str:
    """The bundles and the thresholds of their masks."""
    threshold = step.number("mask_threshold")
    own = [f"{bundle} {shown(value)}" for bundle, value in step.numbers("bundle_thresholds").items()]
    except_for = f" (thresholds of single bundles: {listed(own)})" if own else ""
    above = f" is above {shown(threshold)}{except_for}" if threshold is not None else " is above a threshold"
    return paragraph(
        [
            f"Masks of 72 white matter bundles were segmented from the three strongest peaks by {_networks(step)} "
            f"{cite('wasserthal2018')}. A voxel belongs to a bundle if its probability, the mean over slices along "
            f"three axes,{above}; gaps of the anterior commissure and the fornix are closed as TractSeg does.",
            _other_note(step),
        ]
    )


def tract_endings(step: RecordedStep, context: Context) -> str:
    """The threshold of the endings."""
    threshold = step.number("ending_threshold")
    least = f" with a probability of at least {shown(threshold)}" if threshold is not None else ""
    return paragraph(
        [
            f"The regions in which the 72 bundles begin and end were segmented by {_networks(step)} "
            f"{cite('wasserthal2018')} as the voxels{least}.",
            _other_note(step),
        ]
    )


def tract_orientations(step: RecordedStep, context: Context) -> str:
    """The orientation maps and how far they extend."""
    dilation = step.number("dilation")
    mask = "the mask of its bundle"
    if dilation:
        mask += f", dilated by {counted(dilation, 'voxel')}"
    return paragraph(
        [
            f"Tract orientation maps, the local directions of the 72 bundles, were computed by {_networks(step)} "
            f"{cite('wasserthal2019')} and normalized to unit length. Each map is limited to {mask}.",
            _other_note(step),
        ]
    )


def _networks(step: RecordedStep) -> str:
    tool = step.with_version("TractSeg", "tractseg")
    if step.note == DEMO_NOTE:
        return f"the demo's own networks, of the architecture of {tool} but trained on synthetic heads only"
    return f"the networks of {tool}"


def _other_note(step: RecordedStep) -> str:
    return f"Note on the network weights: {step.note}." if step.note and step.note != DEMO_NOTE else ""
