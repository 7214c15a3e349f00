"""Read local and remote files: listings, complete files, and streams whose blocks are fetched ahead in parallel."""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from upath import UPath

from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.retries import StorageError, TransientError, answered, with_retries

FIRST_BLOCK = 1 << 20
BLOCK = 28 << 20  # bytes of one request; shared by the files that are read concurrently
AHEAD = 2  # blocks requested before they are needed: 56 MB, twice that while they arrive
_BUFFER = 1 << 20
_HASHED_AHEAD = 8  # blocks waiting for their digest


class Replaced(StorageError):
    """A file was replaced after it was opened."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Size, tag and time of a file, as a listing gives them without reading it: equal ones mean equal content.

    `tag` is the ETag of a remote file, which depends on its content, or mtime and ctime of a local file. `changed` is
    the time of the last write, in seconds since 1970: for a local file the ctime, which no program can set back; 0 if
    it is unknown.
    """

    size: int
    tag: str
    changed: float = field(compare=False)


class NotFetched(NamedTuple):
    """Content that was not fetched: what is there instead, and the command that fetches it."""

    found: str
    remedy: str


_GIT_LFS = NotFetched("a Git LFS pointer", "Fetch the file itself with: git lfs pull")
_GIT_ANNEX = NotFetched("a git-annex pointer", "Fetch the file itself with: git annex get")
# An unlocked file (/annex/objects/KEY), or the link of a locked one that was written as text.
_ANNEX_OBJECT = re.compile(r"[\w.\-+ :/\\]*[/\\]annex[/\\]objects[/\\]", re.ASCII)
_POINTER = 4096  # bytes searched for the path in a pointer


def pointer_kind(start: bytes) -> NotFetched | None:
    """The kind of pointer file (Git LFS or git-annex) that starts with these bytes (1 kB suffices), None for others."""
    text = start[:_POINTER].removeprefix(b"\xef\xbb\xbf").lstrip().decode("latin-1")
    if text.startswith("version https://git-lfs.github.com/spec/"):
        return _GIT_LFS
    return _GIT_ANNEX if _ANNEX_OBJECT.match(text) else None


def missing_content(path: Path | UPath | str) -> NotFetched | None:
    """What a broken link is, if it is a link of git-annex to content that was not fetched; else None."""
    if not os.path.lexists(str(path)) or os.path.exists(str(path)):
        return None
    target = os.path.realpath(str(path))
    return _GIT_ANNEX._replace(found="a git-annex link without its content") if _ANNEX_OBJECT.match(target) else None


@dataclass(frozen=True)
class Listing:
    """The sorted names in a folder, and the fingerprints of its files. Links count as their targets."""

    files: Mapping[str, Fingerprint] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opened:
    """A file that is read from start to end: the stream, its size in bytes, and its path for messages."""

    stream: io.BufferedReader[Any]
    size: int
    where: str


def listing(folder: Path | UPath) -> Listing:
    """The content of `folder`, empty if there is no such folder. Raises StorageError, or OSError for a local one."""
    return _local_listing(Path(str(folder))) if is_local(folder) else _remote_listing(UPath(folder))


def read_bytes(path: Path | UPath) -> bytes:
    """The content of a file. Raises FileNotFoundError, StorageError, or OSError for a local file."""
    if is_local(path):
        return path.read_bytes()
    remote = UPath(path)

    def once() -> bytes:
        try:
            return bytes(remote.fs.cat_file(remote.path, start=0))  # without a start, s3fs requests the size first
        except OSError as error:
            if answered(error) == "InvalidRange":  # an empty file has no first byte
                return b""
            raise

    return with_retries(remote, once)


@contextmanager
def opened(path: Path | UPath) -> Iterator[Opened]:
    """The file as a stream. Raises as `read_bytes` does, also while it is read."""
    if is_local(path):
        with open(str(path), "rb") as file:
            yield Opened(file, os.fstat(file.fileno()).st_size, str(path))
        return
    ranges = _RangeStream(UPath(path))
    with io.BufferedReader(ranges, _BUFFER) as stream:
        yield Opened(stream, ranges.size, str(path))


class Digest:
    """The sha256 and the size of the bytes that are fed, computed in a thread of its own."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._pending: deque[Future[None]] = deque()

    def feed(self, block: bytes) -> None:
        self.size += len(block)
        self._pending.append(self._worker.submit(self._sha256.update, block))
        if len(self._pending) > _HASHED_AHEAD:
            self._pending.popleft().result()

    def close(self) -> str:
        """The sha256, 64 hex digits. Nothing can be fed afterwards."""
        self._worker.shutdown()
        return self._sha256.hexdigest()


@contextmanager
def digested(file: Opened) -> Iterator[tuple[Opened, Digest]]:
    """The same file, with the digest of the bytes that are read from it."""
    digest = Digest()
    try:
        yield Opened(io.BufferedReader(_DigestedStream(file.stream, digest), _BUFFER), file.size, file.where), digest
    finally:
        digest.close()


def file_sha256(path: Path | UPath) -> str:
    """The sha256, 64 hex digits, of a file's bytes. Raises as `read_bytes` does."""
    with opened(path) as file, digested(file) as (read, digest):
        drain(read)
        return digest.close()


