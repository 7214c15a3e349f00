"""The mean response of a group of subjects, whatever the gain of each one's images."""

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
    """The mean of the responses of subjects, each scaled to the mean signal (l = 0) of all.

    A subject's factor is the geometric mean, over its shells and tissues, of the group's coefficient of l = 0 over its
    own: the gain of its images. MRtrix3's `responsemean` does the same with a factor for each tissue, which would
    take the ratios between the tissues from one subject and the responses from others. b-values are averaged, numbers
    of voxels added, and orders cut to the lowest.

    Responses of another kind, or of shells further than 100 s/mm^2 away, than most subjects have are left out, which is
    logged as a warning. NotApplicable where no subject has a response.
    """
    known = {subject: one for subject, one in sorted(responses.items()) if not isinstance(one, NotApplicable)}
    if not known:
        return NotApplicable(f"None of {len(responses)} subjects has a fibre response.")
    taken = _largest_group(known)
    if len(taken) < len(known):
        log.warning(
            "%d of %d responses are left out, as most are %s: %s",
            len(known) - len(taken),
            len(known),
            _described(next(iter(taken.values()))),
            ", ".join(f"{subject} ({_described(one)})" for subject, one in known.items() if subject not in taken),
        )
    members = list(taken.values())
    group = np.mean([one.mean_signals for one in members], axis=0)
    scaled = [one.scaled(_gain(group, one.mean_signals)) for one in members]
    return _mean_of_tissues(scaled) if isinstance(scaled[0], TissueResponses) else _mean_of_fibres(scaled)


def scaled_to(group: Response, own: Response) -> Response:
    """The group's response in the intensities of one subject's images, by the subject's own response, as there.

    Raises InvalidData where that is of another kind or of other shells.
    """
    if not alike(group, own):
        raise InvalidData(
            "fibre response of the group",
            expected=f"one like the subject's own, {_described(own)}",
            found=_described(group),
            remedy="Choose the group by csd.group_subjects, or use each subject's own (csd.group_response: false).",
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
    """Whether both are of one kind and of the same shells, within 100 s/mm^2."""
    return (
        type(one) is type(other)
        and len(one.bvalues) == len(other.bvalues)
        and bool((np.abs(np.subtract(one.bvalues, other.bvalues)) <= SHELL_WIDTH).all())
    )


def _described(response: Response) -> str:
    kind = "of three tissues" if isinstance(response, TissueResponses) else "of one fibre"
    return f"{kind} at b=" + ", ".join(f"{bvalue:.0f}" for bvalue in response.bvalues)


def _mean_of_fibres(responses: Sequence[Response]) -> ResponseFunction:
    members = [one for one in responses if isinstance(one, ResponseFunction)]
    size = min(one.coefficients.size for one in members)
    return ResponseFunction(
        np.mean([one.coefficients[:size] for one in members], axis=0),
        float(np.mean([one.bvalue for one in members])),
        sum(one.voxels for one in members),
    )


def _mean_of_tissues(responses: Sequence[Response]) -> TissueResponses:
    members = [one for one in responses if isinstance(one, TissueResponses)]
    size = min(one.white.shape[1] for one in members)
    return TissueResponses(
        np.mean([one.bvalues for one in members], axis=0),
        np.mean([one.white[:, :size] for one in members], axis=0),
        np.mean([one.grey for one in members], axis=0),
        np.mean([one.water for one in members], axis=0),
        sum(one.white_voxels for one in members),
        sum(one.grey_voxels for one in members),
        sum(one.water_voxels for one in members),
    )
