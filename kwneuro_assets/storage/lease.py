"""A lock among processes that share nothing but a remote folder.

The holder keeps writing a file; one that has stopped writing it for `LEASE` seconds by the waiter's own clock has
ended, and the waiter takes it over. No clocks are compared.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from upath import UPath

from kwneuro_assets.storage.patience import StorageError, answered, patiently

LEASE = 30.0  # seconds
BEAT = 7.0  # seconds between two signs of life: three may be late
POLL = 0.5  # seconds between two looks of a waiter
SETTLE = 1.0  # seconds after which two waiters that take over at once see who came second, and holds it

_log = logging.getLogger(__name__)


class Lease:
    """A lock that is held, as far as is known."""

    def __init__(self, path: UPath) -> None:
        self._path = path
        self._token = secrets.token_hex(8).encode()
        self._beats = 0

    def require(self) -> None:
        """Raise StorageError where another process has taken it over."""
        if not self._is_mine(self._read()):
            raise StorageError(
                f"{self._path.parent}: another process has taken over writing here, as this one gave no sign of life "
                f"for {LEASE:g} s: run again"
            )

    def acquire(self) -> None:
        seen: bytes | None = None
        since = time.monotonic()
        while not self._create():
            content = self._read()
            if self._is_mine(content):  # the answer to our own request was lost
                return
            if content != seen:
                if seen is None:
                    _log.info("%s: waits for another process that writes there", self._path.parent)
                seen, since = content, time.monotonic()
            elif time.monotonic() - since > LEASE:
                self.beat()
                time.sleep(SETTLE)
                if self._is_mine(self._read()):
                    return
            time.sleep(POLL)

    def beat(self) -> None:
        self._beats += 1
        patiently(self._path, lambda: self._path.fs.pipe_file(self._path.path, self._content()))

    def release(self) -> None:
        if self._is_mine(self._read()):
            patiently(self._path, lambda: remove(self._path))

    def is_held(self) -> bool:
        return self._is_mine(self._read())

    def _create(self) -> bool:
        """Whether the file is new and ours."""

        def once() -> bool:
            try:
                self._path.fs.pipe_file(self._path.path, self._content(), mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                code = answered(error)
                if code in ("PreconditionFailed", "412"):
                    return False
                if code in ("NotImplemented", "501"):  # no exclusive creation here: the last to write it holds it
                    self._path.fs.pipe_file(self._path.path, self._content())
                    return True
                raise
            return True

        return patiently(self._path, once)

    def _read(self) -> bytes | None:
        try:
            # Without a start, s3fs asks for the size first.
            return bytes(patiently(self._path, lambda: self._path.fs.cat_file(self._path.path, start=0)))
        except FileNotFoundError:
            return None

    def _content(self) -> bytes:
        # Three times, as there is no checksum: a byte that a network changed does not hide whose it is.
        return b"%s %d\n" % (self._token, self._beats) * 3

    def _is_mine(self, content: bytes | None) -> bool:
        return content is not None and self._token in content


@contextmanager
def leased(path: UPath) -> Iterator[Lease]:
    """Holds the lock that is the file `path`. Raises StorageError."""
    lease = Lease(path)
    lease.acquire()
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(BEAT):
            try:
                looked = time.monotonic()
                if not lease.is_held():
                    return
                if time.monotonic() - looked < BEAT:  # who stood still in between looks again before it writes
                    lease.beat()
            except Exception as error:  # the holder finds out by itself, at its next `require`
                _log.warning("%s: no sign of life could be given: %s", path, error)

    heart = threading.Thread(target=live, name="lease", daemon=True)
    heart.start()
    try:
        yield lease
    finally:
        ended.set()
        heart.join()
        lease.release()


def remove(path: UPath) -> None:
    """Remove a file; there need not be one."""
    with suppress(FileNotFoundError):
        path.fs.rm_file(path.path)
