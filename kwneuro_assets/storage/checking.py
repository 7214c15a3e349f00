"""Whole stores at once: every checksum, and copies of subjects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.sidecar import Sidecar
from kwneuro_assets.storage.store import Damaged, DerivativeStore, StoreError
from kwneuro_assets.subjects import StoreKey
from kwneuro_assets.threads import thread_count

Tell = Callable[[int, int], object]  # derivatives done, and derivatives in all

_REMOTE_THREADS = 8  # requests wait for a network, not for a processor
_COPIES = 1  # derivatives that are copied at once: each has several files on their way, both down and up


@dataclass
class Found:
    """What was looked at; `problems` are sentences, each with the file and what to do.

    `whole` of the `derivatives` are as they were stored, with so many `files`, sidecars included.
    """

    subjects: int = 0
    derivatives: int = 0
    whole: int = 0
    files: int = 0
    problems: list[str] = field(default_factory=list)


def verify_store(store: DerivativeStore, subjects: Collection[StoreKey], tell: Tell) -> Found:
    """Compare every file of these subjects, or of all, with its checksum.

    Raises StoreError for a subject that is not in the store and where nothing is, StorageError for a store that cannot
    be read.
    """
    return _each(_present(store, subjects), None, store.check, tell, _threads(store))


def export_subjects(
    store: DerivativeStore,
    target: DerivativeStore,
    subjects: Sequence[StoreKey],
    assets: Collection[str] | None,
    tell: Tell,
) -> Found:
    """Copy these `assets` of the subjects, or all that there are, to `target`; one that is missing is a problem.

    Raises as `verify_store` does.
    """
    present = _present(store, subjects)
    found = _each(present, assets, lambda asset, subject: store.export(asset, subject, target), tell, _COPIES)
    found.problems += [
        str(store.missing(asset, subject))
        for subject, made in present.items()
        for asset in assets or ()
        if asset not in made
    ]
    return found


def _present(store: DerivativeStore, subjects: Collection[StoreKey]) -> dict[StoreKey, list[str]]:
    """The derivatives that there are of these subjects, or of all."""
    wanted = subjects or store.keys()
    with ThreadPoolExecutor(_threads(store), thread_name_prefix="store") as pool:
        present = dict(zip(wanted, pool.map(store.assets, wanted), strict=True))
    empty = [str(subject) for subject in subjects if not present[subject]]
    if empty:
        raise StoreError(f"nothing of {', '.join(empty)} is in the store {store.root}")
    if not any(present.values()):
        raise StoreError(f"there is no derivative in the store {store.root}")
    return present


def _each(
    present: Mapping[StoreKey, Sequence[str]],
    assets: Collection[str] | None,
    act: Callable[[str, StoreKey], Sidecar],
    tell: Tell,
    threads: int,
) -> Found:
    todo = [
        (asset, subject) for subject, made in present.items() for asset in made if assets is None or asset in assets
    ]
    found = Found(len({subject for _, subject in todo}), len(todo))

    def one(pair: tuple[str, StoreKey]) -> Sidecar | Damaged:
        try:
            return act(*pair)
        except Damaged as error:
            return error

    with ThreadPoolExecutor(threads, thread_name_prefix="store") as pool:
        for done, result in enumerate(pool.map(one, todo), 1):
            if isinstance(result, Damaged):
                found.problems.append(str(result))
            else:
                found.whole += 1
                found.files += len(result.files) + 1  # and its sidecar
            tell(done, len(todo))
    return found


def _threads(store: DerivativeStore) -> int:
    return thread_count() if is_local(store.root) else _REMOTE_THREADS
