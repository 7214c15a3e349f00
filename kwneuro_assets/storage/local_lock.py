"""A lock between processes on a local or POSIX file system, by flock.

`filelock` polls every 50 ms and leaves its lock file in the folder after release; here a waiter blocks in the kernel,
and no lock file remains.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_WITHOUT_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF})


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold a lock that the kernel releases when the process ends; yields False if the file system has no locks.

    `on_wait` is called once before waiting for another holder. The lock file is removed at the end. A waiter may thus
    acquire the lock of a file that was removed; it retries. Raises OSError if the file cannot be created.
    """
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            exclusive = _acquire(descriptor, on_wait)
            on_wait = None
            if not exclusive or os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield exclusive
    finally:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _acquire(descriptor: int, on_wait: Callable[[], None] | None) -> bool:
    try:
        if on_wait:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                on_wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            return False
        raise
    return True
