"""Patience with places across a network: what may pass is tried again, what will not is said in one sentence."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from kwneuro_assets.errors import ActionableError

ATTEMPTS = 7
FIRST_DELAY = 0.25  # seconds; doubled after each attempt: 16 s in all, and a third more at most by chance

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Libraries whose exceptions tell of a network; all of them may pass but for those below.
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
_PASSING_CODES = frozenset(
    {
        "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "OperationAborted", "RequestTimeout",
        "RequestTimeTooSkewed", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
        "XAmzContentSHA256Mismatch",
    }
)  # fmt: skip
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_REFUSED_CODES = frozenset({"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"})
_WITHOUT_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"})
_UNUSABLE = frozenset({"NoRegionError", "ParamValidationError", "ProfileNotFound", "UnauthorizedSSOTokenError"})
_DEFINITE = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class StorageError(ActionableError):
    """A place that cannot be read or written: says which, why and what to do."""


class AccessDenied(StorageError):
    """The place answered that this is not to be had: forbidden, or archived."""


class Passing(Exception):
    """Something was wrong that may be right the next time, such as half an answer."""


def patiently(where: object, operation: Callable[[], _T]) -> _T:
    """The result of `operation`, which may be called again, with growing delays, while its error may pass.

    Raises StorageError, naming `where`, when it does not pass or access is refused; FileNotFoundError and
    FileExistsError as they come.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return operation()
        except (FileNotFoundError, FileExistsError) as error:
            if answered(error) != "NoSuchBucket":
                raise
            raise StorageError(f"{where}: there is no such bucket") from None
        except Exception as error:
            if not _may_pass(error):
                raise _clear(error, where) from None
            reason = _reason(error)
            if attempt == ATTEMPTS:
                raise StorageError(f"{where}: {reason}, {ATTEMPTS} times: is the place reachable?") from None
        delay = FIRST_DELAY * 2 ** (attempt - 1) * random.uniform(1, 4 / 3)
        _log.warning("%s: %s; trying again in %.1f s", where, reason, delay)
        time.sleep(delay)
    raise AssertionError("unreachable")


def answered(error: BaseException) -> str | None:
    """The code with which S3 answered, where this error is of such an answer."""
    return _answer(error)[0]


def _answer(error: BaseException) -> tuple[str | None, int | None]:
    """Code and HTTP status of S3's answer; s3fs keeps it in the cause of the error that it raises."""
    seen: BaseException | None = error
    while seen is not None:
        response: Any = getattr(seen, "response", None)
        if isinstance(response, dict):
            code = response.get("Error", {}).get("Code")
            return code, response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        seen = seen.__cause__
    return None, None


def _may_pass(error: Exception) -> bool:
    code, status = _answer(error)
    if code is not None or status is not None:
        return code in _PASSING_CODES or status in _PASSING_STATUS
    name = type(error).__name__
    if isinstance(error, _DEFINITE) or name in _WITHOUT_CREDENTIALS | _UNUSABLE:
        return False
    if isinstance(error, OSError) and error.errno in _FULL | {errno.EROFS, errno.EINVAL, errno.ENOSYS}:
        return False
    return isinstance(error, Passing | OSError | EOFError) or type(error).__module__.split(".")[0] in _NETWORK


def _clear(error: Exception, where: object) -> Exception:
    code, status = _answer(error)
    shown = code or status
    if type(error).__name__ in _WITHOUT_CREDENTIALS:
        return StorageError(
            f"{where}: no credentials were found: set the usual AWS variables, a profile or a role "
            "(source.anonymous reads public datasets)"
        )
    if code in _REFUSED_CODES:
        return StorageError(f"{where}: the credentials are not accepted ({code})")
    if code == "InvalidObjectState":
        return AccessDenied(f"{where}: is archived: restore it first")
    if isinstance(error, PermissionError):
        return AccessDenied(
            f"{where}: access is denied{f' ({shown})' if shown else ''}: check what the credentials may do"
        )
    if status == 507 or (isinstance(error, OSError) and error.errno in _FULL):
        return StorageError(f"{where}: is full: make room and run again; what stood before is untouched")
    if shown is not None:
        return StorageError(f"{where}: the server answered {shown}")
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in _NETWORK:
        return StorageError(f"{where}: {_reason(error)}")
    return error


def _reason(error: Exception) -> str:
    """In words of ours: a library's own may hold an address with a password."""
    code, status = _answer(error)
    name = type(error).__name__
    if code or status:
        return f"the server answered {code or status}"
    if isinstance(error, Passing):
        return str(error)
    if "Checksum" in name:
        return "other bytes came than its checksum says"
    if "ConnectTimeout" in name or "EndpointConnection" in name or isinstance(error, ConnectionRefusedError):
        return "it cannot be reached"
    if "Timeout" in name:
        return "no answer in time"
    if isinstance(error, ConnectionError) or any(word in name for word in ("Connection", "Disconnected", "Payload")):
        return "the connection broke off"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}"
    return name
