"""The errors of the store, each with the file and the command that repairs it."""

from __future__ import annotations

from kwneuro_assets.storage.retries import StorageError
from kwneuro_assets.subjects import StoreKey


class StoreError(StorageError):
    """The store cannot be used, or its content does not match a sidecar."""


class Damaged(StoreError):
    """A file does not match its sidecar."""


class Missing(StoreError):
    """A derivative is not in the store."""


def remedy(asset: str, subject: StoreKey) -> str:
    """The command that computes a derivative, for the end of an error message."""
    return f"Materialize it with: kwneuro-assets run {subject.option}--select {asset}"
