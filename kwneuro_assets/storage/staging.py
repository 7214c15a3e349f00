"""Write the files of one derivative so that none is visible before all are complete.

A stage holds the lock of its derivative. Unfinished files found under that lock belong to a process that ended; they
are removed. fsspec's transactions do not suffice: they take no lock across processes, check no lock before each file
becomes visible, and leave the uploads of a process that ended.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from upath import UPath

from kwneuro_assets.storage.local_staging import local_stage
from kwneuro_assets.storage.location import is_local
from kwneuro_assets.storage.remote_staging import remote_stage
from kwneuro_assets.storage.stage import Owns, Stage


def staged(folder: UPath, mark: str, owns: Owns) -> AbstractContextManager[Stage]:
    """A stage for the files of `folder` whose names satisfy `owns`; `mark` names its lock.

    Waits while another process holds the lock. Raises StorageError, or OSError for a local folder.
    """
    if is_local(folder):
        return local_stage(Path(str(folder)), mark, owns)
    return remote_stage(folder, mark, owns)


def write_complete(path: UPath, content: bytes) -> None:
    """Write or replace one small file atomically. Raises StorageError, or OSError for a local file."""
    with staged(path.parent, path.name, lambda name: name == path.name) as stage:
        stage.write(path.name, lambda file: file.write(content))
        stage.commit(path.name)
