"""Response functions, constrained spherical deconvolution (CSD) and peaks."""

from __future__ import annotations

from kwneuro_assets.derivations import csd, multi_tissue
from kwneuro_assets.derivations.peaks import DUPLICATE
from kwneuro_assets.derivations.response import TENSOR_MAX_BVALUE
from kwneuro_assets.derivations.shells import ENOUGH
from kwneuro_assets.derivations.tissue_responses import MAX_NON_WM_FA
from kwneuro_assets.reports.boilerplate.context import Context
from kwneuro_assets.reports.boilerplate.prose import cite, counted, listed, paragraph, shown
from kwneuro_assets.reports.boilerplate.records import RecordedStep

_TENSOR = (
    f"The tensor was fitted up to b = {shown(TENSOR_MAX_BVALUE)} s/mm² where these shells have six independent "
    "directions."
)
_FILES = ("wm_response", "gm_response", "csf_response")


def fiber_response(step: RecordedStep, context: Context) -> str:
    """How the response functions were estimated, or from which files they were read."""
    files = [step.word(name).partition(" sha256:")[0] for name in _FILES]
    if any(files):
        return _from_files([file for file in files if file])
    is_multi = _is_multi_tissue(step)
    if is_multi is None:
        return "Response functions for spherical deconvolution were estimated from the data."
    series = context.series_of(step, prefers_raw=is_multi)
    return _of_tissues(step, series) if is_multi else _of_fiber(step, series)


def _is_multi_tissue(response: RecordedStep) -> bool | None:
    if response.found("wm_voxels") is not None:
        return True
    return False if response.found("voxels") is not None else None


def _from_files(files: list[str]) -> str:
    if len(files) == 1:
        return f"The response function of a single fiber population was read from the file {files[0]}."
    return (
        "The response functions of white matter (WM), gray matter (GM) and cerebrospinal fluid (CSF) were read from "
        f"the files {listed(files)}."
    )


def _of_tissues(step: RecordedStep, series: str) -> str:
    wm, gm, csf = (
        counted(number, "voxel") if number is not None else "voxels"
        for number in (step.found(f"{tissue}_voxels") for tissue in ("wm", "gm", "csf"))
    )
    return (
        "Response functions of white matter (WM), gray matter (GM) and cerebrospinal fluid (CSF) were estimated from "
        f"all shells of {series}, in the eroded brain mask and without supervision, after the method that MRtrix3 "
        f"{cite('tournier2019')} calls dhollander {cite('dhollander2016')}. WM was represented by the {wm} with the "
        f"tensor of a single fiber population that have the highest fractional anisotropy (FA). {_TENSOR} Voxels with "
        f"an FA below {MAX_NON_WM_FA:g} were separated into two groups by Otsu's threshold {cite('otsu1979')} of their "
        f"signal decay; {csf} with the fastest decay represented CSF, and {gm} with the typical decay of the slower "
        "group represented GM."
    )


def _of_fiber(step: RecordedStep, series: str) -> str:
    bvalue, order = step.found("bvalue_s_per_mm2"), step.found("order")
    shell = f"the shell b = {shown(bvalue)} s/mm² of {series}" if bvalue is not None else f"one shell of {series}"
    up_to = f" up to order {shown(order)}" if order is not None else ""
    return paragraph(
        [
            f"The response function of a single fiber population was estimated from {shell}{_chosen(step)}. It is the "
            f"least-squares fit of zonal spherical harmonics{up_to}, in the convention of MRtrix3 "
            f"{cite('tournier2019')}, to the signals of {_single_fibers(step)}.",
            _TENSOR,
            f"Voxels whose tensor was planar {cite('westin2002')} or whose mean diffusivity was far from the median of "
            "the mask were excluded.",
        ]
    )


def _chosen(step: RecordedStep) -> str:
    if step.word("shell") != "auto":
        return ""
    return (
        ", the highest b-value among the shells whose directions determine the highest harmonic order or at least "
        f"order {ENOUGH} {cite('tournier2013')}"
    )


