"""Stages of local folders: temporary files beside their final names, renamed into place by `commit`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kwneuro_assets.storage.local_lock import locked
from kwneuro_assets.storage.sidecar import StoredFile
from kwneuro_assets.storage.stage import Owns, Stage, Writer, write_digested


@contextmanager
def local_stage(folder: Path, mark: str, owns: Owns) -> Iterator[Stage]:
    """See `staging.staged`. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f".{mark}.lock") as exclusive:
        if exclusive:
            for path in folder.glob(".*.tmp"):
                if owns(path.name[1:].rsplit(".", 2)[0]):
                    path.unlink(missing_ok=True)
        stage = _LocalStage(folder)
        try:
            yield stage
        finally:
            stage.discard()


def sync_folder(folder: Path) -> None:
    """Flush the entries of a local folder to disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _LocalStage:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._token = secrets.token_hex(6)
        self._temporary: dict[str, Path] = {}

    def write(self, name: str, writer: Writer) -> StoredFile:
        path = self._temporary[name] = self._folder / f".{name}.{self._token}.tmp"
        with path.open("wb") as file:
            stored = write_digested(writer, file.write)
            file.flush()
            os.fsync(file.fileno())
        return stored

    def commit(self, name: str) -> None:
        self._temporary.pop(name).replace(self._folder / name)
        sync_folder(self._folder)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def require_lock(self) -> None:
        """Does nothing: the kernel holds the lock as long as the process lives."""

    def discard(self) -> None:
        for path in self._temporary.values():
            path.unlink(missing_ok=True)
