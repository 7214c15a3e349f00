"""The I/O manager of all derivatives: between Dagster's steps and the store."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from dagster import ConfigurableIOManager, InputContext, MetadataValue, OutputContext
from pydantic import Field, PrivateAttr

from kwneuro_assets.imaging import Dwi, MapSet, Volume
from kwneuro_assets.storage.deferred import Deferred, loaded_or_deferred
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import Damaged, DerivativeStore, Missing, StoreError, Verify
from kwneuro_assets.subjects import GROUP, StoreKey, SubjectKey
from kwneuro_assets.versioning.content import Value
from kwneuro_assets.versioning.records import Recorded


@dataclass(frozen=True)
class Made:
    """What a step hands over: the value, how it came to be, and its picture as PNG."""

    value: Value
    provenance: Provenance
    figure: bytes | None = None


class Lost(StoreError):
    """The store does not hold what the event log says; says which derivative, what was found and what to do."""


class DerivativeIOManager(ConfigurableIOManager):
    """Writes derivatives to the store and reads them back, checked against the event log.

    Steps of one run share an instance, so values are kept in memory, up to `cache_gb`, for the steps that
    follow; they are immutable and are known by their data version. A series that is streamed takes no memory and is
    always kept.
    """

    url: str = Field(description="Folder or URL (s3://bucket/prefix) of the derivatives dataset.")
    source_url: str = Field("", description="The dataset that they are derived from, named in their description.")
    verify: Verify = Field("always", description="When files are compared with checksums: always, first or never.")
    cache_gb: float = Field(2.0, description="Values kept in memory for later steps of a run, in GB.")

    _store: DerivativeStore | None = PrivateAttr(default=None)
    _kept: OrderedDict[tuple[str, str, str], Value] = PrivateAttr(default_factory=OrderedDict)

    @property
    def store(self) -> DerivativeStore:
        if self._store is None:
            self._store = DerivativeStore(self.url, self.source_url, self.verify)
        return self._store

    def handle_output(self, context: OutputContext, obj: Made) -> None:
        asset = context.asset_key.to_user_string()
        subject = SubjectKey.parse(context.partition_key) if context.has_asset_partitions else GROUP
        store = self.store
        sidecar = store.write(asset, subject, obj.value, obj.provenance, obj.figure)
        self._keep(asset, subject, sidecar.data_version, obj.value)
        stored_bytes = sum(file.size for file in sidecar.files.values())
        context.add_output_metadata(
            {
                "path": MetadataValue.path(str(store.path(asset, subject))),
                "files": MetadataValue.json(list(sidecar.files)),
                "stored_mb": MetadataValue.float(round(stored_bytes / 1e6, 3)),
            }
        )

    def load_input(self, context: InputContext) -> Any:
        """The value, or a promise of it. Raises Lost, or StoreError where the store itself cannot be used."""
        return loaded_or_deferred(context, self._load, observed=False)

    def promised(self, asset: str, subject: str, known: Recorded) -> Deferred:
        """A derivative that the event log knows, to be loaded when it is asked for."""
        return Deferred(asset, subject, known, lambda: self._load(asset, subject, known))

    def holds(self, asset: str, subject: StoreKey, version: str) -> bool:
        """Whether the store has this version of a derivative, by its sidecar."""
        return self.store.holds(asset, subject, version)

    def _load(self, asset: str, partition: str | None, known: Recorded | None) -> Value:
        subject = GROUP if partition is None else SubjectKey.parse(partition)
        if known is None:
            raise StoreError(
                f"{asset} of {subject} has not been made. "
                f"Make it with: kwneuro-assets run {subject.option}--select {asset}"
            )
        kept = self._kept.get((asset, str(subject), known.data_version))
        if kept is not None:
            return kept
        try:
            value, sidecar = self.store.read(asset, subject)
        except (Damaged, Missing) as error:
            raise Lost(str(error)) from None
        if sidecar.data_version != known.data_version:
            raise Lost(
                f"{asset} of {subject}: the store {self.url} holds version {sidecar.data_version[:12]}, the event log "
                f"says {known.data_version[:12]}: a run ended between the two, or the store was changed by another "
                f"instance. Make it again with: kwneuro-assets run {subject.option}--select {asset}"
            )
        self._keep(asset, subject, known.data_version, value)
        return value

    def _keep(self, asset: str, subject: StoreKey, version: str, value: Value) -> None:
        self._kept[(asset, str(subject), version)] = value
        held = [key for key, kept in self._kept.items() if _bytes(kept)]
        while held and sum(map(_bytes, self._kept.values())) > self.cache_gb * 1e9:
            del self._kept[held.pop(0)]


def _bytes(value: Value) -> int:
    if isinstance(value, Dwi):
        return value.array.nbytes if isinstance(value.volume, Volume) else 0
    if isinstance(value, Volume):
        return value.array.nbytes
    if isinstance(value, MapSet):
        return sum(volume.array.nbytes for volume in value.values())
    return 0
