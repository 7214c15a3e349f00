"""The inputs of an asset without partitions: the recorded values of all members of the group."""

from __future__ import annotations

from collections.abc import Iterable

from dagster import AssetExecutionContext

from kwneuro_assets.assets.derivative import Derivative, Inputs
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.resources.deferred_input import Deferred
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.history import read_history
from kwneuro_assets.versioning.records import Recorded


def deferred_group_inputs(
    context: AssetExecutionContext, derivative: Derivative, settings: PipelineSettings
) -> dict[str, Deferred]:
    """The recorded inputs of all members, by the label under which their data versions are recorded.

    The label is the subject, or `<asset>/<subject>` if there are several inputs. Members without a materialization are
    left out, with a warning.
    """
    assert derivative.members is not None
    members = derivative.members(context.instance, settings)
    names = derivative.inputs(settings)
    records = read_history(context.instance, list(names), [], members).records
    deferred: dict[str, Deferred] = {}
    for name in names:
        if missing := len(members) - len(records[name]):
            context.log.warning(f"{missing} of {len(members)} subjects have no {name} yet and are left out")
        for subject, record in sorted(records[name].items()):
            label = subject if len(names) == 1 else f"{name}/{subject}"
            known = Recorded(
                record.event_id, "", record.data_version, record.code_version, record.input_data_versions, {}
            )
            deferred[label] = context.resources.derivatives.deferred(name, subject, known)
    return deferred


def values_by_subject(required: Iterable[str], loaded: Iterable[tuple[Deferred, Value]]) -> Inputs:
    """For each input, a mapping from subject to value; empty for a required input that no member has."""
    values: dict[str, dict[str, Value]] = {name: {} for name in required}
    for deferred, value in loaded:
        assert deferred.partition is not None
        values.setdefault(deferred.asset, {})[deferred.partition] = value
    return values
