"""Diffusion MRI derivatives as Dagster assets: versioned, partitioned by subject, for cohorts of thousands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kwneuro_assets.storage.store import DerivativeStore
    from kwneuro_assets.subjects import SubjectKey
    from kwneuro_assets.versioning.content import Value

__version__ = "0.1.0"


def load(asset: str, subject: str, *, maps: Sequence[str] | None = None, volumes: range | None = None) -> Value:
    """What an asset stored for a subject, or a part of it: `load("dti", "sub-01", maps=["fa"])["fa"].array`.

    Reads the store that KWNEURO_STORE or the settings name, local or remote, and compares every file that it reads with
    its checksum, as `store.verify` says. Returns a Volume, Dwi, MapSet, ResponseFunction, Table, Report, or
    NotApplicable. `maps` chooses from a MapSet; `volumes` from a 4-D image, and gives a Volume, without decompressing
    what lies behind the last of them. A Dwi of more than 2 GB stays in its file: `images()` and `signals()` read
    from it what they need, `array` all of it.

    Raises StorageError where the derivative is missing or damaged or the store cannot be read, InvalidData for a
    subject that is no BIDS key and for a part that there is not, KeyError for an asset that does not exist.
    """
    from kwneuro_assets.storage.codecs import Part

    part = Part(None if maps is None else tuple(maps), volumes)
    return _store().read(_known(asset), _subject(subject), part)[0]


def grid(asset: str, subject: str) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine (4 x 4, voxel indices to scanner RAS+ in mm) of what an asset stored, from the header alone.

    Raises as `load` does; a damaged file is noticed by its size alone.
    """
    return _store().grid(_known(asset), _subject(subject))


def _store() -> DerivativeStore:
    from kwneuro_assets.settings import load_settings
    from kwneuro_assets.storage.store import DerivativeStore

    settings = load_settings().store
    return DerivativeStore(settings.url, verify=settings.verify)


def _known(asset: str) -> str:
    from kwneuro_assets.storage.names import NAMES

    if asset not in NAMES:
        raise KeyError(f"no asset {asset!r}; there are {', '.join(NAMES)}")
    return asset


def _subject(key: str) -> SubjectKey:
    from kwneuro_assets.subjects import SubjectKey

    return SubjectKey.parse(key)
