"""Diffusion MRI derivatives as Dagster assets: versioned, partitioned by subject, for cohorts of thousands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kwneuro_assets.versioning.content import Value

__version__ = "0.1.0"


def load(asset: str, subject: str) -> Value:
    """What an asset stored for a subject: `load("dti", "sub-01")["fa"].array`.

    Reads the store that KWNEURO_STORE or the settings name, and compares every file with its checksum.
    Returns a Volume, Dwi, MapSet, ResponseFunction, or NotApplicable. Raises StoreError where the derivative is
    missing or damaged, InvalidData for a subject that is no BIDS key, KeyError for an asset that does not exist.
    """
    from kwneuro_assets.settings import load_settings
    from kwneuro_assets.storage.names import NAMES
    from kwneuro_assets.storage.store import DerivativeStore
    from kwneuro_assets.subjects import SubjectKey

    if asset not in NAMES:
        raise KeyError(f"no asset {asset!r}; there are {', '.join(NAMES)}")
    return DerivativeStore(load_settings().store.url).read(asset, SubjectKey.parse(subject))[0]
