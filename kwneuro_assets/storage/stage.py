"""The protocol of a stage: files of one derivative that stay invisible until they are committed.

`staging.staged` opens a stage; `local_staging` and `remote_staging` implement it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Protocol

from kwneuro_assets.storage.files import Digest
from kwneuro_assets.storage.sidecar import StoredFile

Writer = Callable[[IO[bytes]], object]
Owns = Callable[[str], bool]

WRITERS = 2  # files of one derivative written concurrently: one is sent while the next is compressed


class Stage(Protocol):
    """Uncommitted files of one folder. Its methods may be called from several threads."""

    def write(self, name: str, writer: Writer) -> StoredFile:
        """Size and sha256 of what `writer` writes. Replaces an earlier uncommitted file of this name."""

    def commit(self, name: str) -> None:
        """Make the file visible under its name, atomically and complete."""

    def remove(self, name: str) -> None:
        """Remove a visible file. Does nothing if there is none."""

    def require_lock(self) -> None:
        """Raises StorageError if another process has taken over the lock."""


def write_digested(writer: Writer, write: Callable[[bytes], object]) -> StoredFile:
    """Size and sha256 of what `writer` writes; each block is passed on to `write`."""
    stream = DigestedWriter(write)
    try:
        writer(stream)  # type: ignore[arg-type]  # a write-only stream is all that a writer needs
    finally:
        stored = stream.close()
    return stored


class DigestedWriter:
    """A write-only stream that passes each block on and digests it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._digest = Digest()

    def write(self, block: bytes | memoryview) -> int:
        content = bytes(block)  # a view may change before it is digested; bytes are not copied
        self._digest.feed(content)
        self._write(content)
        return len(content)

    def flush(self) -> None:
        """Does nothing: every block is passed on at once."""

    def close(self) -> StoredFile:
        return StoredFile(self._digest.size, self._digest.close())
