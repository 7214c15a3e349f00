"""Files of one derivative, compared with their sidecar while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from upath import UPath

from kwneuro_assets.storage.files import Fingerprint, Opened, Replaced, digested, drain, fingerprint_of, opened
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.retries import StorageError
from kwneuro_assets.storage.sidecar import StoredFile
from kwneuro_assets.storage.store_errors import Damaged, StoreError

Verify = Literal["always", "first", "never"]
_T = TypeVar("_T")

READS = 7  # attempts to read a remote file whose bytes differ each time
_verified: set[tuple[str, str]] = set()  # paths and digests of files that this process has verified


class CheckedFiles:
    """The files of one derivative in `folder`, with size and sha256 as its sidecar has them in `stored`.

    `verify` says when a checksum is compared: always, the first time in this process, or never; sizes are always
    compared. `remedy` ends each error message.
    """

    def __init__(self, folder: UPath, stored: Mapping[str, StoredFile], verify: Verify, remedy: str) -> None:
        self._folder = folder
        self._stored = stored
        self._verify = verify
        self._remedy = remedy

    def decoded(self, name: str, decode: Callable[[Opened], Any]) -> Any:
        """The result of `decode` for a verified file. Raises Damaged."""
        known = (str(self._folder / name), self._stored_file(name).sha256)
        if self._verify == "never" or (self._verify == "first" and known in _verified):
            return self.header(name, decode)
        error: Exception | None = None
        with self._opened(name) as file, digested(file) as (read, digest):
            try:
                value = decode(read)
            except StorageError:
                raise
            except Exception as caught:  # a wrong checksum explains it better
                error = caught
            drain(read)
            sha256 = digest.close()
            if sha256 != known[1]:
                raise self._damaged(name, digest.size, sha256)
        if error is not None:
            raise error
        _verified.add(known)
        return value

    def header(self, name: str, decode: Callable[[Opened], Any]) -> Any:
        """The result of `decode` for a file whose size alone is checked. Raises Damaged."""
        with self._opened(name) as file:
            return decode(file)

    def rereader(
        self, name: str, read: Callable[[UPath, Fingerprint, Sequence[int]], Iterator[_T]]
    ) -> Callable[[Sequence[int]], Iterator[_T]]:
        """A function that calls `read` for the file as it is now, any number of times.

        Raises Damaged, also when the file has changed in the meantime.
        """
        path = self._folder / name
        fingerprint = fingerprint_of(path)

        def reread(chosen: Sequence[int]) -> Iterator[_T]:
            with self._reported(path):
                yield from read(path, fingerprint, chosen)

        return reread

    @contextmanager
    def _opened(self, name: str) -> Iterator[Opened]:
        path, stored = self._folder / name, self._stored_file(name)
        with self._reported(path), opened(path) as file:
            if file.size != stored.size:
                raise self._damaged(name, file.size)
            yield file

    @contextmanager
    def _reported(self, path: UPath) -> Iterator[None]:
        """Turn errors of a file into Damaged, with the remedy."""
        try:
            yield
        except FileNotFoundError:
            raise Damaged(f"{path}: its sidecar names it, but it is missing. {self._remedy}") from None
        except Replaced as error:
            raise Damaged(f"{error}. {self._remedy}") from None
        except OSError as error:
            raise Damaged(f"{path}: cannot be read ({error.strerror}). {self._remedy}") from None

    def _stored_file(self, name: str) -> StoredFile:
        if name not in self._stored:
            raise Damaged(f"{self._folder / name}: its sidecar does not name it. {self._remedy}")
        return self._stored[name]

    def _damaged(self, name: str, size: int, sha256: str = "") -> Damaged:
        stored = self._stored_file(name)
        found = f"{size} with {sha256[:12]}..." if sha256 else f"{size} bytes"
        return Damaged(
            f"{self._folder / name}: expected {stored.size} bytes with sha256 {stored.sha256[:12]}..., found {found}. "
            f"{self._remedy}"
        )


def with_rereads(root: UPath, read: Callable[[], _T]) -> _T:
    """The result of `read`, repeated on StoreError where a network may have corrupted the bytes."""
    for left in reversed(range(1 if is_local(root) else READS)):
        try:
            return read()
        except StoreError:
            if not left:
                raise
    raise AssertionError("unreachable")
