"""The inputs of an asset without partitions: the recorded values of all members of the group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from dagster import AssetExecutionContext

from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.resources.deferred_input import Deferred
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.versioning.history import read_history
from kwneuro_assets.versioning.records import Recorded, recorded


@dataclass(frozen=True)
class Previous:
    """The value that a materialization of the group replaces, and the data versions of the inputs that it is from.

    With it, a function reads only the members that are new or changed.
    """

    value: Value
    input_data_versions: Mapping[str, str]


class MemberValues(Mapping[str, Value]):
    """The values of one input by subject, each loaded when it is asked for."""

    def __init__(self, deferred: Mapping[str, Deferred], load: Callable[[Deferred], Value]) -> None:
        self._deferred = deferred
        self._load = load

    def __getitem__(self, subject: str) -> Value:
        return self._load(self._deferred[subject])

    def __contains__(self, subject: object) -> bool:
        return subject in self._deferred  # without loading it, as Mapping would

    def __iter__(self) -> Iterator[str]:
        return iter(self._deferred)

    def __len__(self) -> int:
        return len(self._deferred)

    def data_version(self, subject: str) -> str:
        """The recorded data version of the value of a subject."""
        known = self._deferred[subject].known
        return known.data_version if known else ""


def deferred_group_inputs(
    context: AssetExecutionContext, derivative: Derivative, settings: PipelineSettings
) -> dict[str, Deferred]:
    """The recorded inputs of all members, by the label under which their data versions are recorded.

    The label is the subject, or `<asset>/<subject>` if there are several inputs from subjects; that of an input that is
    itself of the group is its name. Members without a materialization are left out, with a warning.
    """
    assert derivative.members is not None
    names = derivative.inputs(settings)
    of_subjects = [name for name in names if not NAMES[name].of_group]
    deferred = {
        name: context.resources.derivatives.deferred(name, None, recorded(context.instance, name, None))
        for name in names
        if NAMES[name].of_group
    }
    if not of_subjects:
        return deferred
    members = derivative.members(context.instance, settings)
    records = read_history(context.instance, of_subjects, [], members).records
    for name in of_subjects:
        if missing := len(members) - len(records[name]):
            context.log.warning(f"{missing} of {len(members)} subjects have no {name} yet and are left out")
        for subject, record in sorted(records[name].items()):
            label = subject if len(of_subjects) == 1 else f"{name}/{subject}"
            known = Recorded(
                record.event_id, "", record.data_version, record.code_version, record.input_data_versions, {}
            )
            deferred[label] = context.resources.derivatives.deferred(name, subject, known)
    return deferred


def values_by_subject(
    required: Iterable[str], inputs: Iterable[Deferred], load: Callable[[Deferred], Value]
) -> dict[str, MemberValues | Value]:
    """For each input from subjects, a mapping from subject to value, empty for one that no member has; the value of one
    that is itself of the group.
    """
    members: dict[str, dict[str, Deferred]] = {name: {} for name in required if not NAMES[name].of_group}
    values: dict[str, MemberValues | Value] = {}
    for one in inputs:
        if one.partition is None:
            values[one.asset] = load(one)
        else:
            members.setdefault(one.asset, {})[one.partition] = one
    return {**values, **{name: MemberValues(found, load) for name, found in members.items()}}
