"""The subjects behind a group's mean response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kwneuro_assets.derivations.group_response import Response, alike, scaled_to
from kwneuro_assets.imaging import NotApplicable, ResponseFunction, TissueResponses


@dataclass(frozen=True)
class Members:
    """The responses that a mean is of, scaled to it, in the order of their subjects, and how many have none among them.

    `left_out` have a response of another kind or of other shells, `not_applicable` have none.
    """

    responses: tuple[Response, ...]
    left_out: int
    not_applicable: int


def members_of(mean: Response, inputs: Mapping[str, object]) -> Members:
    """Those among the responses of subjects (`fiber_response` of the inputs, by subject) that are like the mean."""
    given = inputs.get("fiber_response")
    subjects = sorted(given.items(), key=lambda item: str(item[0])) if isinstance(given, Mapping) else []
    own = [one for _, one in subjects if isinstance(one, ResponseFunction | TissueResponses)]
    responses = tuple(scaled_to(one, mean) for one in own if alike(one, mean))
    absent = sum(isinstance(one, NotApplicable) for _, one in subjects)
    return Members(responses, len(own) - len(responses), absent)
