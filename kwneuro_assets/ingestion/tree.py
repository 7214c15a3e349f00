"""The folders of a source dataset, each listed at most once: names and fingerprints, without opening a file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import pathspec
from upath import UPath

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.files import Fingerprint, Listing, listing, read_bytes
from kwneuro_assets.storage.listing_s3 import Wanted, is_s3, listings_below
from kwneuro_assets.storage.location import is_local, location

IGNORE = ".bidsignore"
_LISTED_AT_ONCE = 16  # folders; each is a request if the dataset is remote
_FAST_SECONDS = 5e-4  # mean time to list one folder of a fast local disk
_SAMPLE = 50  # folders that are listed before the mean is compared


class SourceError(ActionableError):
    """The source dataset cannot be read; the message says what was expected, what was found and what to do."""


class SourceTree:
    """The contents of a folder or URL at the time of the first request. Paths are relative to the root ("").

    Hidden files and folders, which copying programs use for incomplete files, are left out, and so are those that
    `.bidsignore` names. Raises SourceError if there is no such folder: for a local one in the constructor, for a remote
    one in `require_root`. All methods raise StorageError if the place cannot be reached.
    """

    def __init__(self, settings: SourceSettings) -> None:
        self.root = location(settings.url, anonymous=settings.anonymous)
        self._complete: dict[str, Listing] = {}
        self._filtered: dict[str, Listing] = {}
        self._has_all: Wanted = lambda top: False
        if is_local(self.root):
            self.require_root()

    def path(self, relative: str) -> UPath:
        return self.root / relative

    def listing(self, folder: str) -> Listing:
        """The contents of a folder; empty if there is none. Raises InvalidData if it cannot be listed."""
        if folder not in self._filtered:
            self._filtered[folder] = self._without_ignored(folder, self._listed(folder))
        return self._filtered[folder]

    def fingerprint(self, file: str) -> Fingerprint:
        """The fingerprint of a file that is in the listing of its folder."""
        folder, _, name = file.rpartition("/")
        return self.listing(folder).files[name]

    def changed(self, folder: str) -> float:
        """When any file of a folder was last written, files that are left out included; seconds since 1970."""
        return max((fingerprint.changed for fingerprint in self._listed(folder).files.values()), default=0)

    def listings(self, folders: Mapping[str, str], refused: dict[str, InvalidData]) -> dict[str, Listing]:
        """The contents of each folder, listed in parallel; folders that cannot be listed are added to `refused`."""

        def list_one(folder: str) -> Listing | InvalidData:
            try:
                return self.listing(folder)
            except InvalidData as error:
                return error

        names = [*folders.values()]
        found: list[Listing | InvalidData] = []
        if is_local(self.root):  # on a fast disk threads cost more than they save; on a network disk they do not
            began = time.monotonic()
            while len(found) < len(names) and time.monotonic() - began <= _FAST_SECONDS * max(len(found), _SAMPLE):
                found.append(list_one(names[len(found)]))
        if len(found) < len(names):
            with ThreadPoolExecutor(_LISTED_AT_ONCE, thread_name_prefix="list") as pool:
                found += pool.map(list_one, names[len(found) :])
        listed = dict(zip(folders, found, strict=True))
        refused |= {key: found for key, found in listed.items() if isinstance(found, InvalidData)}
        return {key: found for key, found in listed.items() if isinstance(found, Listing)}

    def list_all(self, wanted: Wanted) -> None:
        """On S3, list the root and everything below the `wanted` folders of the root in one go, which is faster there
        than folder by folder.
        """
        if is_s3(self.root):
            self._complete = listings_below(self.root, wanted)
            self._has_all = wanted

    def require_root(self) -> None:
        if is_local(self.root):
            there, found = self.root.is_dir(), "a file" if self.root.exists() else "nothing there"
        else:  # in an object store a folder exists only by its files
            there, found = self._listed("") != Listing(), "nothing below it"
        if not there:
            raise SourceError(
                f"the source {self.root}: expected the folder of a dataset, found {found}. "
                "Set source.url, KWNEURO_SOURCE or --source."
            )

    def _listed(self, folder: str) -> Listing:
        if folder not in self._complete:
            if self._has_all(folder.partition("/")[0]):
                return Listing()
            path = self.path(folder)
            try:
                self._complete[folder] = listing(path)
            except OSError as error:
                raise InvalidData("folder", expected="one that can be listed", found=str(error.strerror)).at(
                    path
                ) from None
        return self._complete[folder]

    def _without_ignored(self, folder: str, found: Listing) -> Listing:
        files = {name: fingerprint for name, fingerprint in found.files.items() if not name.startswith(".")}
        folders = tuple(name for name in found.folders if not name.startswith("."))
        if self._ignored is not None:
            above = f"{folder}/" if folder else ""
            files = {
                name: fingerprint for name, fingerprint in files.items() if not self._ignored.match_file(above + name)
            }
            folders = tuple(name for name in folders if not self._ignored.match_file(f"{above}{name}/"))
        return Listing(files, folders)

    @cached_property
    def _ignored(self) -> pathspec.GitIgnoreSpec | None:
        """The patterns of `.bidsignore`. Raises SourceError if it cannot be read."""
        if "" in self._complete and IGNORE not in self._complete[""].files:
            return None
        try:
            lines = read_bytes(self.path(IGNORE)).decode().splitlines()
            return pathspec.GitIgnoreSpec.from_lines(lines)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.path(IGNORE)}: expected patterns as in .gitignore, found {error}") from None
