"""Inputs that are loaded on request: a step that is up to date loads none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster import InputContext

from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.versioning.records import Recorded, recorded

DEFERRED: Mapping[str, bool] = {"kwneuro/deferred": True}  # metadata of an asset's input that requests a `Deferred`


@dataclass(frozen=True)
class Deferred:
    """An input that is not loaded yet.

    `asset` and `partition` (None for the group) identify it, `known` is its newest record in the event log (None if
    there is none), and `load` returns the value of that record.
    """

    asset: str
    partition: str | None
    known: Recorded | None
    load: Callable[[], Value]


def loaded_or_deferred(
    context: InputContext, load: Callable[[str, str | None, Recorded | None], Value], *, observed: bool
) -> Any:
    """What an I/O manager passes to a step: the value, or a `Deferred` if the metadata of the step's input requests it.

    `load` takes the asset, its partition and its newest record. Both forms use the record of this moment, whatever is
    recorded before the value is loaded.
    """
    asset = context.asset_key.to_user_string()
    partition = context.partition_key if context.has_asset_partitions else None
    known = recorded(context.instance, asset, partition, observed=observed)
    deferred = Deferred(asset, partition, known, lambda: load(asset, partition, known))
    metadata = context.definition_metadata or {}
    return deferred if metadata.keys() >= DEFERRED.keys() else deferred.load()
