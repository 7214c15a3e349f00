"""The subjects behind a group's mean response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kwneuro_assets.derivations.group_response import Response, alike, scaled_to
from kwneuro_assets.imaging import NotApplicable, ResponseFunction, TissueResponses


@dataclass(frozen=True)
class Members:
    """The responses of a group, scaled to their mean and sorted by subject, and the number of subjects without one.

    `left_out` counts responses of another method or other shells, `not_applicable` subjects without a response.
    """

    responses: tuple[Response, ...]
    left_out: int
    not_applicable: int


def members_of(mean: Response, inputs: Mapping[str, object]) -> Members:
    """The responses in `inputs["fiber_response"]` (by subject) that have the method and shells of the mean."""
    given = inputs.get("fiber_response")
    subjects = sorted(given.items(), key=lambda item: str(item[0])) if isinstance(given, Mapping) else []
    own = [one for _, one in subjects if isinstance(one, ResponseFunction | TissueResponses)]
    responses = tuple(scaled_to(one, mean) for one in own if alike(one, mean))
    absent = sum(isinstance(one, NotApplicable) for _, one in subjects)
    return Members(responses, len(own) - len(responses), absent)