def drain(file: Opened) -> None:
    """Read to the end of the file."""
    while file.stream.read(_BUFFER):
        pass


class _DigestedStream(io.RawIOBase):
    def __init__(self, stream: io.BufferedReader[Any], digest: Digest) -> None:
        self._stream = stream
        self._digest = digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(min(len(buffer), _BUFFER))
        buffer[: len(block)] = block
        self._digest.feed(block)
        return len(block)


class _RangeStream(io.RawIOBase):
    """A remote file, fetched in blocks by parallel requests ahead of the reader."""

    _open = 0  # streams open in this process
    _counting = threading.Lock()

    def __init__(self, path: UPath) -> None:
        self._path = path
        self.size = int(with_retries(path, lambda: path.fs.info(path.path))["size"])
        self._ranges = self._growing_ranges()
        self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="fetch")
        self._fetched: deque[Future[bytes]] = deque()
        self._block = memoryview(b"")
        self._ahead = 0
        self._count(1)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._block:
            self._block = memoryview(b"")  # frees the block that is used up
            is_first = not self._ahead
            self._request_ahead()
            if not self._fetched:
                return 0
            self._block = memoryview(self._fetched.popleft().result())
            if not is_first:  # a reader of the header may need no more than the first block
                self._request_ahead()
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(cancel_futures=True)
            self._count(-1)
        super().close()

    @classmethod
    def _count(cls, change: int) -> None:
        with cls._counting:
            cls._open += change

    def _request_ahead(self) -> None:
        self._ahead = min(self._ahead + 1, AHEAD)
        while len(self._fetched) < self._ahead and (block := next(self._ranges, None)) is not None:
            self._fetched.append(self._pool.submit(self._fetch, *block))

    def _growing_ranges(self) -> Iterator[tuple[int, int]]:
        """Start and end of each block: small ones first, for readers of the header alone."""
        start, step = 0, min(FIRST_BLOCK, BLOCK)
        while start < self.size:
            yield start, min(start + step, self.size)
            start, step = start + step, min(4 * step, max(BLOCK // self._open, FIRST_BLOCK))

    def _fetch(self, start: int, end: int) -> bytes:
        def once() -> bytes:
            try:
                block = bytes(self._path.fs.cat_file(self._path.path, start=start, end=end))
            except OSError as error:
                if answered(error) != "InvalidRange":
                    raise
                block = b""
            if len(block) != end - start:
                if int(self._path.fs.info(self._path.path)["size"]) != self.size:
                    raise Replaced(f"{self._path}: was replaced while it was being read")
                raise TransientError(f"expected {end - start} bytes, received {len(block)}")
            return block

        return with_retries(self._path, once)


def _local_listing(folder: Path) -> Listing:
    files, folders = dict[str, Fingerprint](), list[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if _is_folder(entry):
                    folders.append(entry.name)
                else:
                    files[entry.name] = _local_fingerprint(entry)
    except (FileNotFoundError, NotADirectoryError):
        return Listing()
    return Listing(files, tuple(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


def fingerprint_of(path: Path | UPath) -> Fingerprint:
    """The fingerprint of one file, as `listing` gives it. Raises StorageError."""
    if is_local(path):
        return _local_fingerprint(Path(str(path)))
    try:
        return remote_fingerprint(with_retries(path, lambda: UPath(path).fs.info(UPath(path).path)))
    except FileNotFoundError:
        return Fingerprint(0, "", 0)


def _local_fingerprint(entry: os.DirEntry[str] | Path) -> Fingerprint:
    try:
        status = entry.stat()
    except OSError:  # a broken link, or a file that was removed in the meantime
        return Fingerprint(0, "", 0)
    return Fingerprint(status.st_size, f"{status.st_mtime_ns}/{status.st_ctime_ns}", status.st_ctime)


def remote_fingerprint(entry: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of a file, from its entry in a listing of fsspec or S3."""
    when = next((entry[key] for key in _WHEN if isinstance(entry.get(key), datetime | float)), 0)
    changed = when.timestamp() if isinstance(when, datetime) else float(when)
    tag = str(entry.get("ETag") or entry.get("etag") or entry.get("md5Hash") or "").strip('"')
    return Fingerprint(int(entry.get("size") or entry.get("Size") or 0), tag or f"{changed}", changed)


_WHEN = ("LastModified", "last_modified", "updated", "mtime", "created")  # names used by the file systems of fsspec


def _remote_listing(folder: UPath) -> Listing:
    try:
        entries = with_retries(folder, lambda: folder.fs.ls(folder.path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return Listing()
    own = folder.path.rstrip("/")
    # S3 may list the folder itself: an empty object that some tools create for it.
    inside = [entry for entry in entries if entry["name"].rstrip("/") != own]
    named = sorted(
        ((entry["name"].rstrip("/").rsplit("/", 1)[-1], entry) for entry in inside), key=lambda pair: pair[0]
    )
    return Listing(
        {name: remote_fingerprint(entry) for name, entry in named if entry["type"] != "directory"},
        tuple(name for name, entry in named if entry["type"] == "directory"),
    )
