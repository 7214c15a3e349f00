"""Temporary files and folders beside the weights, in the same file system: they are renamed to their final names."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kwneuro_assets.storage.local_lock import locked

_LOCK = ".lock"
_SCRATCH = ".scratch-"  # prefix of temporary folders


@contextmanager
def scratch_in(folder: Path, on_wait: Callable[[], None] | None = None) -> Iterator[Path]:
    """A temporary folder in `folder`, which is created, for one process at a time; the others wait.

    `on_wait` is called before this process waits. Folders of processes that were killed are removed. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _LOCK, on_wait) as alone:
        for left in folder.glob(f"{_SCRATCH}*") if alone else ():
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_SCRATCH) as scratch:
            yield Path(scratch)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file to write, which then becomes `path`; after an error, nothing of it is left. Raises OSError."""
    # Not by `tempfile`, whose files only their owner can read: a lab shares one folder of weights.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