def _single_fibers(step: RecordedStep) -> str:
    """The voxels have passed the threshold of FA if there are more than the minimum; else they are the highest."""
    voxels, least, threshold = step.found("voxels"), step.number("min_voxels"), step.number("fa_threshold")
    where = "of the eroded brain mask"
    if voxels is None or least is None or threshold is None:
        return f"voxels {where} with high fractional anisotropy"
    if voxels > least:
        return f"the {counted(voxels, 'voxel')} {where} with a fractional anisotropy above {shown(threshold)}"
    return f"the {counted(voxels, 'voxel')} {where} with the highest fractional anisotropy"


def group_response(step: RecordedStep | None, peaks: RecordedStep) -> str:
    """The group's response function, if the FODs were computed with it. `step` is that of the group, if known."""
    if not peaks.is_on("group_response"):
        return ""
    subjects = step.found("subjects") if step else None
    of = f"of {counted(subjects, 'subject')}" if subjects is not None else "of a group of subjects"
    return (
        f"Deconvolution used the mean response function {of} {cite('raffelt2012')}, each scaled to the mean signal of "
        "the group; the mean was scaled back to the signal of the subject by one factor."
    )


def csd_peaks(step: RecordedStep, context: Context) -> str:
    """The deconvolution, its order, and the peaks."""
    response = context.steps.input_of(step, "fiber_response")
    is_multi = _is_deconvolved_for_tissues(step, response)
    if is_multi is None:
        fods = f"Fiber orientation distributions (FODs) were computed by spherical deconvolution{_order(step, None)}."
    elif is_multi:
        fods = _multi_tissue(step, context.series_of(step, prefers_raw=True))
    else:
        fods = _single_tissue(step, context.series_of(step), response)
    group = group_response(context.steps.input_of(step, "group_response"), step)
    return paragraph([group, fods, _peaks(step)])


def _is_deconvolved_for_tissues(step: RecordedStep, response: RecordedStep | None) -> bool | None:
    """The tissue fractions are in the summary of multi-tissue deconvolution only."""
    if step.found("mean_peaks_per_voxel") is not None:
        return step.found("mean_wm_fraction") is not None
    return _is_multi_tissue(response) if response else None


def _multi_tissue(step: RecordedStep, series: str) -> str:
    directions = multi_tissue.CONSTRAINED_DIRECTIONS
    return (
        "Fiber orientation distributions (FODs) and the fractions of white matter, gray matter and cerebrospinal fluid "
        f"were computed from all shells of {series} by multi-tissue constrained spherical deconvolution "
        f"{cite('jeurissen2014')}{_order(step, None)}: least squares in which the amplitudes of the FOD in "
        f"{directions} directions and the amounts of the other two tissues are not negative, solved by the active-set "
        "solver of kwneuro-assets."
    )


def _single_tissue(step: RecordedStep, series: str, response: RecordedStep | None) -> str:
    directions = csd.CONSTRAINED_DIRECTIONS
    bvalue = response.found("bvalue_s_per_mm2") if response else None
    shell = f"the shell b = {shown(bvalue)} s/mm²" if bvalue is not None else "one shell"
    return (
        f"Fiber orientation distributions (FODs) were computed from {shell} of {series} by constrained spherical "
        f"deconvolution {cite('tournier2007')}{_order(step, response)}, in the formulation of MRtrix3 "
        f"{cite('tournier2019')}: least squares with a penalty on negative amplitudes in {directions} directions."
    )


def _order(step: RecordedStep, response: RecordedStep | None) -> str:
    """The order of an own, estimated response function of one shell is that of the FODs; else a limit is known."""
    is_estimated = response is not None and not response.word("wm_response") and not step.is_on("group_response")
    order = response.found("order") if response and is_estimated else None
    lmax = step.number("lmax")
    if order is not None and lmax is not None and order <= lmax:
        return f" up to harmonic order {shown(order)}"
    return f" up to a harmonic order of at most {shown(lmax)}, as the directions permit" if lmax is not None else ""


def _peaks(step: RecordedStep) -> str:
    number, least = step.number("max_peaks"), step.number("relative_threshold")
    angle = step.number("min_separation_angle")
    limits = [f"at most {shown(number)} per voxel"] if number is not None else []
    limits += [f"with at least {shown(least)} times the amplitude of the strongest"] if least else []
    if angle is not None:
        limits += [f"at least {counted(max(angle, DUPLICATE), 'degree')} from every stronger one"]
    return (
        "Peaks were extracted as local maxima of the FOD on the sphere, refined by Newton's method"
        f"{f': {listed(limits)}' if limits else ''}."
    )
