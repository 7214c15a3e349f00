"""Comparison of how derivatives were computed: algorithm version, parameters, libraries, networks and inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagster import DagsterInstance

from kwneuro_assets.assets import derivatives
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.sidecar import Sidecar
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.code import WEIGHTS_PREFIX, changes, differences, short_digests
from kwneuro_assets.versioning.records import recorded
from kwneuro_assets.versioning.source_names import SOURCES
from kwneuro_assets.versioning.staleness import SHORT

Differences = dict[str, list[str]]  # one line per difference, by asset; empty for an asset without differences


def compare_subjects(store: DerivativeStore, one: SubjectKey, other: SubjectKey, assets: Sequence[str]) -> Differences:
    """The differences in how the derivatives of two subjects were computed; the data themselves are not compared.

    Raises StoreError if a sidecar cannot be read.
    """
    return {name: _compare(one, store.sidecar(name, one), other, store.sidecar(name, other)) for name in assets}


def compare_with_settings(
    instance: DagsterInstance,
    settings: PipelineSettings,
    store: DerivativeStore,
    subject: SubjectKey,
    assets: Sequence[str],
) -> Differences:
    """The differences between how the derivatives of a subject were computed and the current settings and inputs.

    Raises StoreError if a sidecar cannot be read.
    """
    found: Differences = {}
    for derivative in derivatives(settings):
        if derivative.name not in assets:
            continue
        sidecar = store.sidecar(derivative.name, subject)
        if sidecar is None:
            found[derivative.name] = [f"{subject} does not have it"]
            continue
        before = sidecar.provenance
        metadata = {"parameters": before.parameters, "libraries": before.libraries, "weights": before.weights}
        lines = list(derivative.code(settings).changes_since(before.code_version, metadata))
        inputs = {
            name: event.data_version
            for name in derivative.inputs(settings)
            if (event := recorded(instance, name, str(subject), observed=name in SOURCES))
        }
        lines += changes(_short(before.input_data_versions), _short(inputs), "version of ")
        found[derivative.name] = lines
    return found


def _compare(one: SubjectKey, first: Sidecar | None, other: SubjectKey, second: Sidecar | None) -> list[str]:
    if first is None and second is None:
        return [f"neither {one} nor {other} has it"]
    if first is None or second is None:
        return [f"{one if first is None else other} does not have it"]
    this, that = first.provenance, second.provenance
    lines = []
    if _algorithm_version(this.code_version) != _algorithm_version(that.code_version):
        lines.append(
            f"algorithm version: {_algorithm_version(this.code_version)} and {_algorithm_version(that.code_version)}"
        )
    lines += differences(this.parameters, that.parameters)
    lines += differences(this.libraries, that.libraries, "library ")
    lines += differences(short_digests(this.weights), short_digests(that.weights), WEIGHTS_PREFIX)
    lines += differences(this.networks, that.networks, "networks: ")
    lines += differences(_names(this.input_data_versions), _names(that.input_data_versions), "input ")
    if first.value_type != second.value_type:
        lines.append(f"type of value: {first.value_type} and {second.value_type}")
    return lines


def _names(versions: Mapping[str, str]) -> dict[str, str]:
    return dict.fromkeys(versions, "present")


def _algorithm_version(code_version: str) -> str:
    return code_version.partition("-")[0]


def _short(versions: Mapping[str, str]) -> dict[str, str]:
    return {name: version[:SHORT] for name, version in versions.items()}
