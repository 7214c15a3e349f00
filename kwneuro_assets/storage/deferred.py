"""Inputs that are loaded when they are asked for: a step that turns out to be fresh asks for none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dagster import InputContext

from kwneuro_assets.versioning.content import Value

DEFERRED: Mapping[str, bool] = {"kwneuro/deferred": True}  # metadata of an asset's input that is to be one


@dataclass(frozen=True)
class Deferred:
    """An input that is not loaded yet."""

    load: Callable[[], Value]


def loaded_or_deferred(context: InputContext, load: Callable[[], Value]) -> Any:
    """What an I/O manager gives to a step: the value, or a promise of it where the step's input asks for that."""
    wanted = context.definition_metadata or {}
    return Deferred(load) if wanted.keys() >= DEFERRED.keys() else load()
