"""What differs in how derivatives were made: algorithm, parameters, libraries, weights, inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagster import DagsterInstance

from kwneuro_assets.assets import DERIVATIVES
from kwneuro_assets.assets.derivative import SOURCES
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.sidecar import Sidecar
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.code import changes, pairs
from kwneuro_assets.versioning.cohort import SHORT
from kwneuro_assets.versioning.records import recorded

Differences = dict[str, list[str]]  # by asset, in sentences; none where it was made in the same way


def versus_subject(store: DerivativeStore, one: SubjectKey, other: SubjectKey, assets: Sequence[str]) -> Differences:
    """How the derivatives of `one` were made and those of `other` otherwise; what they were made of is their own.

    Raises StoreError for a sidecar that cannot be read.
    """
    return {name: _between(one, store.sidecar(name, one), other, store.sidecar(name, other)) for name in assets}


def versus_present(
    instance: DagsterInstance,
    settings: PipelineSettings,
    store: DerivativeStore,
    subject: SubjectKey,
    assets: Sequence[str],
) -> Differences:
    """How the derivatives of a subject were made and would be made otherwise now, by settings and inputs as they are.

    Raises StoreError for a sidecar that cannot be read.
    """
    found: Differences = {}
    for derivative in DERIVATIVES:
        if derivative.name not in assets:
            continue
        sidecar = store.sidecar(derivative.name, subject)
        if sidecar is None:
            found[derivative.name] = [f"{subject} does not have it"]
            continue
        made = sidecar.provenance
        metadata = {"parameters": made.parameters, "libraries": made.libraries}
        told = list(derivative.code(settings).changes_since(made.code_version, metadata))
        present = {
            name: event.data_version
            for name in derivative.inputs(settings)
            if (event := recorded(instance, name, str(subject), observed=name in SOURCES))
        }
        told += changes(_short(made.input_data_versions), _short(present), "version of ")
        found[derivative.name] = told
    return found


def _between(one: SubjectKey, first: Sidecar | None, other: SubjectKey, second: Sidecar | None) -> list[str]:
    if first is None and second is None:
        return [f"neither {one} nor {other} has it"]
    if first is None or second is None:
        return [f"{one if first is None else other} does not have it"]
    before, now = first.provenance, second.provenance
    told = []
    if _number(before.code_version) != _number(now.code_version):
        told.append(f"number of its algorithm: {_number(before.code_version)} and {_number(now.code_version)}")
    told += pairs(before.parameters, now.parameters)
    told += pairs(before.libraries, now.libraries, "library ")
    told += pairs(_short(before.weights), _short(now.weights), "weights ")
    told += pairs(_names(before.input_data_versions), _names(now.input_data_versions), "input ")
    if first.value_type != second.value_type:
        told.append(f"what it is: {first.value_type} and {second.value_type}")
    return told


def _names(versions: Mapping[str, str]) -> dict[str, str]:
    return dict.fromkeys(versions, "there")


def _number(code_version: str) -> str:
    return code_version.partition("-")[0]


def _short(versions: Mapping[str, str]) -> dict[str, str]:
    return {name: version[:SHORT] for name, version in versions.items()}
