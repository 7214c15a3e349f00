"""Where datasets lie: a folder, `s3://bucket/prefix`, or any other URL that fsspec knows."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from upath import UPath

from kwneuro_assets.storage.patience import StorageError

_S3 = ("s3", "s3a")
# One attempt of botocore's: trying again is ours (patience.py). Seconds.
_S3_CLIENT = {"connect_timeout": 10, "read_timeout": 60, "retries": {"total_max_attempts": 1}}


def location(url: str | Path, *, anonymous: bool = False) -> UPath:
    """The place that `url` names; nothing is asked of it yet.

    Without a protocol, or with `file://`, it is a local path. On S3, credentials, region and endpoint come from the
    usual AWS chain (environment, profile, role), or, where `anonymous`, none are used, as public datasets want.

    Raises StorageError for a protocol that fsspec does not know or whose package is not installed, for S3 without a
    bucket, and for a URL with a password in it.
    """
    text = str(url)
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    protocol = match.group(1).lower() if match else "file"
    if protocol in ("file", "local"):
        local = text[match.end() :] if match else text
        return UPath(Path(local).expanduser().absolute())
    refuse_credentials(text)
    _require_known(protocol, text)
    if protocol in _S3 and not urlsplit(text).netloc:
        raise StorageError(f"{text}: expected s3://bucket/prefix")
    path = UPath(text, **_options(protocol, anonymous))
    if protocol in _S3:
        path.fs.retries = 1  # s3fs tries five times by itself
    return path


def refuse_credentials(url: str) -> None:
    """Raise StorageError for a URL with a user or password in it, without repeating them."""
    if "://" in url and "@" in urlsplit(url).netloc:
        protocol, place = url.partition("://")[0], urlsplit(url).netloc.rpartition("@")[2]
        raise StorageError(
            f"the URL {protocol}://...@{place} holds credentials, which would be shown and logged: expected in the "
            "environment (for S3, the usual AWS variables, profile or role)"
        )


def is_local(path: Path | UPath) -> bool:
    return isinstance(path, Path)


def _options(protocol: str, anonymous: bool) -> dict[str, Any]:
    if protocol in _S3:
        # Listings are not remembered: another process may have written since.
        return {"use_listings_cache": False, "anon": anonymous, "config_kwargs": _S3_CLIENT}
    return {}


def _require_known(protocol: str, url: str) -> None:
    known = fsspec.available_protocols()
    if protocol not in known:
        nearest = difflib.get_close_matches(protocol, known, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]}://?" if nearest else ""
        raise StorageError(f"{url}: expected a folder, s3://bucket/prefix or another URL of fsspec's{hint}")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = "'kwneuro-assets[s3]'" if protocol in _S3 else f"what fsspec asks for ({error})"
        raise StorageError(f"{url}: this protocol needs a package: pip install {package}") from None
