"""The store: a valid BIDS derivatives dataset, local or remote, written so that nothing half-made is ever read.

A derivative is committed by its sidecar, which holds size and sha256 of each file. All files are first written
unseen; only when all of them are safe is the old sidecar removed, are the files put in place, and is the new
sidecar, last. Whatever interrupts this, a sidecar that exists describes whole files; a failure while writing (a full
disk, a lost connection) leaves what stood before.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from upath import UPath

from kwneuro_assets.storage.codecs import WHOLE, Grid, Names, Part, decode, decode_image_grid, encode
from kwneuro_assets.storage.files import (
    Opened,
    Replaced,
    Stamp,
    digested,
    drain,
    listing,
    opened,
    read_bytes,
    stamp_of,
)
from kwneuro_assets.storage.location import is_local, location
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.patience import StorageError
from kwneuro_assets.storage.sidecar import Provenance, Sidecar, StoredFile
from kwneuro_assets.storage.staging import WRITERS, Stage, Writer, staged, write_whole
from kwneuro_assets.subjects import GROUP, StoreKey, SubjectKey
from kwneuro_assets.versioning.content import Value

Verify = Literal["always", "first", "never"]
_T = TypeVar("_T")

FORMAT = 1  # of names, sidecars and their meaning; raised with a change that earlier versions would misread
BIDS_VERSION = "1.10.0"
GENERATOR = "kwneuro-assets"
DESCRIPTION = "dataset_description.json"
# What BIDS has no name for yet (BEP 16), or forbids beside a derived image. One asterisk before the name in a line: the
# validator's own matching goes wrong with more.
_BIDSIGNORE = "*_dwimap.*\n*_dwiref.*\n*_response.json\n*_figure.png\n*_dwi.bval\n*_dwi.bvec\n*_mask.json\n"
_README = """\
# Derivatives of diffusion MRI

