"""The SHA-256 of each weights file in use, from a cache: a cohort's status asks for them thousands of times.

They are part of the code version of the derivatives that use the weights. An entry holds as long as size, inode and
times of the file do. The cache is only a shortcut: a step hashes the file that it uses.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kwneuro_assets.storage.files import file_sha256
from kwneuro_assets.weights.errors import WeightsError
from kwneuro_assets.weights.installed import locate
from kwneuro_assets.weights.json_files import read_json, write_json
from kwneuro_assets.weights.networks import network_of

CACHE = "digests.json"  # in the folder of the weights
# A file that changed this recently may change again within one tick of its clock, with the same size and times.
MIN_AGE = 0.1  # seconds


class _State(NamedTuple):
    """What a changed file does not keep: no program can set ctime."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


_known: dict[str, tuple[_State, str]] = {}  # by the absolute path; of this process


def digests(name: str, folder: Path) -> Mapping[str, str] | None:
    """The SHA-256 of each file of a network that is in use, in `<folder>/<name>` or its tool's folder.

    None if the weights are absent or cannot be read. Raises WeightsError if there is no such network.
    """
    where = locate(name, folder)
    return None if where is None else digests_of(name, where, folder.expanduser() / CACHE)


def digests_of(name: str, where: Path, cache: Path) -> Mapping[str, str] | None:
    """As `digests`, of the files in the folder `where`; the file `cache` shares them between processes."""
    try:
        return {file: _digest((where / file).absolute(), cache) for file in network_of(name).installed_files}
    except OSError:
        return None


def _digest(path: Path, cache: Path) -> str:
    state = _state(path)
    for find in (_known.get, partial(_stored, cache)):
        entry = find(str(path))
        if entry and entry[0] == state:
            _known[str(path)] = entry
            return entry[1]
    digest = file_sha256(path)
    # Not remembered if the file changed in the meantime, or may have.
    if state == _state(path) and time.time() - max(state.mtime_ns, state.ctime_ns) / 1e9 > MIN_AGE:
        _known[str(path)] = (state, digest)
        _store(cache, str(path), (state, digest))
    return digest


def _state(path: Path) -> _State:
    status = path.stat()
    return _State(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _stored(cache: Path, path: str) -> tuple[_State, str] | None:
    try:
        state, digest = _entries(cache)[path]
        return _State(*map(int, state)), str(digest)
    except (KeyError, TypeError, ValueError):
        return None


def _store(cache: Path, path: str, entry: tuple[_State, str]) -> None:
    """Of two processes that write at once, one may lose its entry, which is then hashed again."""
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, {**_entries(cache), path: entry})


def _entries(cache: Path) -> dict[str, Any]:
    """The content of the file; empty if it is absent, unreadable or broken."""
    try:
        return read_json(cache)
    except (OSError, WeightsError):
        return {}
