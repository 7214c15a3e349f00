"""Operations on many subjects of a store: verify every checksum, copy subjects to another store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Sidecar
from kwneuro_assets.storage.store import Damaged, DerivativeStore, StoreError
from kwneuro_assets.subjects import StoreKey

OnProgress = Callable[[int, int], object]  # derivatives done, and their total

_COPIES = 1  # derivatives copied concurrently: each has several files in transfer, in both directions


@dataclass
class CheckResult:
    """The result: counts, and one message per problem with the file and the remedy.

    `intact` of the `derivatives` are as they were stored, with this number of `files`, sidecars included.
    """

    subjects: int = 0
    derivatives: int = 0
    intact: int = 0
    files: int = 0
    problems: list[str] = field(default_factory=list)


def verify_store(store: DerivativeStore, subjects: Collection[StoreKey], on_progress: OnProgress) -> CheckResult:
    """The result of comparing every file of these subjects, or of all, with its checksum.

    Raises StoreError if a subject is not in the store or the store is empty, StorageError if it cannot be read.
    """
    return _each(_present(store, subjects), None, store.check, on_progress, store.threads)


def export_subjects(
    store: DerivativeStore,
    target: DerivativeStore,
    subjects: Sequence[StoreKey],
    assets: Collection[str] | None,
    on_progress: OnProgress,
    *,
    split: bool = False,
) -> CheckResult:
    """The result of copying these `assets` of the subjects, or all that exist, to `target`.

    With `split`, each bundle also gets a file of its own. An asset that is missing is a problem. Raises as
    `verify_store` does.
    """
    present = _present(store, subjects)

    def copy(asset: str, subject: StoreKey) -> Sidecar:
        return store.export(asset, subject, target, split=split)

    found = _each(present, assets, copy, on_progress, _COPIES)
    found.problems += [
        str(store.missing(asset, subject))
        for subject, stored in present.items()
        for asset in assets or ()
        if asset not in stored and NAMES[asset].is_of(subject)
    ]
    return found


def _present(store: DerivativeStore, subjects: Collection[StoreKey]) -> dict[StoreKey, list[str]]:
    """The stored derivatives of these subjects, or of all."""
    wanted = subjects or store.keys()
    with ThreadPoolExecutor(store.threads, thread_name_prefix="store") as pool:
        present = dict(zip(wanted, pool.map(store.assets, wanted), strict=True))
    empty = [str(subject) for subject in subjects if not present[subject]]
    if empty:
        raise StoreError(f"the store {store.root} has no derivative of {', '.join(empty)}")
    if not any(present.values()):
        raise StoreError(f"the store {store.root} has no derivative")
    return present


def _each(
    present: Mapping[StoreKey, Sequence[str]],
    assets: Collection[str] | None,
    act: Callable[[str, StoreKey], Sidecar],
    on_progress: OnProgress,
    threads: int,
) -> CheckResult:
    todo = [
        (asset, subject) for subject, stored in present.items() for asset in stored if assets is None or asset in assets
    ]
    found = CheckResult(len({subject for _, subject in todo}), len(todo))

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
                found.intact += 1
                found.files += len(result.files) + 1  # its sidecar
            on_progress(done, len(todo))
    return found
