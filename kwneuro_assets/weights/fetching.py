"""Fetch network weights that are not installed.

A download is compared with the checksum that the archive's record publishes. Trust on first use: where none is
published, or the record cannot be read while the file can, the first download is accepted; its SHA-256 is recorded
beside the file in any case, and every later use compares with it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.storage.files import file_sha256
from kwneuro_assets.storage.retries import StorageError
from kwneuro_assets.weights.download import discard, download
from kwneuro_assets.weights.errors import WeightsError, unwritable
from kwneuro_assets.weights.installed import Origin, checksums, folder_of, has_files, install, locate, verify
from kwneuro_assets.weights.networks import ZENODO, Network, WeightFile, network_of
from kwneuro_assets.weights.records import Published, digest, of_mirror, of_record
from kwneuro_assets.weights.temporary import scratch_in
from kwneuro_assets.weights.unzip import extract
from kwneuro_assets.weights.web import without_password

MIRROR_VARIABLE = "KWNEURO_WEIGHTS_URL"  # the URL of a folder with all files, instead of Zenodo
ARCHIVE_VARIABLE = "KWNEURO_ARCHIVE_URL"  # the base URL of a server with Zenodo's records, for tests
OFFLINE_VARIABLE = "KWNEURO_OFFLINE"  # no request is made if it is set
_WAITING = "weights of %s: waiting for another process"

_log = logging.getLogger(__name__)


class WrongChecksum(WeightsError):
    """A download has another checksum than expected."""


def fetch(name: str, folder: Path, progress: Progress = silent, base_url: str | None = None) -> Path:
    """Download the missing files of a network into `<folder>/<name>/` and return that folder.

    `base_url` (default: the environment variable `KWNEURO_WEIGHTS_URL`) is a mirror. A file appears in the folder only
    when it is complete and verified; a broken download is continued by the next call. If another process downloads the
    same network, this one waits for it. Raises WeightsError with the URL, the reason and the remedy.
    """
    network = network_of(name)
    home = folder_of(network, folder)
    if has_files(home, network.installed_files):
        return home
    if is_offline():
        raise WeightsError(
            f"weights of {name}: expected in {home}, found none, and {OFFLINE_VARIABLE} forbids to download them; "
            f"install them with: kwneuro-assets weights add {name} FILE..., or weights unpack FILE"
        )
    base_url = (base_url or os.environ.get(MIRROR_VARIABLE) or "").rstrip("/")
    with changing(network, home) as scratch:
        for index, file in enumerate(network.files):

            def overall(fraction: float, index: int = index) -> None:
                progress((index + fraction) / len(network.files))

            if not has_files(home, file.installed_files):
                _fetch_file(network, file, home, scratch, base_url, overall)
            overall(1.0)
    return home


def require(name: str, folder: Path, progress: Progress = silent, base_url: str | None = None) -> Path:
    """The folder of the weights of a network, verified; downloads them if they do not exist. Raises WeightsError."""
    return require_verified(name, folder, progress, base_url)[0]


def require_verified(
    name: str, folder: Path, progress: Progress = silent, base_url: str | None = None
) -> tuple[Path, dict[str, str]]:
    """As `require`, with the SHA-256 of each file."""
    where = locate(name, folder) or fetch(name, folder, progress, base_url)
    return where, verify(name, where)


def is_offline() -> bool:
    """Whether the environment variable `KWNEURO_OFFLINE` forbids requests."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


@contextmanager
def changing(network: Network, home: Path) -> Iterator[Path]:
    """The only process that changes the folder `home` of a network; yields a temporary folder in it.

    Files can be renamed from there to their final names. Raises WeightsError if the folder cannot be written.
    """
    try:
        with scratch_in(home, partial(_log.warning, _WAITING, network.name)) as scratch:
            yield scratch
    except OSError as error:
        raise WeightsError(f"weights of {network.name}: {unwritable(home, error)}") from error


def _fetch_file(
    network: Network, file: WeightFile, home: Path, scratch: Path, base_url: str, progress: Progress
) -> None:
    archive = (os.environ.get(ARCHIVE_VARIABLE) or ZENODO).rstrip("/")
    url = f"{base_url}/{file.name}" if base_url else file.url_at(archive)
    shown = without_password(url)
    part = home / f".{file.name}.part"
    try:
        published = of_mirror(file, base_url) if base_url else of_record(file, archive)
        _download(url, part, published, progress)
        try:
            _install(part, file, home, scratch, shown, published)
        finally:
            discard(part)
    except WrongChecksum as error:
        raise WrongChecksum(f"weights of {network.name}: {shown}: {error}") from error
    except (WeightsError, StorageError) as error:
        raise WeightsError(
            f"weights of {network.name}: {shown} could not be downloaded: {error}. Download it manually and install it "
            f"with: kwneuro-assets weights add {network.name} FILE"
        ) from error
    if published.trust == "first download":
        _log.warning(
            "weights of %s: %s: no published checksum (%s); later uses are compared with this first download",
            network.name, file.name, published.why_not,
        )  # fmt: skip


def _download(url: str, part: Path, published: Published, progress: Progress) -> None:
    """Download the file and compare it with the published checksum. Raises WeightsError, StorageError, OSError."""
    continued = download(url, part, progress)
    if not published.checksum:
        return
    algorithm, _, expected = published.checksum.partition(":")
    found = digest(part, algorithm)
    if found != expected and continued:  # the parts may not belong together
        discard(part)
        download(url, part, progress)
        found = digest(part, algorithm)
    if found != expected:
        discard(part)
        raise _mismatch(published.trust, algorithm, expected, found)


def _install(part: Path, file: WeightFile, home: Path, scratch: Path, source: str, published: Published) -> None:
    if file.unpacks_to:
        extract(part, scratch, file.unpacks_to)
    else:
        os.replace(part, scratch / file.name)
    found = {name: file_sha256(scratch / name) for name in file.installed_files}
    first = checksums(home) if published.trust == "first download" else {}  # of an earlier download
    for name, sha256 in found.items():
        expected = published.unpacked.get(name) or first.get(name) or sha256
        if sha256 != expected:
            raise _mismatch(published.trust, "sha256", expected, sha256)
    origins = _origins(scratch, file, source, published)
    install(scratch, home, {name: (sha256, origins[name]) for name, sha256 in found.items()})


def _mismatch(trust: str, algorithm: str, expected: str, found: str) -> WrongChecksum:
    return WrongChecksum(
        f"{trust}: expected the {algorithm.upper()} {expected}, found {found}; nothing was installed. Fetch it again; "
        "if this does not help, the server or a proxy sends another file"
    )


def _origins(folder: Path, file: WeightFile, source: str, published: Published) -> Mapping[str, Origin]:
    return {
        name: Origin(
            source, published.trust, (folder / name).stat().st_size,
            published.license, published.version, published.doi, published.checksum,
        )
        for name in file.installed_files
    }  # fmt: skip
