"""Writing the files of one derivative so that none of them is seen before all of them are safe.

A stage takes files under no visible name; `commit` makes them visible one by one. While it lasts, no other process
writes the same derivative, so whatever else lies unfinished beside it was left by one that ended, and is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol

from upath import UPath

from kwneuro_assets.storage.files import Digest
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.sidecar import StoredFile

Writer = Callable[[IO[bytes]], object]
Owns = Callable[[str], bool]

WRITERS = 2  # files of one derivative that are written at once, so that one is sent while the next is compressed
_WITHOUT_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF})


class Stage(Protocol):
    """Files of one folder on their way. Several threads may write at once."""

    def write(self, name: str, writer: Writer) -> StoredFile:
        """Take what `writer` writes, unseen as yet; replaces what an earlier call took for this name."""

    def commit(self, name: str) -> None:
        """Make it the file of this name, at once and whole."""

    def remove(self, name: str) -> None:
        """Remove a file that is seen; there need not be one."""

    def require_alone(self) -> None:
        """Raise StorageError where another process has taken over."""


def staged(folder: UPath, mark: str, owns: Owns) -> AbstractContextManager[Stage]:
    """A stage for the files of `folder` whose names `owns` tells, known to all processes by the name `mark`.

    Waits while another process has one. Raises StorageError, or OSError for a local folder.
    """
    if is_local(folder):
        return _local_stage(Path(str(folder)), mark, owns)
    from kwneuro_assets.storage.remote_staging import remote_stage

    return remote_stage(folder, mark, owns)


def write_whole(path: UPath, content: bytes) -> None:
    """Write or replace one small file at once. Raises StorageError, or OSError for a local one."""
    with staged(path.parent, path.name, lambda name: name == path.name) as stage:
        stage.write(path.name, lambda file: file.write(content))
        stage.commit(path.name)


class DigestedWriter:
    """A stream that hands on what is written to it and digests it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._digest = Digest()

    def write(self, block: bytes | memoryview) -> int:
        held = bytes(block)  # a view may change before it is digested; bytes are not copied
        self._digest.feed(held)
        self._write(held)
        return len(held)

    def flush(self) -> None:
        """There is nothing to flush: every block is handed on."""

    def close(self) -> StoredFile:
        return StoredFile(self._digest.size, self._digest.close())


class _LocalStage:
    """Temporary files beside their places."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._token = secrets.token_hex(6)
        self._temporary: dict[str, Path] = {}

    def write(self, name: str, writer: Writer) -> StoredFile:
        path = self._temporary[name] = self._folder / f".{name}.{self._token}.tmp"
        with path.open("wb") as file:
            digested = DigestedWriter(file.write)
            try:
                writer(digested)  # type: ignore[arg-type]  # a write-only stream is all a writer needs
            finally:
                stored = digested.close()
            file.flush()
            os.fsync(file.fileno())
        return stored

    def commit(self, name: str) -> None:
        self._temporary.pop(name).replace(self._folder / name)
        self._sync()

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def require_alone(self) -> None:
        """The lock is the kernel's and cannot be lost."""

    def discard(self) -> None:
        for path in self._temporary.values():
            path.unlink(missing_ok=True)

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _local_stage(folder: Path, mark: str, owns: Owns) -> Iterator[Stage]:
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f".{mark}.lock") as alone:
        if alone:
            for path in folder.glob(".*.tmp"):
                if owns(path.name[1:].rsplit(".", 2)[0]):
                    path.unlink(missing_ok=True)
        stage = _LocalStage(folder)
        try:
            yield stage
        finally:
            stage.discard()


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Holds a lock that the kernel releases with the process; False where the file system has none.

    The file is removed at the end, so a waiter may get the lock of a file that is no longer there: it tries again.
    """
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            alone = _flocked(descriptor)
            if not alone or os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield alone
    finally:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _flocked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            return False
        raise
    return True
