"""The store: a valid BIDS derivatives dataset, local or remote, in which no partial result is ever visible.

A derivative is committed by its sidecar, which holds size and sha256 of each file. All files are first written under
invisible names; once all of them are complete, the old sidecar is removed, the files are put in place, and the new
sidecar is written last. Whatever interrupts this, a sidecar that exists describes complete files; a failure while
writing (a full disk, a broken connection) leaves the previous result untouched.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from upath import UPath

from kwneuro_assets.imaging.content_hash import Value
from kwneuro_assets.storage.bids_fields import map_fields, shared_fields
from kwneuro_assets.storage.checked_files import READS, CheckedFiles, Verify, with_rereads
from kwneuro_assets.storage.codecs import EVERYTHING, Grid, Names, Part, decode, decode_image_grid, encode, text_writer
from kwneuro_assets.storage.dataset_description import DatasetDescription
from kwneuro_assets.storage.files import Opened, drain, fingerprint_of, listing, read_bytes
from kwneuro_assets.storage.label_files import label_files
from kwneuro_assets.storage.location import is_local, location
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Provenance, Sidecar, StoredFile
from kwneuro_assets.storage.stage import WRITERS, Stage, Writer
from kwneuro_assets.storage.staging import staged, write_complete
from kwneuro_assets.storage.store_errors import Damaged, Missing, StoreError, remedy
from kwneuro_assets.subjects import GROUP, StoreKey, SubjectKey
from kwneuro_assets.threads import thread_count

__all__ = ["Damaged", "DerivativeStore", "Missing", "StoreError", "Verify"]

SHARED = ".assets"  # folder of the files that all reports of a store link to
_REQUESTS = 8  # concurrent requests: they wait for the network, not for a processor


class DerivativeStore:
    """The derivatives below `url`, by asset and subject: a folder, `s3://bucket/prefix`, or another fsspec URL.

    `source_url` is the dataset that they are derived from; it is named in the dataset description. `verify` says when
    a file is compared with its checksum on reading: always, the first time in this process, or never. Its size is
    always compared. Raises StorageError for an invalid URL.
    """

    def __init__(self, url: Path | str, source_url: str = "", verify: Verify = "always") -> None:
        self.root = location(url)
        self.verify = verify
        self._description = DatasetDescription(self.root, source_url)

    def sidecar(self, asset: str, subject: StoreKey) -> Sidecar | None:
        """The sidecar of a derivative, None if it is not in the store. Raises StoreError if it is damaged."""
        self._description.require_own()
        path = self._sidecar_path(asset, subject)

        def once() -> Sidecar | None:
            try:
                return Sidecar.from_json(read_bytes(path).decode())
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise Damaged(f"{path}: cannot be read ({error.strerror}). {remedy(asset, subject)}") from None
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise Damaged(f"{path}: is not a sidecar of this store ({error}). {remedy(asset, subject)}") from None

        return with_rereads(self.root, once)

    def read(self, asset: str, subject: StoreKey, part: Part = EVERYTHING) -> tuple[Value, Sidecar]:
        """A derivative, or a part of it, and its sidecar. Each file that is read is checked as `verify` says.

        Raises StoreError if it is missing or a file is damaged, InvalidData if it has no such part.
        """

        def value(sidecar: Sidecar) -> Value:
            files = self._files(asset, subject, sidecar, self.verify)
            return decode(sidecar.value_type, sidecar.content, Names(NAMES[asset], subject), files, part)

        return self._consistent(asset, subject, value)

    def grid(self, asset: str, subject: StoreKey) -> Grid:
        """Shape and affine of a derivative's image (of the first map of a MapSet), from the header alone.

        Raises StoreError if it is missing, InvalidData if it has no image.
        """

        def grid(sidecar: Sidecar) -> Grid:
            files = self._files(asset, subject, sidecar, self.verify)
            return decode_image_grid(sidecar.value_type, sidecar.content, Names(NAMES[asset], subject), files)

        return self._consistent(asset, subject, grid)[0]

    def check(self, asset: str, subject: StoreKey) -> Sidecar:
        """The sidecar of a derivative, after a comparison of each of its files with its checksum.

        Raises StoreError as `read` does.
        """

        def check(sidecar: Sidecar) -> None:
            files = self._files(asset, subject, sidecar, "always")
            for name in sidecar.files:
                files.decoded(name, drain)

        return self._consistent(asset, subject, check)[1]

    def subjects(self) -> list[SubjectKey]:
        """The keys of all subjects and sessions with a folder in the store, sorted. Raises StoreError."""
        self._description.require_own()
        found = []
        for name in listing(self.root).folders:
            if not name.startswith("sub-"):
                continue
            inside = listing(self.root / name).folders
            keys = [f"{name}_{session}" for session in inside if session.startswith("ses-")]
            found += [SubjectKey.parse(key) for key in [*([name] if "dwi" in inside else []), *keys]]
        return sorted(found, key=str)

    def keys(self) -> list[StoreKey]:
        """The subjects, and the group if the store has any of its derivatives. Raises StoreError."""
        return [*self.subjects(), *([GROUP] if self.assets(GROUP) else [])]

    def assets(self, subject: StoreKey) -> list[str]:
        """The derivatives of a subject or of the group that have a sidecar in the store. Raises StoreError."""
        self._description.require_own()
        present = listing(self.root / subject.folder if subject.folder else self.root).files
        return [asset for asset in NAMES if self._has_sidecar(asset, subject, present)]

    def write(
        self, asset: str, subject: StoreKey, value: Value, provenance: Provenance, figure: bytes | None = None
    ) -> Sidecar:
        """The sidecar of a derivative that was stored in place of the previous one. Raises StoreError."""
        names = Names(NAMES[asset], subject)
        encoded = encode(value, names)
        writers: dict[str, Writer] = dict(encoded.files)
        writers |= {
            names(".json", name): text_writer(text) for name, text in map_fields(provenance.bids, value).items()
        }
        if figure is not None:
            writers[NAMES[asset].figure(subject)] = lambda file: file.write(figure)
        provenance = replace(provenance, bids=shared_fields(provenance.bids, provenance.parameters))
        with self._writing(asset, subject) as stage:
            for shared, content in encoded.shared.items():
                self._write_shared(shared, content)
            files = _write_all(stage, writers)
            sidecar = Sidecar(type(value).__name__, provenance, files, encoded.content)
            self._commit(stage, asset, subject, sidecar)
        return sidecar

    def remove(self, asset: str, subject: StoreKey) -> None:
        """Remove a derivative with all its files, and the folders that are then empty. Raises StoreError."""
        folder, name = self._folder(asset, subject), NAMES[asset]
        mark = name.sidecar(subject).name
        with self._clear_errors():
            self._description.require_own()
            with staged(folder, mark, lambda file: name.owns(subject, file)) as stage:
                stage.remove(mark)  # first: a file that no sidecar names is not a result
                for file in listing(folder).files:
                    if name.owns(subject, file):
                        stage.remove(file)
            if is_local(folder) and folder != self.root:
                for above in (folder, *folder.parents):
                    if above == self.root or any(above.iterdir()):
                        break
                    above.rmdir()

    def export(self, asset: str, subject: StoreKey, target: DerivativeStore, *, split: bool = False) -> Sidecar:
        """The sidecar in another store, to which a derivative was verified and copied.

        With `split`, a derivative with one bundle per volume also gets one file per bundle there; the sidecar of the
        copy has the checksums of these files, too. Raises StoreError, and then leaves no partial copy there.
        """
        names = Names(NAMES[asset], subject)

        def copy(sidecar: Sidecar) -> Sidecar:
            files = self._files(asset, subject, sidecar, "always")
            writers = {name: _copier(files, name) for name in sidecar.files}
            if split and names.name.by_label:
                value = decode(sidecar.value_type, sidecar.content, names, files)
                provenance = sidecar.provenance
                writers |= label_files(value, names, provenance.description, provenance.bids)
            with target._writing(asset, subject) as stage:
                for shared in sidecar.content.get("Shared", ()):
                    target._write_shared(shared, self.read_file(f"{SHARED}/{shared}"))
                copied = replace(sidecar, files=_write_all(stage, writers))
                target._commit(stage, asset, subject, copied)
            return copied

        copied: Sidecar = self._consistent(asset, subject, copy)[0]
        return copied

    def path(self, asset: str, subject: StoreKey) -> UPath:
        """The first file of a stored derivative, or its sidecar if it has no other file."""
        sidecar = self.sidecar(asset, subject)
        name = next(iter(sidecar.files), None) if sidecar else None
        return self._folder(asset, subject) / name if name else self._sidecar_path(asset, subject)

    def read_file(self, path: str) -> bytes:
        """The content of a file, by its path below the root, without verification. Raises StoreError."""
        self._description.require_own()
        try:
            return read_bytes(self.root / path)
        except OSError as error:
            raise StoreError(f"{self.root / path}: cannot be read ({error.strerror or error})") from None

    @property
    def threads(self) -> int:
        """The number of threads that read many small files of the store concurrently."""
        return thread_count() if is_local(self.root) else _REQUESTS

    def holds(self, asset: str, subject: StoreKey, version: str) -> bool:
        """Whether the store has this version of a derivative, as `held` does. Raises StoreError."""
        return asset in self.held(subject, {asset: version})

    def held(self, subject: StoreKey, versions: Mapping[str, str]) -> set[str]:
        """Those of a subject's derivatives (data versions by asset) that the store has in this version.

        A derivative counts if its sidecar has the version and every file that it names exists. The subject's folder is
        listed once; sidecars are read concurrently. Raises StoreError if the store itself cannot be used.
        """
        if not versions:
            return set()
        self._description.require_own()
        present = set(listing(self.root / subject.folder if subject.folder else self.root).files)

        def is_held(asset: str) -> bool:
            try:
                sidecar = self.sidecar(asset, subject)
            except Damaged:
                return False
            if sidecar is None or sidecar.data_version != versions[asset]:
                return False
            absent = sidecar.files.keys() - present
            folder = self._folder(asset, subject)
            return not absent or (NAMES[asset].is_page and all(_size(folder / name) for name in absent))

        listed = [asset for asset in versions if self._has_sidecar(asset, subject, present)]
        if not listed:
            return set()
        with ThreadPoolExecutor(min(self.threads, len(listed)), thread_name_prefix="store") as pool:
            return {asset for asset, held in zip(listed, pool.map(is_held, listed), strict=True) if held}

    def missing(self, asset: str, subject: StoreKey) -> StoreError:
        """The error for a derivative that is not in the store: Missing if the store itself exists."""
        kind = Missing if self._description.exists else StoreError
        return kind(f"{asset} of {subject} is not in the store {self.root}. {remedy(asset, subject)}")

    def _folder(self, asset: str, subject: StoreKey) -> UPath:
        folder = NAMES[asset].folder(subject)
        return self.root / folder if folder else self.root

    def _sidecar_path(self, asset: str, subject: StoreKey) -> UPath:
        return self._folder(asset, subject) / NAMES[asset].sidecar(subject).name

    def _has_sidecar(self, asset: str, subject: StoreKey, present: Container[str]) -> bool:
        """Whether there is a sidecar; `present` are the files of the subject's folder, where all but pages are.

        The root, where the pages of all subjects are, is not listed for one of them.
        """
        name = NAMES[asset]
        if not name.is_of(subject):
            return False
        if name.folder(subject) == subject.folder:
            return name.sidecar(subject).name in present
        return _size(self._sidecar_path(asset, subject)) > 0

    def _files(self, asset: str, subject: StoreKey, sidecar: Sidecar, verify: Verify) -> CheckedFiles:
        return CheckedFiles(self._folder(asset, subject), sidecar.files, verify, remedy(asset, subject))

    def _consistent(self, asset: str, subject: StoreKey, use: Callable[[Sidecar], Any]) -> tuple[Any, Sidecar]:
        """The result of `use`, and the sidecar that it got; repeated if another process replaced the derivative
        meanwhile, or if a network may have corrupted the bytes.
        """
        reported: set[str] = set()
        while True:
            sidecar = self.sidecar(asset, subject)
            if sidecar is None:
                raise self.missing(asset, subject)
            try:
                used = use(sidecar)
                # A file that was not compared with its checksum may belong to another sidecar.
                if self.verify == "always" or self.sidecar(asset, subject) == sidecar:
                    return used, sidecar
            except Damaged as error:
                # Real damage is reported in the same words twice; corruption in transit, or a value that was replaced
                # twice in the meantime, is not.
                retry = str(error) not in reported and len(reported) < READS
                reported.add(str(error))
                if not retry and self.sidecar(asset, subject) == sidecar:
                    raise

    @contextmanager
    def _writing(self, asset: str, subject: StoreKey) -> Iterator[Stage]:
        name = NAMES[asset]
        with self._clear_errors():
            self._description.write()
            mark = name.sidecar(subject).name
            with staged(self._folder(asset, subject), mark, lambda file: name.owns(subject, file)) as stage:
                yield stage

    def _commit(self, stage: Stage, asset: str, subject: StoreKey, sidecar: Sidecar) -> None:
        mark = NAMES[asset].sidecar(subject).name
        stage.write(mark, text_writer(sidecar.to_json()))
        stage.require_lock()
        # Files that are replaced by the same bytes are complete at every moment, so their sidecar may stay.
        before = self._files_before(asset, subject)
        if before != sidecar.files:
            stage.remove(mark)
        for name in sidecar.files:
            stage.commit(name)
        stage.require_lock()
        stage.commit(mark)
        # The root has the pages of all subjects: it is not listed for one of them.
        present = before or {} if NAMES[asset].is_page else listing(self._folder(asset, subject)).files
        for name in present:
            if name not in sidecar.files and name != mark and NAMES[asset].owns(subject, name):
                stage.remove(name)

    def _write_shared(self, name: str, content: bytes) -> None:
        """Write a file that many reports link to, unless it is there with this size: its name has its version."""
        path = self.root / SHARED / name
        if _size(path) != len(content):
            write_complete(path, content)

    def _files_before(self, asset: str, subject: StoreKey) -> Mapping[str, StoredFile] | None:
        try:
            before = self.sidecar(asset, subject)
        except StoreError:
            return None
        return before.files if before else None

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Turn errors of the file system into StoreError, with the remedy."""
        try:
            yield
        except OSError as error:
            reason = {
                errno.ENOSPC: "is full: free some space and run again; the previous results are untouched",
                errno.EDQUOT: "is over its quota: free some space and run again; the previous results are untouched",
                errno.EROFS: "is on a read-only file system",
                errno.EACCES: "is not writable by this user",
                errno.EPERM: "is not writable by this user",
                errno.ENOTDIR: "is a file, or is below one: expected a folder",
                errno.EEXIST: "is a file, or is below one: expected a folder",
            }.get(error.errno or 0)
            if reason is None:
                raise
            where = f" (at {error.filename})" if error.filename else ""
            raise StoreError(f"the store {self.root} {reason}{where}") from None


def _size(path: UPath) -> int:
    """The size of a file in bytes, 0 if it does not exist."""
    return fingerprint_of(path).size


def _write_all(stage: Stage, writers: Mapping[str, Writer]) -> dict[str, StoredFile]:
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="store") as pool:
        return dict(zip(writers, pool.map(stage.write, writers, writers.values()), strict=True))


def _copier(files: CheckedFiles, name: str) -> Writer:
    def copy(target: IO[bytes]) -> None:
        def blocks(file: Opened) -> None:
            while block := file.stream.read(1 << 20):
                target.write(block)

        files.decoded(name, blocks)

    return copy
