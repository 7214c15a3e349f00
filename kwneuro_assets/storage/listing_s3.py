"""List all files below a folder of S3 with the minimum of requests: one LIST per 1,000 objects, several concurrently.

fsspec's `find(detail=True)` cannot skip folders: of 2,000 subjects beside 16,000 files in derivatives/ it lists all
24,000 objects, with 24 requests in place of 9 and in twice the time, one page after the other.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from upath import UPath

from kwneuro_assets.storage.files import Fingerprint, Listing, remote_fingerprint
from kwneuro_assets.storage.retries import with_retries

PAGE = 1000  # objects in one answer: S3's limit
_REQUESTS = 8  # concurrent requests
_LAST = "\U0010ffff"  # sorts behind every other character
_starts: dict[str, list[str]] = {}  # by folder: the first keys of the pages when this process last listed it

Wanted = Callable[[str], bool]


def is_s3(folder: object) -> bool:
    """Whether a path is in S3."""
    return isinstance(folder, UPath) and folder.protocol in ("s3", "s3a")


def listings_below(root: UPath, wanted: Wanted) -> dict[str, Listing]:
    """The listing of each folder below `root`, and of `root` itself (""), by its relative path.

    Top-level folders whose names are not `wanted` are named but not listed. A LIST can start after any key, so pages
    are requested concurrently from the keys where they started last time. Raises StorageError.
    """
    folders = _Folders()
    known = _starts.get(str(root), [""])
    with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="list") as pool:
        parts = pool.map(lambda pair: _part(root, wanted, *pair), zip(known, [*known[1:], None], strict=True))
        keys: list[str] = []
        for part in parts:
            for key, fingerprint in part:
                folders.add(key, fingerprint)
                keys.append(key)
    _starts[str(root)] = ["", *keys[PAGE - 1 : -1 : PAGE]]
    listed = folders.listings()
    return {folder: one for folder, one in listed.items() if not folder or wanted(_top(folder))}


def _part(root: UPath, wanted: Wanted, start: str, end: str | None) -> list[tuple[str, Fingerprint]]:
    """The objects after the key `start` up to the key `end`, without those in unwanted folders.

    The first object of an unwanted folder is included, so that the folder is named.
    """
    bucket, _, prefix = root.path.strip("/").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    found: list[tuple[str, Fingerprint]] = []
    unwanted = _top(start) if start and not _is_wanted(start, wanted) else ""
    if unwanted:
        start = f"{unwanted}/{_LAST}"
    while True:
        page = with_retries(root, lambda start=start: _page(root.fs, bucket, prefix, start))  # type: ignore[misc]
        for entry in page.get("Contents", []):
            key = entry["Key"][len(prefix) :]
            if end is not None and key > end:
                return found
            if _is_wanted(key, wanted):
                found.append((key, remote_fingerprint(entry)))
            elif _top(key) != unwanted:
                unwanted = _top(key)
                found.append((key, remote_fingerprint(entry)))
            start = key
        if not page.get("IsTruncated") or (end is not None and start >= end):
            return found
        if not _is_wanted(start, wanted):
            start = f"{_top(start)}/{_LAST}"


def _page(fs: Any, bucket: str, prefix: str, start: str) -> Any:
    after = {"StartAfter": f"{prefix}{start}"} if start else {}
    return fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=PAGE, **after)


def _top(key: str) -> str:
    return key.partition("/")[0]


def _is_wanted(key: str, wanted: Wanted) -> bool:
    return "/" not in key or wanted(_top(key))


class _Folders:
    """Objects, grouped into the folders of their keys."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, Fingerprint]] = {"": {}}
        self._folders: dict[str, list[str]] = {"": []}

    def add(self, key: str, fingerprint: Fingerprint) -> None:
        folder, _, name = key.rpartition("/")
        self._add_folder(folder)
        if name:  # else it is an empty object that represents the folder
            self._files[folder][name] = fingerprint

    def _add_folder(self, folder: str) -> None:
        if folder not in self._files:
            above, _, name = folder.rpartition("/")
            self._add_folder(above)
            bisect.insort(self._folders[above], name)
            self._files[folder], self._folders[folder] = {}, []

    def listings(self) -> dict[str, Listing]:
        return {folder: Listing(files, tuple(self._folders[folder])) for folder, files in self._files.items()}
