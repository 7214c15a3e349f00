"""The mean response of the group: one for all subjects, without a partition."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from dagster import AllPartitionMapping, AssetDep, AssetExecutionContext, AssetIn, DagsterInstance

from kwneuro_assets.assets.derivative import Derivative, Inputs, derivative, stored_uris
from kwneuro_assets.derivations.group_response import Response, mean_response
from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.ingestion.ledger import set_aside
from kwneuro_assets.quality.figures import group_response_figure
from kwneuro_assets.quality.summaries import group_response_summary
from kwneuro_assets.settings import GroupResponseSettings, PipelineSettings, SettingsError
from kwneuro_assets.storage.deferred import Deferred
from kwneuro_assets.subjects import PARTITIONS, SubjectKey
from kwneuro_assets.versioning.content import Value
from kwneuro_assets.versioning.history import read_history
from kwneuro_assets.versioning.records import Recorded

OF = "fiber_response"


class GroupDerivative(Derivative):
    """A derivative of one asset of all members of the group: its function takes their values by subject."""

    def _partitions(self) -> None:
        return None

    def _ins(self, settings: PipelineSettings) -> dict[str, AssetIn]:
        return {}

    def _deps(self) -> list[AssetDep]:
        return [AssetDep(OF, partition_mapping=AllPartitionMapping())]

    def _deferred(
        self, context: AssetExecutionContext, settings: PipelineSettings, inputs: Mapping[str, Deferred]
    ) -> dict[str, Deferred]:
        wanted = members(context.instance, settings)
        made = read_history(context.instance, [OF], [], wanted).records[OF]
        if len(made) < len(wanted):
            context.log.warning(
                f"{len(wanted) - len(made)} of {len(wanted)} subjects have no {OF} yet and do not count"
            )
        manager = context.resources.derivatives
        return {
            subject: manager.promised(
                OF,
                subject,
                Recorded(record.event_id, "", record.data_version, record.code_version, record.input_data_versions, {}),
            )
            for subject, record in sorted(made.items())
        }

    def _gathered(self, inputs: Mapping[str, Value]) -> Inputs:
        return {OF: inputs}

    def _partition(self, context: AssetExecutionContext) -> None:
        return None

    def _sources(self, context: AssetExecutionContext, name: str, event: Recorded) -> list[str]:
        return stored_uris(OF, SubjectKey.parse(name), event)


def members(instance: DagsterInstance, settings: PipelineSettings) -> list[str]:
    """The subjects that make up the group: not those in quarantine, and not those that are gone from the source.

    Raises SettingsError for a pattern of `csd.group_subjects` that none of them fits.
    """
    present = sorted(set(instance.get_dynamic_partitions(PARTITIONS)) - set_aside(instance, settings).keys())
    if settings.csd.group_subjects is None:
        return present
    patterns = [pattern.strip() for pattern in settings.csd.group_subjects.split(",")]
    for pattern in patterns:
        if not any(fnmatchcase(subject, pattern) for subject in present):
            raise SettingsError(
                f"csd.group_subjects: expected patterns of subjects, found {pattern!r}, which fits none"
            )
    return [subject for subject in present if any(fnmatchcase(subject, pattern) for pattern in patterns)]


@derivative(
    group="fibers",
    version=1,
    picture=group_response_figure,
    summary=group_response_summary,
    kinds={"json", "numpy"},
    mechanism=GroupDerivative,
)
def group_response(
    fiber_response: Mapping[str, Response | NotApplicable], settings: GroupResponseSettings
) -> Response | NotApplicable:
    """Mean of the fibre responses of the group, each scaled to the mean signal of all: one for all subjects, for FODs
    whose amplitudes compare across them (csd.group_response)."""
    return mean_response(fiber_response)
