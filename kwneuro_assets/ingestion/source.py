"""The source assets, and the I/O manager through which steps read them in place."""

# No postponed annotations here: Dagster looks at the type of `context` when the asset is defined.

import warnings
from collections.abc import Callable
from typing import Any

from dagster import (
    BetaWarning,
    ConfigurableIOManager,
    DataVersion,
    DataVersionsByPartition,
    InputContext,
    OpExecutionContext,
    OutputContext,
    SourceAsset,
    observable_source_asset,
)
from pydantic import Field

from kwneuro_assets.imaging import Dwi, InvalidData, Volume
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.plain import open_dataset
from kwneuro_assets.ingestion.read import look_at_dwi, look_at_mask, read_dwi, read_mask
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.settings import PipelineSettings, SourceSettings
from kwneuro_assets.storage.deferred import loaded_or_deferred
from kwneuro_assets.subjects import PARTITIONS, SubjectKey, subject_partitions
from kwneuro_assets.versioning.records import SCAN, Recorded, recorded

MASK = "provided_mask"


class SourceIOManager(ConfigurableIOManager):
    """Reads the source dataset in place, and only what was observed: it writes nothing."""

    url: str = Field(description="Folder or URL (s3://bucket/prefix) of the dataset.")
    anonymous: bool = Field(False, description="S3 is read without credentials.")
    layout: str = Field("bids", description="bids, or the pattern of the images below the folder.")
    select: str | None = Field(None, description="Pattern of image names that count.")
    acq: str | None = Field(None, description="acq labels of the images that count, comma-separated.")
    dir: str | None = Field(None, description="dir labels of the images that count, comma-separated.")
    run: str | None = Field(None, description="run numbers of the images that count, comma-separated.")
    subsample: int = Field(1, description="Every n-th voxel is read along each axis.")
    b0_threshold: float = Field(50, description="Volumes with b at or below it, s/mm^2, count as b=0.")

    @classmethod
    def of(cls, settings: SourceSettings) -> "SourceIOManager":
        return cls(**settings.model_dump())

    def load_input(self, context: InputContext) -> Any:
        """The value, or a promise of it. Raises SourceError, InvalidData, or StorageError."""
        return loaded_or_deferred(context, self._load, observed=True)

    def _load(self, name: str, partition: str | None, known: Recorded | None) -> Dwi | Volume:
        assert partition is not None
        subject = SubjectKey.parse(partition)
        if known is None:
            raise SourceError(f"{name} of {subject} has not been observed. Look for it with: kwneuro-assets ingest")
        dataset = open_dataset(SourceSettings(**{field: getattr(self, field) for field in SourceSettings.model_fields}))
        value: Dwi | Volume
        if name == "dwi":
            value, version = read_dwi(dataset, dataset.series(subject))
        else:
            value, version = read_mask(dataset, dataset.mask(subject))
        if version != known.data_version:
            raise SourceError(
                f"{name} of {subject} has changed since it was observed (version {version[:12]} now, "
                f"{known.data_version[:12]} then). Take the change in with: kwneuro-assets ingest"
            )
        return value

    def handle_output(self, context: OutputContext, obj: object) -> None:
        raise SourceError("the source dataset is read, never written")


def source_names(settings: PipelineSettings) -> tuple[str, ...]:
    """The source assets that there are under these settings."""
    return (SCAN, MASK) if settings.brain_mask.method == "provided" else (SCAN,)


def source_assets(settings: PipelineSettings) -> list[SourceAsset]:
    """`dwi`, and `provided_mask` where the settings take the mask from the dataset."""
    return [_source_asset(name, settings) for name in source_names(settings)]


def _source_asset(name: str, settings: PipelineSettings) -> SourceAsset:
    def look(context: OpExecutionContext) -> DataVersionsByPartition:
        dataset = open_dataset(settings.source)
        versions: dict[str, str | DataVersion] = {}
        for key in context.instance.get_dynamic_partitions(PARTITIONS):
            try:
                version = _VERSIONS[name](dataset, SubjectKey.parse(key))
                known = recorded(context.instance, name, key, observed=True)
                if known is None or known.data_version != version:
                    versions[key] = version
            except InvalidData as error:  # told, and left as it was observed before
                context.log.warning(str(error))
        return DataVersionsByPartition(versions)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BetaWarning)  # the only kind of source that Dagster calls stale by version
        return observable_source_asset(
            name=name,
            description=_DESCRIPTIONS[name],
            group_name="source",
            partitions_def=subject_partitions,
            io_manager_key="source",
            tags={"dagster/kind/nifti": "", "dagster/kind/bids": ""},
        )(look)


_DESCRIPTIONS = {
    "dwi": "The diffusion-weighted series of a subject, read in place from the source dataset.",
    "provided_mask": "The brain mask that comes with a subject's data, read in place from the source dataset.",
}
_VERSIONS: dict[str, Callable[[SourceDataset, SubjectKey], str]] = {
    "dwi": lambda dataset, subject: look_at_dwi(dataset, dataset.series(subject)).version,
    "provided_mask": lambda dataset, subject: look_at_mask(dataset, dataset.mask(subject))[1],
}
