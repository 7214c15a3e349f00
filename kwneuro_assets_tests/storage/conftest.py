"""Locations for a store: a folder, and a prefix of a bucket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kwneuro_assets_tests.testkit.s3_server import S3Bucket


@dataclass(frozen=True)
class Place:
    """An empty location for a store; `contents` are all files below it, with hidden ones and unfinished uploads."""

    kind: str
    url: str
    contents: Callable[[], dict[str, bytes]]

    def names(self) -> set[str]:
        return set(self.contents())


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    root = tmp_path / "store"

    def contents() -> dict[str, bytes]:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    return Place("local", str(root), contents)


@pytest.fixture
def prefix(s3_bucket: S3Bucket) -> Place:
    def contents() -> dict[str, bytes]:
        unfinished = {f"{upload['Key']}?uploadId={upload['UploadId']}": b"" for upload in s3_bucket.uploads()}
        return {
            name.removeprefix("study/"): content for name, content in {**s3_bucket.contents(), **unfinished}.items()
        }

    return Place("s3", f"{s3_bucket.url}/study", contents)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    """A local folder, and a prefix on S3."""
    found: Place = request.getfixturevalue({"local": "folder", "s3": "prefix"}[request.param])
    return found
