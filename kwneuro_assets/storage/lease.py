"""A lock between processes whose only shared resource is a remote folder.

The holder writes a heartbeat to a file. A waiter takes over when the file has not changed for `LEASE` seconds by the
waiter's own clock; clocks of different machines are never compared. `filelock` and flock need a local or POSIX file
system, and S3's own conditional writes alone cannot detect a holder that ended.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from upath import UPath

from kwneuro_assets.storage.retries import StorageError, answered, with_retries

LEASE = 30.0  # seconds
HEARTBEAT = 7.0  # seconds between heartbeats: three may be late
POLL = 0.5  # seconds between two reads of a waiter
SETTLE = 1.0  # seconds after which two waiters that take over at the same time see which of them wrote last

_log = logging.getLogger(__name__)


class Lease:
    """A lock on the file `path`, identified by a random token."""

    def __init__(self, path: UPath) -> None:
        self._path = path
        self._token = secrets.token_hex(8).encode()
        self._heartbeats = 0

    def require(self) -> None:
        """Raises StorageError if another process has taken over the lock."""
        if not self._is_mine(self._read()):
            raise StorageError(
                f"{self._path.parent}: another process has taken over the lock, as this one wrote no heartbeat "
                f"for {LEASE:g} s: run again"
            )

    def acquire(self) -> None:
        """Wait for the lock and hold it. Raises StorageError."""
        seen: bytes | None = None
        unchanged_from = time.monotonic()
        while not self._create():
            content = self._read()
            if self._is_mine(content):  # the answer to our own request did not arrive
                return
            if content != seen:
                if seen is None:
                    _log.info("%s: waiting for another process that holds the lock", self._path.parent)
                seen, unchanged_from = content, time.monotonic()
            elif time.monotonic() - unchanged_from > LEASE:
                self.write_heartbeat()
                time.sleep(SETTLE)
                if self._is_mine(self._read()):
                    return
            time.sleep(POLL)

    def write_heartbeat(self) -> None:
        self._heartbeats += 1
        with_retries(self._path, lambda: self._path.fs.pipe_file(self._path.path, self._content()))

    def release(self) -> None:
        if self._is_mine(self._read()):
            with_retries(self._path, lambda: remove(self._path))

    def is_held(self) -> bool:
        return self._is_mine(self._read())

    def _create(self) -> bool:
        """Whether the file did not exist and was created by this process."""

        def once() -> bool:
            try:
                self._path.fs.pipe_file(self._path.path, self._content(), mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                code = answered(error)
                if code in ("PreconditionFailed", "412"):
                    return False
                if code in ("NotImplemented", "501"):  # no exclusive creation here: the last writer holds the lock
                    self._path.fs.pipe_file(self._path.path, self._content())
                    return True
                raise
            return True

        return with_retries(self._path, once)

    def _read(self) -> bytes | None:
        try:
            # Without a start, s3fs requests the size first.
            return bytes(with_retries(self._path, lambda: self._path.fs.cat_file(self._path.path, start=0)))
        except FileNotFoundError:
            return None

    def _content(self) -> bytes:
        # Three copies, as there is no checksum: one byte corrupted in transit does not hide the token.
        return b"%s %d\n" % (self._token, self._heartbeats) * 3

    def _is_mine(self, content: bytes | None) -> bool:
        return content is not None and self._token in content


@contextmanager
def leased(path: UPath) -> Iterator[Lease]:
    """Hold the lock on the file `path`. Raises StorageError."""
    lease = Lease(path)
    lease.acquire()
    ended = threading.Event()

    def write_heartbeats() -> None:
        while not ended.wait(HEARTBEAT):
            try:
                started = time.monotonic()
                if not lease.is_held():
                    return
                if time.monotonic() - started < HEARTBEAT:  # a process suspended in between reads again before writing
                    lease.write_heartbeat()
            except Exception as error:  # the holder notices at its next `require`
                _log.warning("%s: no heartbeat could be written: %s", path, error)

    heart = threading.Thread(target=write_heartbeats, name="lease", daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        ended.set()
        heart.join()
        lease.release()


def remove(path: UPath) -> None:
    """Remove a remote file. Does nothing if there is none."""
    with suppress(FileNotFoundError):
        path.fs.rm_file(path.path)
