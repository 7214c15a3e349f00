"""The observable source assets: the raw DWI of each subject and, if the settings ask for it, a provided brain mask.

`multi_observable_source_asset` makes them regular asset definitions of the execution type observation: Dagster shows
what is computed from them as stale when a newer observation has another data version. Observing them runs the same code
as `kwneuro-assets ingest` and the ingestion sensor, which records each observation itself, one per subject and only if
the content is new. The function below therefore yields no `ObserveResult`: it would apply one data version to all
partitions of the run.
"""

# No postponed annotations here: Dagster inspects the type of `context` when the asset is defined.

import warnings
from collections.abc import Iterator

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    BetaWarning,
    ObserveResult,
    multi_observable_source_asset,
)

from kwneuro_assets.assets.mechanism.code_references import code_references
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.versioning.partitions import subject_partitions
from kwneuro_assets.versioning.source_names import MASK, SCAN, source_names

DESCRIPTIONS = {
    SCAN: """Raw DWI series of a subject with its gradient table, read in place from the source dataset.

The data version covers what is read: image, b-values, b-vectors, the used fields of the JSON sidecar, the selected
runs, `source.subsample`, and the QC values that preprocessing left beside the images. Several runs are joined. Nothing
is copied.

| content | unit |
|---|---|
| 4-D image | signal of the scanner |
| b-values | s/mm^2 |
| b-vectors | 1 |

**Files**: `sub-01[/ses-02]/dwi/*_dwi.{nii.gz,bval,bvec,json}` in the source dataset, or as in `source.layout`.""",
    MASK: """Brain mask that the source dataset provides for a subject, read in place.

An asset only with `brain_mask.method: provided`. It must have the grid of the DWI.

| content | unit |
|---|---|
| binary 3-D mask, or a probability map with `source.mask_threshold` | 1 |

**Files**: `*_desc-brain_mask.nii.gz` beside the DWI in the source dataset, or as in `source.mask`.""",
}


def build_source_assets(settings: PipelineSettings) -> list[AssetsDefinition]:
    """The source assets that exist under these settings, as one definition: a single ingest observes all of them."""

    def observe_source(context: AssetExecutionContext) -> Iterator[ObserveResult]:
        """Ingest the partitions of the run, or all subjects of the source if the run has no partitions."""
        has_partitions = context.has_partition_key or context.has_partition_key_range
        subjects = context.partition_keys if has_partitions else None
        report = ingest(context.instance, settings, subjects, on_message=context.log.info)
        context.log.info(report.summary())
        for subject, reason in sorted({**report.quarantined, **report.arriving}.items()):
            context.log.warning(f"{subject}: {reason}")
        yield from ()

    specs = [
        AssetSpec(
            name,
            description=DESCRIPTIONS[name],
            group_name="source",
            owners=[],
            kinds={"nifti", "bids"},
            metadata=code_references(observe_source),
        ).with_io_manager_key("source")
        for name in source_names(settings)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BetaWarning)
        # An output that is not required: without a result, Dagster records no observation of its own.
        decorate = multi_observable_source_asset(
            specs=specs, name="observe_source", partitions_def=subject_partitions, can_subset=True
        )
        return [decorate(observe_source)]
