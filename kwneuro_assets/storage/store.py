"""The store: a folder that is a valid BIDS derivatives dataset, written so that nothing half-made is ever read.

A derivative is committed by its sidecar. All files are first written under temporary names; only when all of
them are safe on disk is the old sidecar removed, are the files renamed, and is the new sidecar put in place,
last. Whatever interrupts this, a sidecar that exists describes whole files, and a failure while writing
(a full disk) leaves what stood before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.storage.codecs import Place, Writer, decode, encode
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.storage.sidecar import Provenance, Sidecar, StoredFile
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.content import Value, file_sha256

BIDS_VERSION = "1.10.0"
GENERATOR = "kwneuro-assets"
# What BIDS has no name for yet (BEP 16), or forbids beside a derived image.
_BIDSIGNORE = (
    "*_dwimap.*\n*_dwiref.*\n*_response.json\n*_figure.png\n*_desc-*_dwi.bval\n*_desc-*_dwi.bvec\n*_mask.json\n"
)


class StoreError(ActionableError):
    """The store cannot be used, or what it holds is not what its sidecar says; says which file and what to do."""


class DerivativeStore:
    """The derivatives below `root`, by asset and subject."""

    def __init__(self, root: Path | str, source_url: str = "") -> None:
        self.root = Path(root).expanduser().absolute()
        self._source_url = source_url

    def sidecar(self, asset: str, subject: SubjectKey) -> Sidecar | None:
        """The sidecar of a derivative, None where it is not in the store. Raises StoreError for one that is broken."""
        path = self._place(asset, subject).folder / NAMES[asset].sidecar(subject).name
        try:
            return Sidecar.from_json(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: is not a sidecar of this store ({error}). {_remake(asset, subject)}") from None

    def read(self, asset: str, subject: SubjectKey) -> tuple[Value, Sidecar]:
        """A derivative and its sidecar, after comparing every file with its checksum.

        Raises StoreError where it is missing or where a file is not the one that was stored.
        """
        sidecar = self.sidecar(asset, subject)
        if sidecar is None:
            raise StoreError(f"{asset} of {subject} is not in the store {self.root}. {_remake(asset, subject)}")
        place = self._place(asset, subject)
        for name, stored in sidecar.files.items():
            _verify(place.folder / name, stored, _remake(asset, subject))
        return decode(sidecar.value_type, sidecar.content, place), sidecar

    def write(
        self, asset: str, subject: SubjectKey, value: Value, provenance: Provenance, figure: bytes | None = None
    ) -> Sidecar:
        """Store a derivative, replacing the one before it, and return its sidecar. Raises StoreError."""
        place = self._place(asset, subject)
        encoded = encode(value, place)
        writers: dict[str, Writer] = dict(encoded.files)
        if figure is not None:
            writers[NAMES[asset].figure(subject)] = lambda file: file.write(figure)
        sidecar_name = NAMES[asset].sidecar(subject).name
        with self._clear_errors():
            self.root.mkdir(parents=True, exist_ok=True)
            self._describe_dataset()
            place.folder.mkdir(parents=True, exist_ok=True)
            with _staged(place.folder) as stage:
                files = {name: stage.write(name, writer) for name, writer in writers.items()}
                sidecar = Sidecar(type(value).__name__, provenance, files, encoded.content)
                stage.write(sidecar_name, lambda file: file.write(sidecar.to_json().encode()))
                before = self._files_before(asset, subject)
                (place.folder / sidecar_name).unlink(missing_ok=True)
                stage.commit([*writers, sidecar_name])
                for name in before - set(files):
                    (place.folder / name).unlink(missing_ok=True)
        return sidecar

    def path(self, asset: str, subject: SubjectKey) -> Path:
        """The first file of a derivative that stands in the store, or its sidecar."""
        place = self._place(asset, subject)
        sidecar = self.sidecar(asset, subject)
        name = next(iter(sidecar.files), None) if sidecar else None
        return place.folder / (name or NAMES[asset].sidecar(subject).name)

    def _place(self, asset: str, subject: SubjectKey) -> Place:
        return Place(NAMES[asset], subject, self.root / subject.folder)

    def _files_before(self, asset: str, subject: SubjectKey) -> set[str]:
        try:
            before = self.sidecar(asset, subject)
        except StoreError:
            return set()
        return set(before.files) if before else set()

    def _describe_dataset(self) -> None:
        from kwneuro_assets import __version__

        description = {
            "Name": "kwneuro-assets derivatives",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": GENERATOR, "Version": __version__}],
            "SourceDatasets": [{"URL": self._source_url}] if self._source_url else [],
            "DatasetLinks": {"source": self._source_url} if self._source_url else {},
        }
        wanted = {
            "dataset_description.json": json.dumps(description, indent=2) + "\n",
            ".bidsignore": _BIDSIGNORE,
        }
        self._require_own()
        for name, text in wanted.items():
            path = self.root / name
            before = path.read_text(encoding="utf-8") if path.exists() else None
            if before != text:
                with _staged(self.root) as stage:
                    stage.write(name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
                    stage.commit([name])

    def _require_own(self) -> None:
        """The source named as the store by mistake would lose its description and get our files among its own."""
        path = self.root / "dataset_description.json"
        if not path.exists():
            return
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            own = tree["DatasetType"] == "derivative" and tree["GeneratedBy"][0]["Name"] == GENERATOR
        except (ValueError, KeyError, IndexError, TypeError):
            own = False
        if not own:
            raise StoreError(
                f"the store {self.root} is another dataset, by its {path.name}: expected a folder of its own"
            )

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


class _Stage:
    """Files of one folder under temporary names, until they are committed together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._token = secrets.token_hex(6)
        self._temporary: dict[str, Path] = {}

    def write(self, name: str, writer: Writer) -> StoredFile:
        path = self._folder / f".{name}.{self._token}.tmp"
        self._temporary[name] = path
        with path.open("wb") as file:
            counted = _HashingFile(file)
            writer(counted)  # type: ignore[arg-type]  # a write-only stream is all a writer needs
            file.flush()
            os.fsync(file.fileno())
        return StoredFile(counted.size, counted.digest.hexdigest())

    def commit(self, names: list[str]) -> None:
        """Rename in this order; the last is the commit mark."""
        for name in names:
            self._temporary.pop(name).replace(self._folder / name)
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def discard(self) -> None:
        for path in self._temporary.values():
            path.unlink(missing_ok=True)


@contextmanager
def _staged(folder: Path) -> Iterator[_Stage]:
    stage = _Stage(folder)
    try:
        yield stage
    finally:
        stage.discard()


class _HashingFile:
    """A stream that counts and hashes what passes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, block: bytes) -> int:
        self.digest.update(block)
        self.size += len(block)
        return self._file.write(block)

    def flush(self) -> None:
        self._file.flush()


def _verify(path: Path, stored: StoredFile, remedy: str) -> None:
    try:
        size, sha256 = path.stat().st_size, file_sha256(path)
    except FileNotFoundError:
        raise StoreError(f"{path}: its sidecar names it, but it is missing. {remedy}") from None
    if (size, sha256) != (stored.size, stored.sha256):
        raise StoreError(
            f"{path}: expected {stored.size} bytes with sha256 {stored.sha256[:12]}..., "
            f"found {size} with {sha256[:12]}... {remedy}"
        )


def _remake(asset: str, subject: SubjectKey) -> str:
    return f"Make it with: kwneuro-assets run --subject {subject} --select {asset}"
