"""Download of one file over HTTP that continues where an earlier one ended.

pooch is not used: it starts a broken download again from zero, locks nothing, and keeps neither license nor origin. It
asks Zenodo for checksums, but fails where there are none. Nor is zenodo_get: it knows Zenodo only, no mirror.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from kwneuro_assets.progress import Progress, silent
from kwneuro_assets.storage.retries import TransientError, with_retries
from kwneuro_assets.weights.errors import WeightsError, unwritable
from kwneuro_assets.weights.json_files import read_json, write_json
from kwneuro_assets.weights.web import NoSuchRange, Unreachable, answer, without_password

if TYPE_CHECKING:
    import requests

_BLOCK = 1 << 16  # bytes; a broken connection costs at most one block
_WEB_PAGE = re.compile(rb"\s*<(!doctype\s+)?html", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


def download(url: str, part: Path, progress: Progress = silent) -> bool:
    """Download `url` to the file `part`; returns whether it was put together from several answers of the server.

    If `part` holds the start of the same file, by URL, size and ETag or date, only the rest is requested; a server that
    cannot do so sends all. Transient errors are retried. After any other interruption `part` remains, for the next
    call; it is removed if it is useless: the disk is full, or the server sent a web page or an empty file.

    Raises StorageError if the retries are exhausted, else WeightsError. The message is only the reason.
    """
    connected = False

    def attempt() -> bool:
        nonlocal connected
        try:
            return _attempt(url, part, progress)
        except Unreachable as error:
            if not connected:
                raise
            raise TransientError(str(error)) from error  # perhaps the server restarts
        except TransientError:
            connected = True
            raise

    return with_retries(urlsplit(url).hostname, attempt)


def discard(part: Path) -> None:
    """Remove the file of a download and what is noted about it."""
    _notes_of(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Source:
    """The file on the server: its validator is a strong ETag or else a date; None if the server sent neither."""

    url: str
    size: int | None
    validator: str | None


def _attempt(url: str, part: Path, progress: Progress) -> bool:
    """Whether an earlier part was continued. Raises as `answer` does, and WeightsError."""
    source = _noted(part, url)
    done = part.stat().st_size if source and part.is_file() else 0
    if source and source.size is not None and source.size == done:
        return True
    headers = {"Range": f"bytes={done}-", "If-Range": source.validator or ""} if source and done else {}
    try:
        with answer(url, headers) as response:
            if response.status_code == 206:
                _require_continuation(response, source, done)
            else:
                source, done = _source(response, url), 0
            _receive(response, part, done, source, progress)
    except NoSuchRange:
        discard(part)
        raise
    return done > 0


def _receive(response: requests.Response, part: Path, done: int, source: _Source | None, progress: Progress) -> None:
    """Append the content of the answer to the first `done` bytes of the file. Raises TransientError, WeightsError."""
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise WeightsError("the server sent a web page instead of the file")
    size = source.size if source else None
    with _writable(part, done, source) as file:
        for block in response.iter_content(_BLOCK):
            if not done and _WEB_PAGE.match(block):
                raise _useless(part, "the server sent a web page instead of the file")
            _write(file, block, part)
            done += len(block)
            if size:
                progress(min(done / size, 1.0))
    if not done:
        raise _useless(part, "the server sent an empty file")
    if size is not None and done != size:
        raise TransientError(f"the download ended after {done} of {size} bytes")


def _writable(part: Path, done: int, source: _Source | None) -> BinaryIO:
    try:
        if not done and source:
            write_json(_notes_of(part), asdict(source))
        file = part.open("r+b" if done else "wb")
        file.seek(done)
    except OSError as error:
        raise unwritable(part.parent, error) from error
    return file


def _write(file: BinaryIO, block: bytes, part: Path) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        with suppress(OSError):
            file.truncate(0)  # what is still in the buffer cannot be written when the file is closed
        raise _useless(part, str(unwritable(part.parent, error))) from error


def _useless(part: Path, reason: str) -> WeightsError:
    discard(part)
    return WeightsError(reason)


def _source(response: requests.Response, url: str) -> _Source:
    size = response.headers.get("Content-Length", "")
    tag = response.headers.get("ETag", "")
    # A weak ETag does not promise equal bytes.
    validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    return _Source(without_password(url), int(size) if size.isdigit() else None, validator)


def _require_continuation(response: requests.Response, source: _Source | None, done: int) -> None:
    """Raises NoSuchRange unless the answer continues the file after its first `done` bytes."""
    found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if not (found and source and int(found[1]) == done and source.size in (None, int(found[2]))):
        raise NoSuchRange("the server sent another part of the file")


def _notes_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _noted(part: Path, url: str) -> _Source | None:
    """What is noted about the file `part`, if it can be continued."""
    try:
        source = _Source(**read_json(_notes_of(part)))
    except (WeightsError, TypeError):
        return None
    return source if source.url == without_password(url) and source.validator else None
