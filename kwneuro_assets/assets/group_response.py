"""The mean response function of the group: one for all subjects, without a partition."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from dagster import DagsterInstance

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.group_response import Response, mean_response
from kwneuro_assets.figures.subject import group_response_figure
from kwneuro_assets.figures.summaries import group_response_summary
from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.ingestion.ingest_index import usable_subjects
from kwneuro_assets.settings import GroupResponseSettings, PipelineSettings, SettingsError

OF = "fiber_response"


def members(instance: DagsterInstance, settings: PipelineSettings) -> list[str]:
    """The subjects of the group, sorted: neither quarantined nor removed from the source, and matching
    `csd.group_subjects` if it is set.

    Raises SettingsError for a pattern of `csd.group_subjects` that matches no subject.
    """
    present = usable_subjects(instance, settings)
    if settings.csd.group_subjects is None:
        return present
    patterns = [pattern.strip() for pattern in settings.csd.group_subjects.split(",")]
    for pattern in patterns:
        if not any(fnmatchcase(subject, pattern) for subject in present):
            raise SettingsError(
                f"csd.group_subjects: expected patterns of subjects, found {pattern!r}, which matches none"
            )
    return [subject for subject in present if any(fnmatchcase(subject, pattern) for pattern in patterns)]


@derivative(
    group="fibers",
    version=1,
    figure=group_response_figure,
    summary=group_response_summary,
    kinds={"json", "numpy"},
    members=members,
)
def group_response(
    fiber_response: Mapping[str, Response | NotApplicable], settings: GroupResponseSettings
) -> Response | NotApplicable:
    """Mean of the response functions of all subjects of the group, each scaled to the group's mean signal.

    With `csd.group_response: true`, the FODs of all subjects are computed with this response function, scaled to each
    subject's own signal, so that their amplitudes can be compared across subjects. It is computed on request only: new
    subjects do not change it until it is materialized again. `csd.group_subjects` selects the members.

    | tissue | content | unit |
    |---|---|---|
    | WM (single fiber), GM, CSF | zonal spherical harmonic coefficients per shell | signal of the DWI |

    **References**: [Raffelt 2012](https://doi.org/10.1016/j.neuroimage.2011.10.045) (group average response).
    """
    return mean_response(fiber_response)
