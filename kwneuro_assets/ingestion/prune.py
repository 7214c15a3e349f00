"""Removing what is no longer in the source: never by itself, only when a person says so."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dagster import DagsterInstance

from kwneuro_assets.cohort import status_of
from kwneuro_assets.ingestion.dataset import gone_from
from kwneuro_assets.ingestion.ledger import Ledger, turn
from kwneuro_assets.ingestion.plain import open_dataset
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import PARTITIONS, SubjectKey
from kwneuro_assets.versioning.cohort import under_way


@dataclass(frozen=True)
class Gone:
    """A partition whose subject is not in the source, and its derivatives that are in the store; `busy` where a run of
    it waits or works, so that it cannot be removed now."""

    subject: str
    derivatives: tuple[str, ...]
    busy: bool = False


def find_gone(
    instance: DagsterInstance, settings: PipelineSettings, store: DerivativeStore, only: Collection[str] = ()
) -> list[Gone]:
    """The partitions, or those in `only`, whose subjects are no longer in the source.

    Raises SourceError where the source cannot be read or holds no subject at all, as a disk that is not there does,
    StoreError where the store cannot be used, and SourceError for one of `only` that is still there.
    """
    subjects, refused = open_dataset(settings.source).subjects()
    if not subjects:
        raise SourceError(f"the source {settings.source.url} holds no subject at all: is its disk there?")
    gone = gone_from(instance.get_dynamic_partitions(PARTITIONS), subjects, refused)
    still = sorted(set(only) - set(gone))
    if still:
        raise SourceError(f"{', '.join(still)}: not among the {len(gone)} subjects that are gone from the source")
    wanted = [key for key in gone if not only or key in only]
    states = status_of(instance, settings, wanted)
    return [Gone(key, tuple(store.assets(SubjectKey.parse(key))), under_way(states[key])) for key in wanted]


def remove_gone(
    instance: DagsterInstance, settings: PipelineSettings, store: DerivativeStore, gone: Collection[Gone]
) -> None:
    """Remove the derivatives of these subjects from the store, then their partitions.

    What Dagster has recorded of them stays in its event log; a subject that comes back begins anew all the same. Where
    it is interrupted, the partition is still there and so told by the next `find_gone`.
    """
    with turn(instance, wait=lambda number: True) as keep_turn:
        assert keep_turn is not None
        ledger = Ledger(instance, settings)
        for one in gone:
            keep_turn()
            subject = SubjectKey.parse(one.subject)
            for asset in one.derivatives:
                store.remove(asset, subject)
            instance.delete_dynamic_partition(PARTITIONS, one.subject)
            ledger.forget([one.subject])
            ledger.save()
