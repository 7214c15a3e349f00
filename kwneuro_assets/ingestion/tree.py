"""The folders of a source dataset, each listed once at most: names and stamps, without opening a file."""

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
from kwneuro_assets.storage.files import Listing, Stamp, listing, read_bytes
from kwneuro_assets.storage.listing_s3 import Wanted, is_s3, listings_below
from kwneuro_assets.storage.location import is_local, location

IGNORE = ".bidsignore"
_LISTED_AT_ONCE = 16  # folders; each is a request where the dataset is remote
_NEAR_SECONDS = 5e-4  # for one folder of a disk that is near, on the average of all but the first
_TRIED = 50  # folders, before that is judged


class SourceError(ActionableError):
    """The source dataset itself cannot be read; says what was expected and what was found."""


class SourceTree:
    """What lies in a folder or at a URL, as of when it was first asked for. Paths are relative to the root ("").

    Hidden files and folders, under which programs that copy keep what is not whole yet, do not count, nor does what
    `.bidsignore` names. Raises SourceError where there is no such folder: a local one at once, a remote one by
    `require_root`. All methods raise StorageError for a place that cannot be reached.
    """

    def __init__(self, settings: SourceSettings) -> None:
        self.root = location(settings.url, anonymous=settings.anonymous)
        self._whole: dict[str, Listing] = {}
        self._seen: dict[str, Listing] = {}
        self._has_all: Wanted = lambda top: False
        if is_local(self.root):
            self.require_root()

    def path(self, relative: str) -> UPath:
        return self.root / relative

    def listing(self, folder: str) -> Listing:
        """What counts in a folder; nothing where there is none. Raises InvalidData for one that may not be listed."""
        if folder not in self._seen:
            self._seen[folder] = self._without_ignored(folder, self._listed(folder))
        return self._seen[folder]

    def stamp(self, file: str) -> Stamp:
        """The stamp of a file that is in the listing of its folder."""
        folder, _, name = file.rpartition("/")
        return self.listing(folder).files[name]

    def changed(self, folder: str) -> float:
        """When any file of a folder was last written, those that do not count included; seconds since 1970."""
        return max((stamp.changed for stamp in self._listed(folder).files.values()), default=0)

    def listings(self, folders: Mapping[str, str], refused: dict[str, InvalidData]) -> dict[str, Listing]:
        """What lies in each of the folders, several at once; those that may not be listed are added to `refused`."""

        def look(folder: str) -> Listing | InvalidData:
            try:
                return self.listing(folder)
            except InvalidData as error:
                return error

        names = [*folders.values()]
        found: list[Listing | InvalidData] = []
        if is_local(self.root):  # a disk of this machine answers sooner than threads take turns; one far away does not
            began = time.monotonic()
            while len(found) < len(names) and time.monotonic() - began <= _NEAR_SECONDS * max(len(found), _TRIED):
                found.append(look(names[len(found)]))
        if len(found) < len(names):
            with ThreadPoolExecutor(_LISTED_AT_ONCE, thread_name_prefix="list") as pool:
                found += pool.map(look, names[len(found) :])
        looked = dict(zip(folders, found, strict=True))
        refused |= {key: found for key, found in looked.items() if isinstance(found, InvalidData)}
        return {key: found for key, found in looked.items() if isinstance(found, Listing)}

    def list_all(self, wanted: Wanted) -> None:
        """List the root and all folders below those of its folders whose names are `wanted`, where that is quicker
        at once than one by one."""
        if is_s3(self.root):
            self._whole = listings_below(self.root, wanted)
            self._has_all = wanted

    def require_root(self) -> None:
        if is_local(self.root):
            there, found = self.root.is_dir(), "a file" if self.root.exists() else "nothing there"
        else:  # in an object store a folder is no more than what lies in it
            there, found = self._listed("") != Listing(), "nothing below it"
        if not there:
            raise SourceError(
                f"the source {self.root}: expected the folder of a dataset, found {found}. "
                "Set source.url, KWNEURO_SOURCE or --source."
            )

    def _listed(self, folder: str) -> Listing:
        if folder not in self._whole:
            if self._has_all(folder.partition("/")[0]):
                return Listing()
            path = self.path(folder)
            try:
                self._whole[folder] = listing(path)
            except OSError as error:
                raise InvalidData("folder", expected="one that can be listed", found=str(error.strerror)).at(
                    path
                ) from None
        return self._whole[folder]

    def _without_ignored(self, folder: str, found: Listing) -> Listing:
        files = {name: stamp for name, stamp in found.files.items() if not name.startswith(".")}
        folders = tuple(name for name in found.folders if not name.startswith("."))
        if self._ignored is not None:
            above = f"{folder}/" if folder else ""
            files = {name: stamp for name, stamp in files.items() if not self._ignored.match_file(above + name)}
            folders = tuple(name for name in folders if not self._ignored.match_file(f"{above}{name}/"))
        return Listing(files, folders)

    @cached_property
    def _ignored(self) -> pathspec.GitIgnoreSpec | None:
        """What `.bidsignore` names. Raises SourceError for one that cannot be read."""
        if "" in self._whole and IGNORE not in self._whole[""].files:
            return None
        try:
            lines = read_bytes(self.path(IGNORE)).decode().splitlines()
            return pathspec.GitIgnoreSpec.from_lines(lines)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.path(IGNORE)}: expected patterns as of .gitignore, found {error}") from None
