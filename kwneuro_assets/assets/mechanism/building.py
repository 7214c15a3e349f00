"""Builds the Dagster asset of a derivative for given settings."""

# No postponed annotations here: Dagster inspects the type of `context` when the asset is defined.

from typing import Any

from dagster import (
    AllPartitionMapping,
    AssetDep,
    AssetExecutionContext,
    AssetIn,
    AssetsDefinition,
    MetadataValue,
    asset,
)

from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.assets.mechanism.check_results import check_specs
from kwneuro_assets.assets.mechanism.code_references import code_references
from kwneuro_assets.assets.mechanism.description import markdown_description
from kwneuro_assets.assets.mechanism.execution import run_step
from kwneuro_assets.assets.mechanism.group_inputs import deferred_group_inputs
from kwneuro_assets.resources.deferred_input import DEFERRED
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.versioning.partitions import subject_partitions
from kwneuro_assets.versioning.source_names import SOURCES


def build_asset(derivative: Derivative, settings: PipelineSettings) -> AssetsDefinition:
    """The Dagster asset of a derivative, with these settings as its parameters."""
    code = derivative.code(settings)

    @asset(
        name=derivative.name,
        description=markdown_description(derivative),
        group_name=derivative.group,
        kinds=set(derivative.kinds),
        owners=[],
        tags={"bids_suffix": NAMES[derivative.name].suffix},
        metadata={"parameters": MetadataValue.json(dict(code.parameters)), **code_references(derivative.compute)},
        code_version=code.version,
        partitions_def=subject_partitions if derivative.is_partitioned else None,
        ins=_partition_inputs(derivative, settings) if derivative.is_partitioned else {},
        deps=[] if derivative.is_partitioned else _group_deps(derivative, settings),
        io_manager_key="derivatives",
        required_resource_keys={"progress", "derivatives"},
        pool=derivative.pool_name(settings),
        check_specs=check_specs(derivative),
    )
    # Returns a MaterializeResult. With that annotation, Dagster would take a step with checks for one without a value.
    def step(context: AssetExecutionContext, **inputs: Any):  # type: ignore[no-untyped-def]
        deferred = inputs if derivative.is_partitioned else deferred_group_inputs(context, derivative, settings)
        return run_step(context, derivative, code, settings, deferred)

    return step


def _partition_inputs(derivative: Derivative, settings: PipelineSettings) -> dict[str, AssetIn]:
    """The inputs of a subject, which the I/O managers provide as `Deferred`."""
    return {
        name: AssetIn(input_manager_key="source" if name in SOURCES else None, metadata=DEFERRED)
        for name in derivative.inputs(settings)
    }


def _group_deps(derivative: Derivative, settings: PipelineSettings) -> list[AssetDep]:
    """The inputs of the group: Dagster only knows of them, as it would ask for every partition there is."""
    return [
        AssetDep(name, partition_mapping=None if NAMES[name].of_group else AllPartitionMapping())
        for name in derivative.inputs(settings)
    ]
