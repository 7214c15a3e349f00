"""Links of a report: only to what is in the store, or to the web page of a reference when the user follows it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

_IMAGE = re.compile(r"data:image/(png|jpeg|webp);base64,[A-Za-z0-9+/]+=*")


def local_url(url: str) -> str | None:
    """`url` if it is relative and stays in the folder of the page, or None.

    >>> local_url("sub-01/dwi/sub-01_desc-brain_mask.json")
    'sub-01/dwi/sub-01_desc-brain_mask.json'
    >>> local_url("javascript:alert(1)"), local_url("//host/file"), local_url("sub-01/%2e%2e/../secret")
    (None, None, None)
    """
    # Browsers drop control characters and take \\ for /, so both could hide another address.
    if not url or any(ord(character) <= 32 for character in url) or "\\" in unquote(url):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an unclosed bracket of an IPv6 address
        return None
    path = PurePosixPath(unquote(parts.path))
    if parts.scheme or parts.netloc or path.is_absolute() or ".." in path.parts:
        return None
    return url


def image_url(url: str) -> str | None:
    """`url` if it is a `local_url` or an image inside the page (`data:`), or None."""
    return url if _IMAGE.fullmatch(url) else local_url(url)


def web_url(url: str) -> str | None:
    """`url` if it is an address of the web, with https, or None.

    >>> web_url("https://doi.org/10.1006/jmrb.1996.0086"), web_url("javascript:alert(1)//https://doi.org")
    ('https://doi.org/10.1006/jmrb.1996.0086', None)
    """
    return url if re.fullmatch(r"https://[^\s\"'<>\\]+", url) else None


def anchor(name: str) -> str:
    """A name as the end of an `id`: letters, digits, `-` and `_`."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)
