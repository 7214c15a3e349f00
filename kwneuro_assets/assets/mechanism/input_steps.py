"""How the inputs of a derivative were computed, as their newest records say: what a report shows of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from kwneuro_assets.assets.mechanism.provenance import store_key
from kwneuro_assets.reports.content import Step
from kwneuro_assets.resources.deferred_input import Deferred
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.versioning.records import Recorded

_FIGURE = "_figure.png"
# Labels of a materialization that have a place of their own in a Step, or mean nothing outside of the UI.
_NOT_SUMMARY = {
    "figure", "seconds", "peak_memory_mb", "code_version", "data_version", "input_data_versions", "parameters",
    "libraries", "weights", "networks", "path", "files", "stored_mb", "skipped",
}  # fmt: skip


def missing_step(name: str) -> Step:
    """The step of an input that was never materialized."""
    return Step(name, state="missing", reason="it has not been materialized")


def recorded_step(one: Deferred) -> Step:
    """The step of a recorded input. URLs of its files are relative to the root of the store."""
    known = one.known
    if known is None:
        return missing_step(one.asset)
    values = known.values
    files = _urls(one, known)
    return Step(
        name=one.asset,
        state="not applicable" if known.not_applicable else "stored",
        reason=known.not_applicable or "",
        figure=next((file for file in files if file.endswith(_FIGURE)), None),
        parameters=_mapping(values, "parameters"),
        code_version=known.code_version or "",
        data_version=known.data_version,
        inputs=known.input_data_versions,
        libraries=_mapping(values, "libraries"),
        weights=_mapping(values, "weights"),
        networks=_mapping(values, "networks"),
        seconds=values.get("seconds"),
        peak_memory_mb=values.get("peak_memory_mb"),
        summary={label: value for label, value in values.items() if label not in _NOT_SUMMARY and "/" not in label},
        files=tuple(file for file in files if not file.endswith(_FIGURE)),
    )


def _urls(one: Deferred, known: Recorded) -> list[str]:
    files = known.values.get("files") or []
    if one.asset not in NAMES:  # of the source, whose place relative to the store is not known
        return [str(file) for file in files]
    folder = NAMES[one.asset].folder(store_key(one.partition))
    return [str(PurePosixPath(folder, file)) for file in files]


def _mapping(values: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    found = values.get(label)
    return found if isinstance(found, Mapping) else {}
