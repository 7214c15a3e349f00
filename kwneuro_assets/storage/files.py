"""Reading files wherever they lie: listed, whole, or as a stream that is fetched ahead in parallel."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from upath import UPath

from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.patience import Passing, StorageError, answered, patiently

FIRST_BLOCK = 1 << 20
BLOCK = 28 << 20  # bytes of one request; files that are read at once share them
AHEAD = 2  # blocks that are asked for before they are needed: 56 MB, twice that while they arrive
_BUFFER = 1 << 20
_HASHED_AHEAD = 8  # blocks that wait for their digest


class Replaced(StorageError):
    """A file is by now another one than when it was opened."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a listing tells of a file's content without reading it: where it is the same, so is the content.

    `tag` is the ETag of a remote file, which follows its content; of a local one its dates. `changed` is when it was
    last written, seconds since 1970; of a local file by the date that no program can set back; 0 where nothing is told.
    """

    size: int
    tag: str
    changed: float = field(compare=False)


@dataclass(frozen=True)
class Listing:
    """The names in a folder, sorted, and the stamps of its files; links count as what they lead to."""

    files: Mapping[str, Stamp] = field(default_factory=dict)
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opened:
    """A file that is read from its start to its end: the stream, its size in bytes, and its path in words."""

    stream: io.BufferedReader[Any]
    size: int
    where: str


def listing(folder: Path | UPath) -> Listing:
    """What lies in `folder`; nothing where there is no such folder. Raises StorageError, or OSError for a local one."""
    return _local_listing(Path(str(folder))) if is_local(folder) else _remote_listing(UPath(folder))


def read_bytes(path: Path | UPath) -> bytes:
    """A file that fits in memory. Raises FileNotFoundError, StorageError, or OSError for a local one."""
    if is_local(path):
        return path.read_bytes()
    remote = UPath(path)

    def once() -> bytes:
        try:
            return bytes(remote.fs.cat_file(remote.path, start=0))  # without a start, s3fs asks for the size first
        except OSError as error:
            if answered(error) == "InvalidRange":  # an empty file has no byte to start at
                return b""
            raise

    return patiently(remote, once)


@contextmanager
def opened(path: Path | UPath) -> Iterator[Opened]:
    """The file as a stream. Raises as `read_bytes` does, while it is read, too."""
    if is_local(path):
        with open(str(path), "rb") as file:
            yield Opened(file, os.fstat(file.fileno()).st_size, str(path))
        return
    ranges = _RangeStream(UPath(path))
    with io.BufferedReader(ranges, _BUFFER) as stream:
        yield Opened(stream, ranges.size, str(path))


class Digest:
    """The sha256 and the size of what is fed, worked out in a thread beside the one that feeds."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._waiting: deque[Future[None]] = deque()

    def feed(self, block: bytes) -> None:
        self.size += len(block)
        self._waiting.append(self._worker.submit(self._sha256.update, block))
        if len(self._waiting) > _HASHED_AHEAD:
            self._waiting.popleft().result()

    def close(self) -> str:
        """The sha256, 64 hex digits; nothing can be fed afterwards."""
        self._worker.shutdown()
        return self._sha256.hexdigest()


@contextmanager
def digested(file: Opened) -> Iterator[tuple[Opened, Digest]]:
    """The same file, with the digest of what is read of it."""
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
    """Read on to the file's end."""
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
    """A remote file, fetched in blocks by parallel requests, a few ahead of the reader."""

    _open = 0  # streams of this process
    _counting = threading.Lock()

    def __init__(self, path: UPath) -> None:
        self._path = path
        self.size = int(patiently(path, lambda: path.fs.info(path.path))["size"])
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
            self._block = memoryview(b"")  # lets go of the one that is used up
            is_first = not self._ahead
            self._ask_ahead()
            if not self._fetched:
                return 0
            self._block = memoryview(self._fetched.popleft().result())
            if not is_first:  # which may be all that a reader of the header wants
                self._ask_ahead()
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

    def _ask_ahead(self) -> None:
        self._ahead = min(self._ahead + 1, AHEAD)
        while len(self._fetched) < self._ahead and (block := next(self._ranges, None)) is not None:
            self._fetched.append(self._pool.submit(self._fetch, *block))

    def _growing_ranges(self) -> Iterator[tuple[int, int]]:
        """Start and end of each block: small ones first, for a reader who wants no more than a header."""
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
                    raise Replaced(f"{self._path}: was replaced while it was read")
                raise Passing(f"{len(block)} bytes came in place of {end - start}")
            return block

        return patiently(self._path, once)


def _local_listing(folder: Path) -> Listing:
    files, folders = dict[str, Stamp](), list[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if _is_folder(entry):
                    folders.append(entry.name)
                else:
                    files[entry.name] = _local_stamp(entry)
    except (FileNotFoundError, NotADirectoryError):
        return Listing()
    return Listing(files, tuple(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def stamp_of(path: Path | UPath) -> Stamp:
    """The stamp of one file, as `listing` gives it. Raises StorageError."""
    if is_local(path):
        return _local_stamp(Path(str(path)))
    try:
        return remote_stamp(patiently(path, lambda: UPath(path).fs.info(UPath(path).path)))
    except FileNotFoundError:
        return Stamp(0, "", 0)


def _local_stamp(entry: os.DirEntry[str] | Path) -> Stamp:
    try:
        told = entry.stat()
    except OSError:  # a link that leads nowhere, or a file that is gone since
        return Stamp(0, "", 0)
    return Stamp(told.st_size, f"{told.st_mtime_ns}/{told.st_ctime_ns}", told.st_ctime)


def remote_stamp(entry: Mapping[str, Any]) -> Stamp:
    """The stamp of a file by what fsspec, or S3 itself, tells of it."""
    when = next((entry[key] for key in _WHEN if isinstance(entry.get(key), datetime | float)), 0)
    changed = when.timestamp() if isinstance(when, datetime) else float(when)
    tag = str(entry.get("ETag") or entry.get("etag") or entry.get("md5Hash") or "").strip('"')
    return Stamp(int(entry.get("size") or entry.get("Size") or 0), tag or f"{changed}", changed)


_WHEN = ("LastModified", "last_modified", "updated", "mtime", "created")  # as the file systems of fsspec name it


def _remote_listing(folder: UPath) -> Listing:
    try:
        entries = patiently(folder, lambda: folder.fs.ls(folder.path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return Listing()
    own = folder.path.rstrip("/")
    # S3 may list the folder itself: an empty object that some tools make in place of one.
    inside = [entry for entry in entries if entry["name"].rstrip("/") != own]
    named = sorted(
        ((entry["name"].rstrip("/").rsplit("/", 1)[-1], entry) for entry in inside), key=lambda pair: pair[0]
    )
    return Listing(
        {name: remote_stamp(entry) for name, entry in named if entry["type"] != "directory"},
        tuple(name for name, entry in named if entry["type"] == "directory"),
    )
