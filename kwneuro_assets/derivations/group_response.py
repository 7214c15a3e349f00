"""The mean response function of a group of subjects, independent of the gain of their images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kwneuro_assets.imaging import InvalidData, NotApplicable, ResponseFunction, TissueResponses
from kwneuro_assets.imaging.gradients import SHELL_WIDTH

Response = ResponseFunction | TissueResponses
Floats = NDArray[np.float64]

log = logging.getLogger(__name__)


def mean_response(responses: Mapping[str, Response | NotApplicable]) -> Response | NotApplicable:
    """The mean response function of the subjects, after each is scaled to the mean signal (l = 0) of the group.

    `responses` maps a subject to its response function. The scale factor of a subject is the geometric mean, over
    shells and tissues, of the group's coefficient of l = 0 divided by its own: the gain of its images. MRtrix3's
    `responsemean` uses one factor per tissue, which would combine the ratios between tissues of one subject with the
    response functions of others. b-values are averaged, numbers of voxels are added, and orders are cut to the lowest.

    Response functions of another kind than most subjects have, or of shells more than 100 s/mm^2 away, are excluded and
    logged as a warning. Returns NotApplicable if no subject has a response function.
    """
    known = {subject: one for subject, one in sorted(responses.items()) if not isinstance(one, NotApplicable)}
    if not known:
        return NotApplicable(f"None of {len(responses)} subjects has a fiber response.")
    taken = _largest_group(known)
    if len(taken) < len(known):
        log.warning(
            "%d of %d response functions are excluded, because most are %s: %s",
            len(known) - len(taken),
            len(known),
            _described(next(iter(taken.values()))),
            ", ".join(f"{subject} ({_described(one)})" for subject, one in known.items() if subject not in taken),
        )
    members = list(taken.values())
    group = np.mean([one.mean_signals for one in members], axis=0)
    scaled = [one.scaled(_gain(group, one.mean_signals)) for one in members]
    return _mean_of_tissues(scaled) if isinstance(scaled[0], TissueResponses) else _mean_of_fibers(scaled)


def scaled_to(group: Response, own: Response) -> Response:
    """The response function of the group, scaled to the intensities of the subject with the response function `own`.

    Raises InvalidData if `own` is of another kind or of other shells.
    """
    if not alike(group, own):
        raise InvalidData(
            "fiber response of the group",
            expected=f"one like the subject's own, {_described(own)}",
            found=_described(group),
            remedy="Select the group with csd.group_subjects, or use each subject's own (csd.group_response: false).",
        )
    return group.scaled(_gain(own.mean_signals, group.mean_signals))


def _gain(wanted: Floats, found: Floats) -> float:
    return float(np.exp(np.log(wanted / found).mean()))


def _largest_group(responses: Mapping[str, Response]) -> dict[str, Response]:
    groups: list[dict[str, Response]] = []
    for subject, response in responses.items():
        group = next((one for one in groups if alike(response, next(iter(one.values())))), None)
        if group is None:
            groups.append(group := {})
        group[subject] = response
    return max(groups, key=len)


def alike(one: Response, other: Response) -> bool:
    """Whether both are of the same kind and of the same shells, within 100 s/mm^2."""
    return (
        type(one) is type(other)
        and len(one.bvalues) == len(other.bvalues)
        and bool((np.abs(np.subtract(one.bvalues, other.bvalues)) <= SHELL_WIDTH).all())
    )


def _described(response: Response) -> str:
    kind = "of three tissues" if isinstance(response, TissueResponses) else "of one fiber"
    return f"{kind} at b=" + ", ".join(f"{bvalue:.0f}" for bvalue in response.bvalues)


def _mean_of_fibers(responses: Sequence[Response]) -> ResponseFunction:
    members = [one for one in responses if isinstance(one, ResponseFunction)]
    size = min(one.coefficients.size for one in members)
    return ResponseFunction(
        np.mean([one.coefficients[:size] for one in members], axis=0),
        float(np.mean([one.bvalue for one in members])),
        sum(one.voxels for one in members),
    )


def _mean_of_tissues(responses: Sequence[Response]) -> TissueResponses:
    members = [one for one in responses if isinstance(one, TissueResponses)]
    size = min(one.wm.shape[1] for one in members)
    return TissueResponses(
        np.mean([one.bvalues for one in members], axis=0),
        np.mean([one.wm[:, :size] for one in members], axis=0),
        np.mean([one.gm for one in members], axis=0),
        np.mean([one.csf for one in members], axis=0),
        sum(one.wm_voxels for one in members),
        sum(one.gm_voxels for one in members),
        sum(one.csf_voxels for one in members),
    )