Made by kwneuro-assets. Each derivative has a JSON sidecar that says what it is, how it was made (parameters, versions
of the code and of its inputs), and the size and sha256 of its files; a file that no sidecar names is not a result.
Everything directional is in the world frame, scanner RAS+. Figures (`*_figure.png`) show the derivatives beside them.
"""
_READS = 7  # of a file that comes with other bytes each time

_verified: set[tuple[str, str]] = set()  # paths and digests of files that this process has verified


class StoreError(StorageError):
    """The store cannot be used, or what it holds is not what its sidecar says; says which file and what to do."""


class Damaged(StoreError):
    """A file is not the one that its sidecar describes."""


class Missing(StoreError):
    """A derivative is not in the store."""


class DerivativeStore:
    """The derivatives below `url`, by asset and subject: a folder, `s3://bucket/prefix`, or another URL of fsspec's.

    `source_url` is the dataset that they are derived from, named in their description. `verify` says when a file is
    compared with its checksum on reading: always, the first time in this process, or never (its size always is).
    Raises StorageError for a URL that cannot be one.
    """

    def __init__(self, url: Path | str, source_url: str = "", verify: Verify = "always") -> None:
        self.root = location(url)
        self.verify = verify
        self._source_url = source_url
        self._is_own = False

    def sidecar(self, asset: str, subject: StoreKey) -> Sidecar | None:
        """The sidecar of a derivative, None where it is not in the store. Raises StoreError for one that is broken."""
        self._require_own()
        path = self._sidecar_path(asset, subject)

        def once() -> Sidecar | None:
            try:
                return Sidecar.from_json(read_bytes(path).decode())
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise Damaged(f"{path}: cannot be read ({error.strerror}). {_remake(asset, subject)}") from None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise Damaged(f"{path}: is not a sidecar of this store ({error}). {_remake(asset, subject)}") from None

        return self._read_again(once)

    def read(self, asset: str, subject: StoreKey, part: Part = WHOLE) -> tuple[Value, Sidecar]:
        """A derivative, or a part of it, and its sidecar; each file that is read is checked as `verify` says.

        Raises StoreError where it is missing or where a file is not the one that was stored, and InvalidData for a
        part that there is not.
        """

        def value(sidecar: Sidecar) -> Value:
            files = _CheckedFiles(self._folder(subject), sidecar.files, self.verify, _remake(asset, subject))
            return decode(sidecar.value_type, sidecar.content, Names(NAMES[asset], subject), files, part)

        return self._steadily(asset, subject, value)

    def grid(self, asset: str, subject: StoreKey) -> Grid:
        """Shape and affine of a derivative's image (of the first of its maps), from the header alone.

        Raises StoreError where it is missing, InvalidData where it is no image.
        """

        def grid(sidecar: Sidecar) -> Grid:
            files = _CheckedFiles(self._folder(subject), sidecar.files, self.verify, _remake(asset, subject))
            return decode_image_grid(sidecar.value_type, sidecar.content, Names(NAMES[asset], subject), files)

        return self._steadily(asset, subject, grid)[0]

    def check(self, asset: str, subject: StoreKey) -> Sidecar:
        """Compare every file of a derivative with its checksum. Raises StoreError as `read` does."""

        def check(sidecar: Sidecar) -> None:
            files = _CheckedFiles(self._folder(subject), sidecar.files, "always", _remake(asset, subject))
            for name in sidecar.files:
                files.decoded(name, drain)

        return self._steadily(asset, subject, check)[1]

    def subjects(self) -> list[SubjectKey]:
        """The keys of all that have a folder in the store, sorted. Raises StoreError."""
        self._require_own()
        found = []
        for name in listing(self.root).folders:
            if not name.startswith("sub-"):
                continue
            inside = listing(self.root / name).folders
            keys = [f"{name}_{session}" for session in inside if session.startswith("ses-")]
            found += [SubjectKey.parse(key) for key in [*([name] if "dwi" in inside else []), *keys]]
        return sorted(found, key=str)

    def keys(self) -> list[StoreKey]:
        """The subjects, and the group where there is anything of it. Raises StoreError."""
        return [*self.subjects(), *([GROUP] if self.assets(GROUP) else [])]

    def assets(self, subject: StoreKey) -> list[str]:
        """The derivatives of a subject or of the group that the store has: those with a sidecar. Raises StoreError."""
        self._require_own()
        present = listing(self._folder(subject)).files
        return [asset for asset in NAMES if NAMES[asset].sidecar(subject).name in present]

    def write(
        self, asset: str, subject: StoreKey, value: Value, provenance: Provenance, figure: bytes | None = None
    ) -> Sidecar:
        """Store a derivative, replacing the one before it, and return its sidecar. Raises StoreError."""
        encoded = encode(value, Names(NAMES[asset], subject))
        writers: dict[str, Writer] = dict(encoded.files)
        if figure is not None:
            writers[NAMES[asset].figure(subject)] = lambda file: file.write(figure)
        with self._writing(asset, subject) as stage:
            files = _write_all(stage, writers)
            sidecar = Sidecar(type(value).__name__, provenance, files, encoded.content)
            self._commit(stage, asset, subject, sidecar)
        return sidecar

    def remove(self, asset: str, subject: StoreKey) -> None:
        """Remove a derivative with all its files, and the folders that are empty then. Raises StoreError."""
        folder, name = self._folder(subject), NAMES[asset]
        mark = name.sidecar(subject).name
        with self._clear_errors():
            self._require_own()
            with staged(folder, mark, lambda file: name.owns(subject, file)) as stage:
                stage.remove(mark)  # first: what no sidecar names is no result
                for file in listing(folder).files:
                    if name.owns(subject, file):
                        stage.remove(file)
            if is_local(folder):
                for above in (folder, *folder.parents):
                    if above == self.root or any(above.iterdir()):
                        break
                    above.rmdir()

    def export(self, asset: str, subject: StoreKey, target: DerivativeStore) -> Sidecar:
        """Copy a derivative, checked on the way, to another store. Raises StoreError, and leaves no part there."""

        def copy(sidecar: Sidecar) -> None:
            files = _CheckedFiles(self._folder(subject), sidecar.files, "always", _remake(asset, subject))
            writers = {name: _copier(files, name) for name in sidecar.files}
            with target._writing(asset, subject) as stage:
                _write_all(stage, writers)
                target._commit(stage, asset, subject, sidecar)

        return self._steadily(asset, subject, copy)[1]

    def path(self, asset: str, subject: StoreKey) -> UPath:
        """The first file of a derivative that stands in the store, or its sidecar."""
        sidecar = self.sidecar(asset, subject)
        name = next(iter(sidecar.files), None) if sidecar else None
        return self._folder(subject) / name if name else self._sidecar_path(asset, subject)

    def holds(self, asset: str, subject: StoreKey, version: str) -> bool:
        """Whether this version of a derivative is there: by its sidecar, and by files of the names that it gives.

        Raises StoreError where the store itself cannot be used.
        """
        try:
            sidecar = self.sidecar(asset, subject)
        except Damaged:
            return False
        if sidecar is None or sidecar.data_version != version:
            return False
        return sidecar.files.keys() <= set(listing(self._folder(subject)).files)

    def missing(self, asset: str, subject: StoreKey) -> StoreError:
        """What to say of a derivative that is not in the store; Missing only where there is a store that lacks it."""
        kind = Missing if self._is_own else StoreError
        return kind(f"{asset} of {subject} is not in the store {self.root}. {_remake(asset, subject)}")

    def _folder(self, subject: StoreKey) -> UPath:
        return self.root / subject.folder if subject.folder else self.root

    def _sidecar_path(self, asset: str, subject: StoreKey) -> UPath:
        return self._folder(subject) / NAMES[asset].sidecar(subject).name

    def _steadily(self, asset: str, subject: StoreKey, use: Callable[[Sidecar], Any]) -> tuple[Any, Sidecar]:
        """What `use` makes of the sidecar; again where another process replaced the derivative meanwhile, or where a
        network may have changed what was read."""
        told: set[str] = set()
        while True:
            sidecar = self.sidecar(asset, subject)
            if sidecar is None:
                raise self.missing(asset, subject)
            try:
                used = use(sidecar)
                # A file that was not compared with its checksum may be of another sidecar.
                if self.verify == "always" or self.sidecar(asset, subject) == sidecar:
                    return used, sidecar
            except Damaged as error:
                # What is damaged is so in the same way twice; what a network changed, or another value that came and
                # went meanwhile, is not.
                again = str(error) not in told and len(told) < _READS
                told.add(str(error))
                if not again and self.sidecar(asset, subject) == sidecar:
                    raise

    def _read_again(self, read: Callable[[], _T]) -> _T:
        """What `read` gives; again where it is wrong and a network may have changed what came."""
        for left in reversed(range(1 if is_local(self.root) else _READS)):
            try:
                return read()
            except StoreError:
                if not left:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def _writing(self, asset: str, subject: StoreKey) -> Iterator[Stage]:
        name = NAMES[asset]
        with self._clear_errors():
            self._describe_dataset()
            mark = name.sidecar(subject).name
            with staged(self._folder(subject), mark, lambda file: name.owns(subject, file)) as stage:
                yield stage

    def _commit(self, stage: Stage, asset: str, subject: StoreKey, sidecar: Sidecar) -> None:
        mark = NAMES[asset].sidecar(subject).name
        stage.write(mark, lambda file: file.write(sidecar.to_json().encode()))
        stage.require_alone()
        # Files that are replaced by the same bytes are whole at every moment, and so their sidecar may stay.
        if self._files_before(asset, subject) != sidecar.files:
            stage.remove(mark)
        for name in sidecar.files:
            stage.commit(name)
        stage.require_alone()
        stage.commit(mark)
        present = listing(self._folder(subject)).files
        for name in present:
            if name not in sidecar.files and name != mark and NAMES[asset].owns(subject, name):
                stage.remove(name)

    def _files_before(self, asset: str, subject: StoreKey) -> Mapping[str, StoredFile] | None:
        try:
            before = self.sidecar(asset, subject)
        except StoreError:
            return None
        return before.files if before else None

    def _describe_dataset(self) -> None:
        from kwneuro_assets import __version__

        self._require_own()
        links = {"source": self._source_url} if self._source_url else {}
        description = {
            "Name": "kwneuro-assets derivatives",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": GENERATOR, "Version": __version__}],
            "SourceDatasets": [{"URL": url} for url in links.values()],
            "DatasetLinks": links,
            "StoreFormat": FORMAT,
        }
        wanted = {
            DESCRIPTION: json.dumps(description, indent=2) + "\n",
            ".bidsignore": _BIDSIGNORE,
            "README.md": _README,
        }
        for name, text in wanted.items():
            if self._content(name) != text.encode():
                write_whole(self.root / name, text.encode())

    def _require_own(self) -> None:
        """Raise StoreError where the root is another dataset, or a store of a later format.

        The source named as the store by mistake would lose its description and get our files among its own.
        """
        if not self._is_own:
            self._is_own = self._read_again(self._described_as_own)

    def _described_as_own(self) -> bool:
        """False where there is no description yet."""
        content = self._content(DESCRIPTION)
        if content is None:
            return False
        try:
            tree = json.loads(content)
            own = tree["DatasetType"] == "derivative" and tree["GeneratedBy"][0]["Name"] == GENERATOR
            found = int(tree.get("StoreFormat", FORMAT))
        except (ValueError, KeyError, IndexError, TypeError):
            own, found = False, FORMAT
        if not own:
            raise StoreError(
                f"the store {self.root} is another dataset, by its {DESCRIPTION}: expected a folder of its own"
            )
        if found > FORMAT:
            raise StoreError(
                f"the store {self.root} has format {found}; this version reads and writes up to {FORMAT}: "
                "upgrade kwneuro-assets"
            )
        return True

    def _content(self, name: str) -> bytes | None:
        """A small file of the root; None where there is none."""
        try:
            return read_bytes(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = {
                errno.ENOSPC: "is full: make room and run again; what stood before is untouched",
                errno.EDQUOT: "is over its quota: make room and run again; what stood before is untouched",
                errno.EROFS: "is on a read-only file system",
                errno.EACCES: "is not writable by this user",
                errno.EPERM: "is not writable by this user",
                errno.ENOTDIR: "is a file, or lies below one: expected a folder",
                errno.EEXIST: "is a file, or lies below one: expected a folder",
            }.get(error.errno or 0)
            if reason is None:
                raise
            where = f" (at {error.filename})" if error.filename else ""
            raise StoreError(f"the store {self.root} {reason}{where}") from None


class _CheckedFiles:
    """The files of one derivative, compared with what its sidecar says of them while they are read."""

    def __init__(self, folder: UPath, stored: Mapping[str, StoredFile], verify: Verify, remedy: str) -> None:
        self._folder = folder
        self._stored = stored
        self._verify = verify
        self._remedy = remedy

    def decoded(self, name: str, decode: Callable[[Opened], Any]) -> Any:
        """What `decode` makes of the file. Raises Damaged."""
        known = (str(self._folder / name), self._stored_file(name).sha256)
        if self._verify == "never" or (self._verify == "first" and known in _verified):
            return self.header(name, decode)
        error: Exception | None = None
        with self._opened(name) as file, digested(file) as (read, digest):
            try:
                value = decode(read)
            except StorageError:
                raise
            except Exception as caught:  # damage explains it, if there is any
                error = caught
            drain(read)
            sha256 = digest.close()
            if sha256 != known[1]:
                raise self._damaged(name, digest.size, sha256)
        if error is not None:
            raise error
        _verified.add(known)
        return value

    def header(self, name: str, decode: Callable[[Opened], Any]) -> Any:
        """What `decode` makes of the file, which is checked by its size alone. Raises Damaged."""
        with self._opened(name) as file:
            return decode(file)

    def read_again(
        self, name: str, read: Callable[[UPath, Stamp, Sequence[int]], Iterator[_T]]
    ) -> Callable[[Sequence[int]], Iterator[_T]]:
        """`read` of the file as it is now, any number of times. Raises Damaged, where it has changed since too."""
        path = self._folder / name
        stamp = stamp_of(path)

        def again(chosen: Sequence[int]) -> Iterator[_T]:
            with self._told(path):
                yield from read(path, stamp, chosen)

        return again

    @contextmanager
    def _opened(self, name: str) -> Iterator[Opened]:
        path, stored = self._folder / name, self._stored_file(name)
        with self._told(path), opened(path) as file:
            if file.size != stored.size:
                raise self._damaged(name, file.size)
            yield file

    @contextmanager
    def _told(self, path: UPath) -> Iterator[None]:
        """What goes wrong with a file is told with what to do about it."""
        try:
            yield
        except FileNotFoundError:
            raise Damaged(f"{path}: its sidecar names it, but it is missing. {self._remedy}") from None
        except Replaced as error:
            raise Damaged(f"{error}. {self._remedy}") from None
        except OSError as error:
            raise Damaged(f"{path}: cannot be read ({error.strerror}). {self._remedy}") from None

    def _stored_file(self, name: str) -> StoredFile:
        if name not in self._stored:
            raise Damaged(f"{self._folder / name}: its sidecar does not name it. {self._remedy}")
        return self._stored[name]

    def _damaged(self, name: str, size: int, sha256: str = "") -> Damaged:
        stored = self._stored_file(name)
        found = f"{size} with {sha256[:12]}..." if sha256 else f"{size} bytes"
        return Damaged(
            f"{self._folder / name}: expected {stored.size} bytes with sha256 {stored.sha256[:12]}..., found {found}. "
            f"{self._remedy}"
        )


def _write_all(stage: Stage, writers: Mapping[str, Writer]) -> dict[str, StoredFile]:
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="store") as pool:
        return dict(zip(writers, pool.map(stage.write, writers, writers.values()), strict=True))


def _copier(files: _CheckedFiles, name: str) -> Writer:
    def copy(target: IO[bytes]) -> None:
        def blocks(file: Opened) -> None:
            while block := file.stream.read(1 << 20):
                target.write(block)

        files.decoded(name, blocks)

    return copy


def _remake(asset: str, subject: StoreKey) -> str:
    return f"Make it with: kwneuro-assets run {subject.option}--select {asset}"
