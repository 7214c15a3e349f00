"""All files below a folder of S3, by as few requests as there can be: one LIST for each 1,000 objects."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from upath import UPath

from kwneuro_assets.storage.files import Listing, Stamp, remote_stamp
from kwneuro_assets.storage.patience import patiently

PAGE = 1000  # objects of one answer: S3's own limit
_AT_ONCE = 8  # requests
_LAST = "\U0010ffff"  # sorts behind every other character
_starts: dict[str, list[str]] = {}  # by folder: where the pages began when this process last listed it

Wanted = Callable[[str], bool]


def is_s3(folder: object) -> bool:
    return isinstance(folder, UPath) and folder.protocol in ("s3", "s3a")


def listings_below(root: UPath, wanted: Wanted) -> dict[str, Listing]:
    """What lies in each folder below `root`, and in itself (""), by its path from there.

    Folders at the top that are not `wanted` by their names are named, no more. Pages are asked for at
    once where they began the last time, as each can begin after any key. Raises StorageError.
    """
    found = _Found()
    known = _starts.get(str(root), [""])
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="list") as pool:
        parts = pool.map(lambda pair: _part(root, wanted, *pair), zip(known, [*known[1:], None], strict=True))
        keys: list[str] = []
        for part in parts:
            for key, stamp in part:
                found.add(key, stamp)
                keys.append(key)
    _starts[str(root)] = ["", *keys[PAGE - 1 : -1 : PAGE]]
    listed = found.listings()
    return {folder: one for folder, one in listed.items() if not folder or wanted(_top(folder))}


def _part(root: UPath, wanted: Wanted, start: str, end: str | None) -> list[tuple[str, Stamp]]:
    """The objects after the key `start` up to the key `end`, without those in folders that are not wanted.

    Of such a folder the first object is there, as a sign of it.
    """
    bucket, _, prefix = root.path.strip("/").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    kept: list[tuple[str, Stamp]] = []
    unwanted = _top(start) if start and not _is_wanted(start, wanted) else ""
    if unwanted:
        start = f"{unwanted}/{_LAST}"
    while True:
        page = patiently(root, lambda start=start: _page(root.fs, bucket, prefix, start))  # type: ignore[misc]
        for entry in page.get("Contents", []):
            key = entry["Key"][len(prefix) :]
            if end is not None and key > end:
                return kept
            if _is_wanted(key, wanted):
                kept.append((key, remote_stamp(entry)))
            elif _top(key) != unwanted:
                unwanted = _top(key)
                kept.append((key, remote_stamp(entry)))
            start = key
        if not page.get("IsTruncated") or (end is not None and start >= end):
            return kept
        if not _is_wanted(start, wanted):
            start = f"{_top(start)}/{_LAST}"


def _page(fs: Any, bucket: str, prefix: str, start: str) -> Any:
    after = {"StartAfter": f"{prefix}{start}"} if start else {}
    return fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=PAGE, **after)


def _top(key: str) -> str:
    return key.partition("/")[0]


def _is_wanted(key: str, wanted: Wanted) -> bool:
    return "/" not in key or wanted(_top(key))


class _Found:
    """Objects, as the folders that their keys spell."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, Stamp]] = {"": {}}
        self._folders: dict[str, list[str]] = {"": []}

    def add(self, key: str, stamp: Stamp) -> None:
        folder, _, name = key.rpartition("/")
        self._make(folder)
        if name:  # else it is an empty object that stands for the folder
            self._files[folder][name] = stamp

    def _make(self, folder: str) -> None:
        if folder not in self._files:
            above, _, name = folder.rpartition("/")
            self._make(above)
            bisect.insort(self._folders[above], name)
            self._files[folder], self._folders[folder] = {}, []

    def listings(self) -> dict[str, Listing]:
        return {folder: Listing(files, tuple(self._folders[folder])) for folder, files in self._files.items()}
