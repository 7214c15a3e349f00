"""One file over HTTP, whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.weights.errors import WeightsError

CONNECT_TIMEOUT = 5.0  # seconds: an unreachable host is told quickly,
READ_TIMEOUT = 60.0  # a slow one is waited for
_BLOCK = 1 << 20  # bytes


def download(url: str, target: Path, progress: Progress = silent) -> str:
    """Writes what `url` serves to `target` and returns its SHA-256; where that fails, `target` does not exist.

    Raises WeightsError, whose text is the reason alone, when the server cannot be reached, answers with an error
    or a web page, or sends fewer bytes than it announced.
    """
    import requests

    try:
        # Without a content encoding the announced length is that of the file.
        with requests.get(
            url, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), headers={"Accept-Encoding": "identity"}
        ) as answer:
            answer.raise_for_status()
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise WeightsError("the server sent a web page in place of the file")
            announced = int(answer.headers.get("Content-Length", 0))
            digest, received = hashlib.sha256(), 0
            with target.open("wb") as file:
                for block in answer.iter_content(_BLOCK):
                    file.write(block)
                    digest.update(block)
                    received += len(block)
                    if announced:
                        progress(received / announced)
        if announced and received != announced:
            raise WeightsError(f"it ended after {received} of {announced} bytes")
        if not received:
            raise WeightsError("the server sent an empty file")
    except WeightsError:
        target.unlink(missing_ok=True)
        raise
    except requests.RequestException as error:
        target.unlink(missing_ok=True)
        raise WeightsError(_reason(error)) from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_TIMEOUT:g} s"
    if isinstance(error, requests.Timeout):
        return f"the server sent nothing for {READ_TIMEOUT:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached"
    return f"{type(error).__name__}: {error}"
