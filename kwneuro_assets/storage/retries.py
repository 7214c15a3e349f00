"""Retries of requests over a network: transient errors are retried, others become one clear message."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from kwneuro_assets.errors import ActionableError

ATTEMPTS = 7
FIRST_DELAY = 0.25  # seconds; doubled after each attempt: 16 s in all, and up to a third more by random jitter

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Libraries whose exceptions report network errors: transient, except those below.
_NETWORK = frozenset(
    {
        "aiobotocore",
        "aiohttp",
        "asyncio",
        "azure",
        "botocore",
        "fsspec",
        "gcsfs",
        "google",
        "http",
        "requests",
        "urllib3",
    }
)
_TRANSIENT_CODES = frozenset(
    {
        "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "OperationAborted", "RequestTimeout",
        "RequestTimeTooSkewed", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
        "XAmzContentSHA256Mismatch",
    }
)  # fmt: skip
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_REFUSED_CODES = frozenset({"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"})
_WITHOUT_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"})
_UNUSABLE = frozenset({"NoRegionError", "ParamValidationError", "ProfileNotFound", "UnauthorizedSSOTokenError"})
_DEFINITE = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class StorageError(ActionableError):
    """A location cannot be read or written; the message has the location, the reason and the remedy."""


class AccessDenied(StorageError):
    """The server refused access: forbidden, or archived."""


class TransientError(Exception):
    """An error that a retry may resolve, such as an incomplete answer."""


def with_retries(where: object, operation: Callable[[], _T]) -> _T:
    """The result of `operation`, retried on transient errors with exponential backoff and jitter.

    Raises StorageError, naming `where`, if the error is not transient, the retries are exhausted or access is refused;
    FileNotFoundError and FileExistsError pass through.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return operation()
        except (FileNotFoundError, FileExistsError) as error:
            if answered(error) != "NoSuchBucket":
                raise
            raise StorageError(f"{where}: the bucket does not exist") from None
        except Exception as error:
            if not _is_transient(error):
                raise _clear(error, where) from None
            reason = _reason(error)
            if attempt == ATTEMPTS:
                raise StorageError(
                    f"{where}: {reason}, in {ATTEMPTS} attempts: check that the server is reachable"
                ) from None
        delay = FIRST_DELAY * 2 ** (attempt - 1) * random.uniform(1, 4 / 3)
        _log.warning("%s: %s; retrying in %.1f s", where, reason, delay)
        time.sleep(delay)
    raise AssertionError("unreachable")


def answered(error: BaseException) -> str | None:
    """The error code of S3's answer, None if the error has none."""
    return _answer(error)[0]


def _answer(error: BaseException) -> tuple[str | None, int | None]:
    """Code and HTTP status of S3's answer, which s3fs stores in the cause of the error that it raises."""
    seen: BaseException | None = error
    while seen is not None:
        response: Any = getattr(seen, "response", None)
        if isinstance(response, dict):
            code = response.get("Error", {}).get("Code")
            return code, response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        seen = seen.__cause__
    return None, None


def _is_transient(error: Exception) -> bool:
    code, status = _answer(error)
    if code is not None or status is not None:
        return code in _TRANSIENT_CODES or status in _TRANSIENT_STATUS
    name = type(error).__name__
    if isinstance(error, _DEFINITE) or name in _WITHOUT_CREDENTIALS | _UNUSABLE:
        return False
    if isinstance(error, OSError) and error.errno in _FULL | {errno.EROFS, errno.EINVAL, errno.ENOSYS}:
        return False
    return isinstance(error, TransientError | OSError | EOFError) or type(error).__module__.split(".")[0] in _NETWORK


def _clear(error: Exception, where: object) -> Exception:
    code, status = _answer(error)
    shown = code or status
    if type(error).__name__ in _WITHOUT_CREDENTIALS:
        return StorageError(
            f"{where}: found no credentials: set the usual AWS variables, a profile or a role "
            "(source.anonymous reads public datasets)"
        )
    if code in _REFUSED_CODES:
        return StorageError(f"{where}: the server rejected the credentials ({code})")
    if code == "InvalidObjectState":
        return AccessDenied(f"{where}: is archived: restore it first")
    if isinstance(error, PermissionError):
        return AccessDenied(
            f"{where}: access is denied{f' ({shown})' if shown else ''}: check the permissions of the credentials"
        )
    if status == 507 or (isinstance(error, OSError) and error.errno in _FULL):
        return StorageError(f"{where}: is full: free some space and run again; the previous results are untouched")
    if shown is not None:
        return StorageError(f"{where}: the server answered {shown}")
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in _NETWORK:
        return StorageError(f"{where}: {_reason(error)}")
    return error


def _reason(error: Exception) -> str:
    """The cause in our own words: a library's message may contain a URL with a password."""
    code, status = _answer(error)
    name = type(error).__name__
    if code or status:
        return f"the server answered {code or status}"
    if isinstance(error, TransientError):
        return str(error)
    if "Checksum" in name:
        return "the received bytes do not match their checksum"
    if "ConnectTimeout" in name or "EndpointConnection" in name or isinstance(error, ConnectionRefusedError):
        return "the server cannot be reached"
    if "Timeout" in name:
        return "the server did not answer in time"
    if isinstance(error, ConnectionError) or any(word in name for word in ("Connection", "Disconnected", "Payload")):
        return "the connection was interrupted"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}"
    return name
