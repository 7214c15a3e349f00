"""The provenance of a value, as its sidecar records it."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.resources.deferred_input import Deferred
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.subjects import GROUP, StoreKey, SubjectKey
from kwneuro_assets.versioning.code import Code, library_versions
from kwneuro_assets.versioning.records import EXCLUDED_VOLUMES, RUN_SCALE_FACTORS, Recorded
from kwneuro_assets.versioning.source_names import SOURCES

_JOINED_RUNS = {RUN_SCALE_FACTORS: "RunScaleFactors", EXCLUDED_VOLUMES: "ExcludedVolumes"}


def provenance_of(
    derivative: Derivative,
    code: Code,
    key: StoreKey,
    value: Value,
    inputs: Mapping[str, Deferred],
    known: Mapping[str, Recorded],
    networks: Mapping[str, Any],
) -> Provenance:
    """How a value was computed: code, inputs as they are recorded, libraries, and how its networks ran."""
    return Provenance(
        description=derivative.description,
        code_version=code.version,
        data_version=data_version(value),
        parameters=code.parameters,
        libraries=_libraries({*derivative.libraries, *code.libraries}),
        weights=code.weights,
        networks=networks,
        input_data_versions={label: event.data_version for label, event in known.items()},
        sources=tuple(uri for label, event in known.items() for uri in _source_uris(inputs[label], event)),
        bids={
            **derivative.bids,
            **_dictionary(derivative, value),
            **_spatial_reference(derivative, key),
            **_joined_runs(known),
        },
    )


def store_key(partition: str | None) -> StoreKey:
    """The key of a partition in the store; that of the group for an asset without partitions."""
    return GROUP if partition is None else SubjectKey.parse(partition)


def _source_uris(one: Deferred, event: Recorded) -> list[str]:
    """The files of an input, as BIDS URIs; its sidecar if it has no other files."""
    files = event.values.get("files") or []
    if one.asset in SOURCES:
        return [f"bids:source:{file}" for file in files]
    key = store_key(one.partition)
    images = [file for file in files if not file.endswith(("_figure.png", ".json"))]
    folder = NAMES[one.asset].folder(key)
    stored = [f"bids::{PurePosixPath(folder, file)}" for file in images]
    return stored or [f"bids::{NAMES[one.asset].sidecar(key)}"]


def _dictionary(derivative: Derivative, value: Value) -> Mapping[str, Any]:
    has_one = derivative.dictionary is not None and not isinstance(value, NotApplicable)
    return derivative.dictionary(value) if derivative.dictionary and has_one else {}


def _spatial_reference(derivative: Derivative, key: StoreKey) -> dict[str, str]:
    if derivative.reference_grid is None:
        return {}
    reference = NAMES[derivative.reference_grid].file(key, ".nii.gz")
    return {"SpatialReference": f"bids::{PurePosixPath(key.folder, reference)}"}


def _joined_runs(known: Mapping[str, Recorded]) -> dict[str, str]:
    """How the runs of the raw DWI were joined, if it is an input, as its observation records it."""
    observed = [event.values for label, event in known.items() if label in SOURCES]
    return {field: values[label] for values in observed for label, field in _JOINED_RUNS.items() if label in values}


def _libraries(names: Iterable[str]) -> dict[str, str]:
    first = ("kwneuro-assets", "dagster", "nibabel", "numpy")
    rest = sorted(set(names).difference(first))
    return {"python": platform.python_version(), **library_versions((*first, *rest))}
