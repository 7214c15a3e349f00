"""Locations of datasets: a folder, `s3://bucket/prefix`, or any other fsspec URL."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from upath import UPath

from kwneuro_assets.credentials import credentials_error
from kwneuro_assets.storage.retries import StorageError

_S3 = ("s3", "s3a")
# Seconds. One attempt in botocore: retries are ours (retries.py).
_S3_CLIENT = {"connect_timeout": 10, "read_timeout": 60, "retries": {"total_max_attempts": 1}}


def location(url: str | Path, *, anonymous: bool = False) -> UPath:
    """The path that `url` names; sends no request.

    Without a protocol, or with `file://`, it is a local path. On S3, credentials, region and endpoint come from the
    usual AWS chain (environment, profile, role); with `anonymous`, as for public datasets, no credentials are used.

    Raises StorageError if fsspec does not know the protocol or its package is not installed, if an S3 URL has no
    bucket, and if the URL contains a user or password.
    """
    text = str(url)
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    protocol = match.group(1).lower() if match else "file"
    if protocol in ("file", "local"):
        local = text[match.end() :] if match else text
        return UPath(Path(local).expanduser().absolute())
    if error := credentials_error(text):
        raise StorageError(error)
    _require_known(protocol, text)
    if protocol in _S3 and not urlsplit(text).netloc:
        raise StorageError(f"{text}: expected s3://bucket/prefix")
    path = UPath(text, **_options(protocol, anonymous))
    if protocol in _S3:
        path.fs.retries = 1  # s3fs would retry five times
    return path


def canonical_url(url: str | Path) -> str:
    """The same text for every spelling of a location: relative or absolute, through links, with or without a trailing
    slash. Raises as `location` does.
    """
    path = location(url)
    if is_local(path):
        return str(Path(str(path)).resolve())
    return re.sub(r"^s3a://", "s3://", str(path)).rstrip("/")


def is_local(path: Path | UPath) -> bool:
    """Whether a path is in this machine's file system."""
    return isinstance(path, Path)


def _options(protocol: str, anonymous: bool) -> dict[str, Any]:
    if protocol in _S3:
        # No cache of listings: another process may have written in the meantime.
        return {"use_listings_cache": False, "anon": anonymous, "config_kwargs": _S3_CLIENT}
    return {}


def _require_known(protocol: str, url: str) -> None:
    known = fsspec.available_protocols()
    if protocol not in known:
        nearest = difflib.get_close_matches(protocol, known, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]}://?" if nearest else ""
        raise StorageError(f"{url}: expected a folder, s3://bucket/prefix or another fsspec URL{hint}")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = "'kwneuro-assets[s3]'" if protocol in _S3 else f"the one that fsspec names ({error})"
        raise StorageError(f"{url}: this protocol needs a package: pip install {package}") from None
