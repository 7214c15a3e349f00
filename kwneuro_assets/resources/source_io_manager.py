"""The I/O manager that reads source assets in place."""

from __future__ import annotations

from typing import Any

from dagster import ConfigurableIOManager, InputContext, OutputContext
from pydantic import Field

from kwneuro_assets.imaging import Dwi, Volume
from kwneuro_assets.ingestion.custom_layout import open_dataset
from kwneuro_assets.ingestion.read_mask import read_mask
from kwneuro_assets.ingestion.read_source import read_dwi
from kwneuro_assets.ingestion.series import recorded_series
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.resources.deferred_input import loaded_or_deferred
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.records import Recorded
from kwneuro_assets.versioning.source_names import SCAN


class SourceIOManager(ConfigurableIOManager):
    """Reads the observed files of the source dataset, without listing it. It writes nothing."""

    url: str = Field(description="Folder or URL (s3://bucket/prefix) of the dataset.")
    settings: dict[str, Any] = Field(description="The other keys of the settings' section `source`.")

    @classmethod
    def of(cls, settings: SourceSettings) -> SourceIOManager:
        """The I/O manager for these settings."""
        return cls(url=settings.url, settings=settings.model_dump(exclude={"url"}, exclude_none=True))

    def load_input(self, context: InputContext) -> Any:
        """The value, or a `Deferred` if the input asks for one.

        Raises SourceError if the subject has not been observed or its files have changed, InvalidData if they cannot be
        used, and StorageError if they cannot be read.
        """
        return loaded_or_deferred(context, self._load, observed=True)

    def _load(self, name: str, partition: str | None, known: Recorded | None) -> Dwi | Volume:
        assert partition is not None
        subject = SubjectKey.parse(partition)
        if known is None:
            raise SourceError(f"{name} of {subject} has not been observed. Observe it with: kwneuro-assets ingest")
        dataset = open_dataset(SourceSettings(url=self.url, **self.settings))
        # An observation that marks a subject as quarantined or removed names no files: they are searched for.
        files = known.values.get("files")
        value: Dwi | Volume
        if name == SCAN:
            series = recorded_series(dataset.root, subject, files) if files else dataset.series(subject)
            value, version = read_dwi(dataset, series)
        else:
            value, version = read_mask(dataset, dataset.root / files[0] if files else dataset.mask(subject))
        if version != known.data_version:
            raise SourceError(
                f"{name} of {subject} has changed since it was observed: expected version {known.data_version[:12]}, "
                f"found {version[:12]}. Observe the change with: kwneuro-assets ingest"
            )
        return value

    def handle_output(self, context: OutputContext, obj: object) -> None:
        """Raises SourceError: the source dataset is never written."""
        raise SourceError("the source dataset is read, never written")
