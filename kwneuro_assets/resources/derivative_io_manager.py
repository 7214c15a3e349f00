"""The I/O manager of all derivatives: between Dagster's steps and the store."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from dagster import ConfigurableIOManager, InputContext, MetadataValue, OutputContext
from pydantic import Field, PrivateAttr

from kwneuro_assets.imaging import Dwi, MapSet, Segmentation, Volume
from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.resources.deferred_input import Deferred, loaded_or_deferred
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import Damaged, DerivativeStore, Missing, StoreError, Verify
from kwneuro_assets.subjects import GROUP, StoreKey, SubjectKey
from kwneuro_assets.versioning.records import Recorded


@dataclass(frozen=True)
class DerivativeOutput:
    """The output of a step: the value, its provenance, and its figure as PNG."""

    value: Value
    provenance: Provenance
    figure: bytes | None = None


class MissingFromStore(StoreError):
    """The store does not hold what the event log records; the message says what was found and what to do."""


class DerivativeIOManager(ConfigurableIOManager):
    """Writes derivatives to the store and reads them back, checked against the event log.

    Steps of one run share an instance. It caches up to `cache_gb` of values for later steps, by data version; values
    are immutable. A streamed DWI series takes no memory and always stays in the cache.
    """

    url: str = Field(description="Folder or URL (s3://bucket/prefix) of the derivatives dataset.")
    source_url: str = Field("", description="The source dataset, which the dataset description names.")
    verify: Verify = Field(
        "always", description="When files are compared with their checksums: always, first or never."
    )
    cache_gb: float = Field(2.0, description="Maximum size of the values cached for later steps of a run, in GB.")

    _store: DerivativeStore | None = PrivateAttr(default=None)
    _cache: OrderedDict[tuple[str, str, str], Value] = PrivateAttr(default_factory=OrderedDict)

    @property
    def store(self) -> DerivativeStore:
        """The store, opened on first use."""
        if self._store is None:
            self._store = DerivativeStore(self.url, self.source_url, self.verify)
        return self._store

    def handle_output(self, context: OutputContext, obj: DerivativeOutput) -> None:
        """Write a value with sidecar and figure. Raises StorageError if the store cannot be written."""
        asset = context.asset_key.to_user_string()
        subject = SubjectKey.parse(context.partition_key) if context.has_asset_partitions else GROUP
        store = self.store
        sidecar = store.write(asset, subject, obj.value, obj.provenance, obj.figure)
        self._add_to_cache(asset, subject, sidecar.data_version, obj.value)
        stored_bytes = sum(file.size for file in sidecar.files.values())
        context.add_output_metadata(
            {
                "path": MetadataValue.path(str(store.path(asset, subject))),
                "files": MetadataValue.json(list(sidecar.files)),
                "stored_mb": MetadataValue.float(round(stored_bytes / 1e6, 3)),
            }
        )

    def load_input(self, context: InputContext) -> Any:
        """The value, or a `Deferred` if the input asks for one.

        Raises MissingFromStore if the store does not hold what the event log records, and StoreError if there is no
        record or the store cannot be used.
        """
        return loaded_or_deferred(context, self._load, observed=False)

    def deferred(self, asset: str, subject: str, known: Recorded) -> Deferred:
        """A recorded derivative of a subject, to be loaded on request."""
        return Deferred(asset, subject, known, lambda: self._load(asset, subject, known))

    def holds(self, asset: str, subject: StoreKey, version: str) -> bool:
        """Whether the store holds this data version of a derivative, according to its sidecar."""
        return self.store.holds(asset, subject, version)

    def _load(self, asset: str, partition: str | None, known: Recorded | None) -> Value:
        subject = GROUP if partition is None else SubjectKey.parse(partition)
        command = f"kwneuro-assets run {subject.option}--select {asset}"
        if known is None:
            raise StoreError(f"{asset} of {subject} has not been materialized. Materialize it with: {command}")
        cached = self._cache.get((asset, str(subject), known.data_version))
        if cached is not None:
            return cached
        try:
            value, sidecar = self.store.read(asset, subject)
        except (Damaged, Missing) as error:
            raise MissingFromStore(str(error)) from None
        if sidecar.data_version != known.data_version:
            raise MissingFromStore(
                f"{asset} of {subject}: the event log records version {known.data_version[:12]}, the store {self.url} "
                f"holds {sidecar.data_version[:12]}: a run ended between the two writes, or another instance changed "
                f"the store. Rematerialize it with: {command}"
            )
        self._add_to_cache(asset, subject, known.data_version, value)
        return value

    def _add_to_cache(self, asset: str, subject: StoreKey, version: str, value: Value) -> None:
        self._cache[(asset, str(subject), version)] = value
        evictable = [key for key, cached in self._cache.items() if _bytes(cached)]
        while evictable and sum(map(_bytes, self._cache.values())) > self.cache_gb * 1e9:
            del self._cache[evictable.pop(0)]


def _bytes(value: Value) -> int:
    """Size of a value in memory; 0 for one that is streamed from its file."""
    if isinstance(value, Dwi):
        return value.array.nbytes if isinstance(value.volume, Volume) else 0
    if isinstance(value, Segmentation):
        return value.array.nbytes + value.probabilities.array.nbytes
    if isinstance(value, Volume):
        return value.array.nbytes
    if isinstance(value, MapSet):
        return sum(volume.array.nbytes for volume in value.values())
    return 0
