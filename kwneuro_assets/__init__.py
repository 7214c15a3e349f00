"""Diffusion MRI derivatives as Dagster assets: versioned, partitioned by subject, for cohorts of thousands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kwneuro_assets.derivations.tensor_order import tensor_in as tensor_in
    from kwneuro_assets.imaging.content_hash import Value
    from kwneuro_assets.storage.store import DerivativeStore
    from kwneuro_assets.subjects import StoreKey

__version__ = "0.1.0"

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # Imported on first use, so that `import kwneuro_assets` loads no NumPy.
        if name == "tensor_in":
            from kwneuro_assets.derivations.tensor_order import tensor_in

            return tensor_in
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(asset: str, subject: str, *, maps: Sequence[str] | None = None, volumes: range | None = None) -> Value:
    """The stored value of a derivative of a subject, or a part of it; of the group for `subject="group"`.

    Returns a Volume, Segmentation, Dwi, MapSet, ResponseFunction, TissueResponses, RigidTransform, Table, Report, or
    NotApplicable: `load("dti", "sub-01", maps=["fa"])["fa"].array`, `load("group_response", "group")`.

    `maps` selects maps of a MapSet. `volumes` selects volumes of a 4-D image, in the order of the range, and returns a
    Volume (for a Dwi, too); the file is decompressed only up to the last of them. A Dwi of more than 2 GB stays in its
    file: `images()` and `signals()` read what they need, `array` reads all of it.

    The store is that of `KWNEURO_STORE` or of the settings, local or remote. Each file that is read is compared with
    its checksum, as `store.verify` says.

    Raises StorageError if the derivative is missing or damaged or the store cannot be read; InvalidData for a subject
    that is not a BIDS key, for a group asset requested for a subject or the reverse, and for a part that does not
    exist; KeyError for an unknown asset.
    """
    from kwneuro_assets.storage.codecs import Part

    part = Part(None if maps is None else tuple(maps), volumes)
    return _store().read(*_checked_key(asset, subject), part)[0]


def grid(asset: str, subject: str) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine (4 x 4, voxel indices to scanner RAS+ in mm) of a stored image, read from its header.

    Raises as `load` does; damage to the file is detected only if its size differs.
    """
    return _store().grid(*_checked_key(asset, subject))


def _store() -> DerivativeStore:
    from kwneuro_assets.settings import load_settings
    from kwneuro_assets.storage.store import DerivativeStore

    settings = load_settings().store
    return DerivativeStore(settings.url, verify=settings.verify)


def _checked_key(asset: str, key: str) -> tuple[str, StoreKey]:
    from kwneuro_assets.storage.names import NAMES, require_fitting
    from kwneuro_assets.subjects import parse_key

    if asset not in NAMES:
        raise KeyError(f"unknown asset {asset!r}: expected one of {', '.join(NAMES)}")
    subject = parse_key(key)
    require_fitting(asset, subject)
    return asset, subject
