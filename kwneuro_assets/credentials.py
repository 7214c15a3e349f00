"""Detection of credentials in URLs, which would be shown in the UI and written to logs."""

from __future__ import annotations

from urllib.parse import urlsplit


def credentials_error(url: str) -> str | None:
    """The error message for a URL that contains a user name or password, without repeating them; None for any other.

    >>> credentials_error("s3://bucket/prefix")
    >>> credentials_error("s3://user:password@bucket/prefix")
    'the URL s3://...@bucket holds credentials, which would be shown and logged: expected in the environment (for S3, \
the usual AWS variables, profile or role)'
    """
    parts = urlsplit(url) if "://" in url else None
    if parts is None or "@" not in parts.netloc:
        return None
    protocol, host = url.partition("://")[0], parts.netloc.rpartition("@")[2]
    return (
        f"the URL {protocol}://...@{host} holds credentials, which would be shown and logged: expected in the "
        "environment (for S3, the usual AWS variables, profile or role)"
    )
