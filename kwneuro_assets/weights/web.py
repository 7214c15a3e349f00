"""Requests to the servers of the weights; their errors are transient or final, with a reason in our own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from kwneuro_assets.storage.retries import TransientError
from kwneuro_assets.weights.errors import WeightsError

if TYPE_CHECKING:
    import requests

CONNECT_TIMEOUT = 5.0  # seconds; short, so that an offline machine gets the error soon
READ_TIMEOUT = 60.0  # seconds; long, for a slow server
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


def without_password(url: str) -> str:
    """The URL for messages and records."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class Unreachable(WeightsError):
    """No connection to the server: not retried, as the machine is probably offline."""


class NotFound(WeightsError):
    """The server does not have the file."""


class NoSuchRange(TransientError):
    """The server does not have the requested part of the file."""


@contextmanager
def answer(
    url: str, headers: Mapping[str, str] | None = None, read_timeout: float = READ_TIMEOUT
) -> Iterator[requests.Response]:
    """The answer to a GET request, to be read in this context.

    Raises TransientError if a retry may help, also while the answer is read, else WeightsError. The message is only
    the reason.
    """
    import requests

    try:
        # Without a content encoding, Content-Length is the size of the file.
        plain = {"Accept-Encoding": "identity", **(headers or {})}
        with requests.get(url, stream=True, timeout=(CONNECT_TIMEOUT, read_timeout), headers=plain) as response:
            _require_success(response)
            yield response
    except requests.ConnectTimeout as error:
        raise Unreachable(f"no connection within {CONNECT_TIMEOUT:g} s") from error
    except requests.Timeout as error:
        raise TransientError(f"the server sent nothing for {read_timeout:g} s") from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise TransientError("the connection was interrupted") from error
    except requests.ConnectionError as error:
        raise _connection_error(error) from error
    except requests.RequestException as error:
        raise WeightsError(f"{type(error).__name__}: {error}".replace(url, without_password(url))) from error


def _require_success(response: requests.Response) -> None:
    status = response.status_code
    reason = f"the server responded with {status} {response.reason}"
    if status == 416:
        raise NoSuchRange(reason)
    if status in _TRANSIENT_STATUS:
        raise TransientError(reason)
    if status in (404, 410):
        raise NotFound(reason)
    if not 200 <= status < 300:
        raise WeightsError(reason)


def _connection_error(error: requests.ConnectionError) -> Exception:
    import requests
    from urllib3.exceptions import MaxRetryError

    if isinstance(error, requests.exceptions.ProxyError):
        return Unreachable("the proxy cannot be reached")
    if isinstance(error, requests.exceptions.SSLError) and "certificate" in str(error).lower():
        return Unreachable("this machine does not accept the server's certificate")
    if error.args and isinstance(error.args[0], MaxRetryError):  # raised before there is a connection
        return Unreachable("the server cannot be reached")
    return TransientError("the connection was interrupted")
