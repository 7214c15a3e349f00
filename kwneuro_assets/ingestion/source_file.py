"""Reading one source file; an error names the file, and the cause if its content was never fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from upath import UPath

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.storage.files import Digest, Opened, digested, missing_content, opened, pointer_kind, read_bytes


@dataclass(frozen=True)
class TextFile:
    """A text file: its path and its bytes."""

    path: UPath
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def text(self) -> str:
        """The text. Raises InvalidData if it is a pointer to content that was not fetched, or no text."""
        not_fetched = pointer_kind(self.content)
        if not_fetched:
            raise InvalidData("text file", expected="numbers", found=not_fetched.found, remedy=not_fetched.remedy).at(
                self.path
            )
        is_utf16 = self.content.startswith((b"\xff\xfe", b"\xfe\xff"))
        try:
            return self.content.decode("utf-16" if is_utf16 else "utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidData("text file", expected="numbers as text", found="other bytes").at(self.path) from None


def read_text(path: UPath, max_bytes: int | None = None) -> TextFile:
    """The file. Raises InvalidData if it cannot be read, or is longer than `max_bytes`."""
    with _readable(path, "file", "one that can be read"):
        if max_bytes is None:
            return TextFile(path, read_bytes(path))
        with opened(path) as file:
            content = file.stream.read(max_bytes + 1) if file.size <= max_bytes else b""
            if max(file.size, len(content)) > max_bytes:
                raise InvalidData("file", expected=f"at most {max_bytes} bytes", found=f"{file.size}").at(path)
            return TextFile(path, content)


@contextmanager
def digested_image(path: UPath) -> Iterator[tuple[Opened, Digest]]:
    """The open image and the digest of the bytes that are read from it. Raises InvalidData if it cannot be read."""
    with _readable(path, "image", "a file that can be read"), opened(path) as file, digested(file) as pair:
        yield pair


@contextmanager
def _readable(path: UPath, what: str, expected: str) -> Iterator[None]:
    """One file that cannot be read, such as a link whose target was not fetched, does not stop the other subjects."""
    try:
        yield
    except OSError as error:
        not_fetched = missing_content(path)
        found = not_fetched.found if not_fetched else error.strerror or "nothing there"
        remedy = not_fetched.remedy if not_fetched else ""
        raise InvalidData(what, expected=expected, found=found, remedy=remedy).at(path) from None
