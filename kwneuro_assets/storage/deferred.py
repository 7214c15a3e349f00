"""Inputs that are loaded when they are asked for: a step that turns out to be fresh asks for none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster import InputContext

from kwneuro_assets.versioning.content import Value
from kwneuro_assets.versioning.records import Recorded, recorded

DEFERRED: Mapping[str, bool] = {"kwneuro/deferred": True}  # metadata of an asset's input that is to be one


@dataclass(frozen=True)
class Deferred:
    """An input that is not loaded yet: of which asset and partition (None where it has none), what the event log says
    of it, None where nothing, and how to load that."""

    asset: str
    partition: str | None
    known: Recorded | None
    load: Callable[[], Value]


def loaded_or_deferred(
    context: InputContext, load: Callable[[str, str | None, Recorded | None], Value], *, observed: bool
) -> Any:
    """What an I/O manager gives to a step: the value, or a promise of it where the step's input asks for that.

    `load` takes the asset, its partition and what the log says. Either way it is the value that the event log speaks
    of now, whatever is recorded by the time it is loaded.
    """
    asset = context.asset_key.to_user_string()
    partition = context.partition_key if context.has_asset_partitions else None
    known = recorded(context.instance, asset, partition, observed=observed)
    promise = Deferred(asset, partition, known, lambda: load(asset, partition, known))
    wanted = context.definition_metadata or {}
    return promise if wanted.keys() >= DEFERRED.keys() else promise.load()
