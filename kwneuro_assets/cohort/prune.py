"""Removal of subjects that are no longer in the source. It only happens when the user asks for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from dagster import DagsterInstance

from kwneuro_assets.cohort.status import status_of
from kwneuro_assets.ingestion.custom_layout import open_dataset
from kwneuro_assets.ingestion.dataset import orphaned_subjects
from kwneuro_assets.ingestion.ingest_index import IngestIndex, ingest_lock
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.staleness import has_active_run


@dataclass(frozen=True)
class OrphanedSubject:
    """A partition whose subject is not in the source.

    Attributes:
        subject: The subject key.
        derivatives: Its derivatives in the store.
        busy: Whether a run of it is queued or running, so that it cannot be removed now.
    """

    subject: str
    derivatives: tuple[str, ...]
    busy: bool = False


def find_orphaned(
    instance: DagsterInstance, settings: PipelineSettings, store: DerivativeStore, only: Collection[str] = ()
) -> list[OrphanedSubject]:
    """The partitions, or those in `only`, whose subjects are no longer in the source.

    Raises SourceError if the source cannot be read, has no subject at all (as an unmounted disk), or still has one of
    `only`; StoreError if the store cannot be read.
    """
    orphaned = _orphaned_now(instance, settings)
    present = sorted(set(only) - set(orphaned))
    if present:
        raise SourceError(
            f"{', '.join(present)}: expected subjects that are no longer in the source, "
            f"found none of these among the {len(orphaned)} that can be removed"
        )
    wanted = [key for key in orphaned if not only or key in only]
    states = status_of(instance, settings, wanted)
    return [
        OrphanedSubject(key, tuple(store.assets(SubjectKey.parse(key))), has_active_run(states[key])) for key in wanted
    ]


def remove_orphaned(
    instance: DagsterInstance,
    settings: PipelineSettings,
    store: DerivativeStore,
    orphaned: Collection[OrphanedSubject],
) -> list[OrphanedSubject]:
    """Remove the derivatives of these subjects from the store, then their partitions; returns the removed subjects.

    A subject whose run was queued or started meanwhile, or that is in the source again, is not removed. Dagster's event
    log retains the events of removed subjects; a subject that is added again starts without them. If this is
    interrupted, the partition still exists, and `find_orphaned` returns the subject again. Raises SourceError as
    `find_orphaned` does, and StoreError if the store cannot be changed.
    """
    removed = []
    with ingest_lock(instance, wait=lambda attempt: True) as heartbeat:
        assert heartbeat is not None
        still_orphaned = set(_orphaned_now(instance, settings))  # an ingest may have run since they were listed
        index = IngestIndex(instance, settings)
        for one in orphaned:
            heartbeat()
            states = status_of(instance, settings, [one.subject])[one.subject]
            if one.subject not in still_orphaned or has_active_run(states):
                continue
            subject = SubjectKey.parse(one.subject)
            derivatives = tuple(store.assets(subject))  # including those of a run that ended after they were listed
            for asset in derivatives:
                store.remove(asset, subject)
            instance.delete_dynamic_partition(PARTITIONS, one.subject)
            index.forget([one.subject])
            index.save()
            removed.append(replace(one, derivatives=derivatives))
    return removed


def _orphaned_now(instance: DagsterInstance, settings: PipelineSettings) -> list[str]:
    """The partitions whose subjects are not in the source, sorted."""
    subjects, refused = open_dataset(settings.source).subjects()
    if not subjects:
        raise SourceError(
            f"the source {settings.source.url}: expected at least one subject, found none. Is its disk mounted?"
        )
    return orphaned_subjects(instance.get_dynamic_partitions(PARTITIONS), subjects, refused)
