"""What is published about a file: by Zenodo's record API, or by the file `checksums.json` of a mirror."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kwneuro_assets.storage.retries import StorageError, with_retries
from kwneuro_assets.weights.errors import WeightsError
from kwneuro_assets.weights.installed import CHECKSUMS, Trust
from kwneuro_assets.weights.networks import WeightFile
from kwneuro_assets.weights.web import NotFound, answer, without_password

READ_TIMEOUT = 10.0  # seconds; the file is fetched without a published checksum if the API does not answer
_LARGEST = 64  # blocks of an answer
_BLOCK = 1 << 16  # bytes
_ALGORITHMS = frozenset({"md5", "sha1", "sha256", "sha512"})


@dataclass(frozen=True)
class Published:
    """What is published about a file.

    Attributes:
        trust: What a file rests on that has this checksum.
        checksum: `<algorithm>:<hex>` of the download; None if none is known.
        unpacked: The SHA-256 of each file that the download unpacks to, as far as they are known.
        why_not: The reason if no checksum is known.
        license: The license that the record names.
        version: The version of the record.
        doi: The DOI of the record.
    """

    trust: Trust = "first download"
    checksum: str | None = None
    unpacked: Mapping[str, str] = field(default_factory=dict)
    why_not: str = ""
    license: str | None = None
    version: str | None = None
    doi: str | None = None


def of_record(file: WeightFile, archive: str) -> Published:
    """What the record of `file` says, in the archive with that base URL."""
    url = f"{archive}/api/records/{file.record}"
    try:
        record = _json(url)
    except (WeightsError, StorageError) as error:
        return Published(why_not=str(error), doi=file.doi)
    about = record.get("metadata")
    about = about if isinstance(about, dict) else {}
    checksum = _checksum(record, file.key)
    return Published(
        "published checksum" if checksum else "first download",
        checksum,
        why_not="" if checksum else f"{url} has no checksum of {file.key}",
        license=_license(about),
        version=_text(about.get("version")),
        doi=_text(record.get("doi")) or file.doi,
    )


def of_mirror(file: WeightFile, base_url: str) -> Published:
    """What `checksums.json` of a mirror says, the URL of a folder: the SHA-256 of each file, or of what it unpacks to.

    It has the format of the file that this package keeps beside installed weights.
    """
    url = f"{base_url}/{CHECKSUMS}"
    try:
        known = _json(url)
    except (WeightsError, StorageError) as error:
        return Published(why_not=str(error))
    entire = _text(known.get(file.name))
    inside = {name: str(known[name]) for name in file.unpacks_to if name in known}
    if not entire and len(inside) < max(len(file.unpacks_to), 1):
        return Published(why_not=f"{without_password(url)} has no checksum of {file.name}")
    return Published("checksum of the mirror", f"sha256:{entire}" if entire else None, inside)


def digest(path: Path, algorithm: str) -> str:
    """The hex digest of a file. Raises OSError."""
    found = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _json(url: str) -> dict[str, Any]:
    """The JSON object at that URL. Raises WeightsError, StorageError."""

    def attempt() -> dict[str, Any]:
        try:
            with answer(url, {"Accept": "application/json"}, READ_TIMEOUT) as response:
                content = json.loads(b"".join(islice(response.iter_content(_BLOCK), _LARGEST)))
        except NotFound:
            raise WeightsError("it does not exist") from None
        except ValueError:
            raise WeightsError("it is no JSON") from None
        if not isinstance(content, dict):
            raise WeightsError("it is no JSON object")
        return content

    try:
        return with_retries(urlsplit(url).hostname, attempt)
    except WeightsError as error:
        raise WeightsError(f"{without_password(url)}: {error}") from error


def _checksum(record: Mapping[str, Any], key: str) -> str | None:
    files = record.get("files")
    for file in files if isinstance(files, list) else ():
        if isinstance(file, dict) and file.get("key") == key:
            checksum = _text(file.get("checksum")) or ""
            algorithm, _, value = checksum.partition(":")
            return checksum if value and algorithm in _ALGORITHMS else None
    return None


def _license(about: Mapping[str, Any]) -> str | None:
    """The identifier of the license, in Zenodo's own format or in that of InvenioRDM, on which it is built."""
    found = about.get("license") or about.get("rights")
    if isinstance(found, list):
        found = found[0] if found else None
    return _text(found.get("id")) if isinstance(found, dict) else _text(found)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
