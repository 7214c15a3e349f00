"""Denoising, the mean b=0 image and the brain mask."""

from __future__ import annotations

from kwneuro_assets.derivations.brain import MEDIAN_PASSES, MEDIAN_RADIUS
from kwneuro_assets.derivations.denoise import MIN_VOLUMES
from kwneuro_assets.reports.boilerplate.acquisition import Acquisition
from kwneuro_assets.reports.boilerplate.context import Context, was_denoised
from kwneuro_assets.reports.boilerplate.prose import cite, counted, listed, shown
from kwneuro_assets.reports.boilerplate.records import RecordedStep


def denoising(step: RecordedStep, context: Context) -> str:
    """Patch2Self, or why the DWI series is unchanged."""
    method = step.word("method")
    if method == "none":
        return "The DWI series was not denoised."
    if method not in ("auto", "patch2self"):
        return "The DWI series was passed through a denoising step that is not described here."
    applied = was_denoised(step)
    if applied is None:
        return (
            f"Denoising with Patch2Self {cite('fadnavis2020')} was requested; whether it suited the DWI series is not "
            "recorded."
        )
    return _patch2self() if applied else _unchanged(step, context.acquisition)


def _patch2self() -> str:
    return (
        f"The DWI series was denoised with Patch2Self {cite('fadnavis2020')} with a patch radius of 0: each "
        "diffusion-weighted volume was replaced by its linear least-squares prediction from all other "
        "diffusion-weighted volumes. All regressions were solved exactly and in closed form, without random sketching. "
        "They were fitted to the foreground, where the mean b = 0 signal exceeds a tenth of its robust range "
        f"{cite('smith2002')}, and applied to all voxels. Volumes with b = 0 were neither changed nor used as "
        "predictors, and negative predictions were set to 0."
    )


def _unchanged(step: RecordedStep, acquisition: Acquisition) -> str:
    """Of the conditions of Patch2Self, those that are known to be met are no reason."""
    ratio = step.number("min_ratio")
    per_volume = "too few" if ratio is None else f"fewer than {shown(ratio)}"
    weighted = acquisition.weighted
    few = f"has fewer than {MIN_VOLUMES} diffusion-weighted volumes"
    reasons = ["was interpolated"] if step.word("method") == "auto" else []
    if weighted is not None and weighted < MIN_VOLUMES:
        reasons = [f"has only {counted(weighted, 'diffusion-weighted volume')}"]
    else:
        reasons += [few] if weighted is None else []
        reasons += [f"has {per_volume} foreground voxels for each diffusion-weighted volume"]
    because = listed(reasons, "or")
    return f"The DWI series was not denoised: it {because}, for which Patch2Self {cite('fadnavis2020')} is not suited."


def mean_b0(step: RecordedStep, context: Context) -> str:
    """The mean of the b=0 volumes."""
    b0 = context.acquisition.b0
    if b0 == 1:
        return "The volume with b = 0 served as the mean b = 0 image."
    return "The volumes with b = 0 were averaged to a mean b = 0 image."


def brain_mask(step: RecordedStep, context: Context) -> str:
    """The method of brain extraction."""
    method = step.word("method")
    texts = {"hd-bet": _hd_bet_2, "hd-bet-v1": _hd_bet_1, "median-otsu": _median_otsu, "provided": _provided}
    if method not in texts:
        return "A brain mask was computed by a method that is not described here."
    return texts[method](step)


def _hd_bet_2(step: RecordedStep) -> str:
    return _by_network(step, f"HD-BET 2 {cite('isensee2019')}, a network trained by nnU-Net {cite('isensee2021')}")


def _hd_bet_1(step: RecordedStep) -> str:
    which: dict[float, str] = {1: ", the first of its five networks", 5: ", the mean of its five networks"}
    return _by_network(step, f"HD-BET 1 {cite('isensee2019')}{which.get(step.number('ensemble') or 0, '')}")


def _by_network(step: RecordedStep, tool: str) -> str:
    mirrored = {True: "averaged over mirrored copies of the image", False: "without mirrored copies of the image"}
    device = f"on {step.device}" if step.device else ""
    copies = "" if step.is_mirrored is None else mirrored[step.is_mirrored]
    how = listed([part for part in (device, copies) if part])
    note = f" Note on the network weights: {step.note}." if step.note else ""
    return (
        f"The brain was segmented in the mean b = 0 image by {tool}{f', {how}' if how else ''}. The largest connected "
        f"component is the brain mask.{note}"
    )


def _median_otsu(step: RecordedStep) -> str:
    dipy = step.with_version("DIPY", "dipy")
    return (
        f"The brain was segmented in the mean b = 0 image by the function median_otsu of {dipy} "
        f"{cite('garyfallidis2014')}: {MEDIAN_PASSES} passes of a median filter with a radius of {MEDIAN_RADIUS} "
        f"voxels, then Otsu's threshold {cite('otsu1979')}. The largest connected component, with its holes filled, is "
        "the brain mask."
    )


def _provided(step: RecordedStep) -> str:
    return "The brain mask was provided with the source dataset."
