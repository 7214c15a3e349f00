"""Whether a step has anything to compute: forced, out of date, or up to date and skipped."""

from __future__ import annotations

from collections.abc import Mapping

from dagster import AssetExecutionContext

from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.subjects import StoreKey
from kwneuro_assets.versioning.code import Code
from kwneuro_assets.versioning.records import Recorded, is_missing_from_store, recorded

# Tag of a run that rematerializes derivatives whether up to date or not: those that its value names, or all if it names
# none.
FORCE_TAG = "kwneuro/force"
SKIPPED = "skipped"  # metadata label of the materialization of a step that was up to date


def is_forced(derivative: Derivative, tags: Mapping[str, str]) -> bool:
    """Whether the tags of a run ask for this derivative to be computed in any case."""
    named = NAMES.keys() & set(tags.get(FORCE_TAG, "").split(","))
    return FORCE_TAG in tags and (not named or derivative.name in named)


def up_to_date_record(
    context: AssetExecutionContext,
    derivative: Derivative,
    code: Code,
    partition: str | None,
    key: StoreKey,
    input_data_versions: Mapping[str, str],
) -> Recorded | None:
    """The newest materialization if code and inputs are unchanged and the store still holds the value; else None."""
    before = recorded(context.instance, derivative.name, partition)
    if (
        before is None
        or before.code_version != code.version
        or before.input_data_versions != input_data_versions
        or is_missing_from_store(context.instance, derivative.name, partition, before)
    ):
        return None
    is_stored = context.resources.derivatives.holds(derivative.name, key, before.data_version)
    return before if is_stored else None
