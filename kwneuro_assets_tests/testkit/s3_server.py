"""A real S3 server over HTTP for tests: moto in a separate process.

moto differs from S3 in two points that tests of a store would report as errors of the store, so the server process
wraps it (`as_s3_answers`):

- S3 serializes the requests for one object; moto's threads close an object's buffer while another thread reads it
  (status 500, or a wrong ETag).
- S3 rejects a body that contradicts its digest headers (400 BadDigest); moto accepts it. The option
  `refuse_bad_digests` selects S3's behavior. Without it, a body that is corrupted in transit is stored, which is the
  harder case for a client.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import io
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
KEY = "kwneuro-test-key"
SECRET = "kwneuro-test-secret-5f0c1e7ab9d24c3f86"
"""Tests check that no log, event, error message or database contains it."""

START_SECONDS = 60.0
"""Importing moto takes about one second, and much longer on a busy machine."""

SMALLEST_PART = 1024
"""S3 requires 5 MB for every part but the last; with less, a test of many parts needs little data."""

BUFFER_BYTES = 2 << 30
"""Largest object that moto holds in memory. Above it (5 MB by default), moto copies the entire object from a temporary
file for every ranged read."""


class S3Server:
    """A running S3 server; a context manager that stops it at the exit.

    The server also stops when its parent process ends for any reason: it holds the other end of a pipe and exits when
    the pipe closes.

    Raises RuntimeError with the server's log if it does not respond within `START_SECONDS`.
    """

    def __init__(self, *, refuse_bad_digests: bool = False) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        self.endpoint = f"http://{HOST}:{port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop()
        command = [sys.executable, "-m", __name__, str(port)] + ["--refuse-bad-digests"] * refuse_bad_digests
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            env={
                **os.environ,
                "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(BUFFER_BYTES),
                "S3_UPLOAD_PART_MIN_SIZE": str(SMALLEST_PART),
            },
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait_for_response()
        except BaseException:
            self.stop()
            raise

    def _wait_for_response(self) -> None:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            try:
                direct.open(f"{self.endpoint}/moto-api/data.json", timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the S3 server at {self.endpoint} did not start: {self.log()}")

    def log(self) -> str:
        """The server's log so far: errors with tracebacks."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def stop(self) -> None:
        """Stop the server process and wait for it; a second call does nothing."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()  # it has no state to save
        self._process.wait()
        self._log.close()

    def __enter__(self) -> S3Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @cached_property
    def client(self) -> Any:
        """A boto3 S3 client that connects to the server directly, independent of the environment.

        It neither retries nor verifies checksums, so that a test sees the stored content, right or wrong.
        """
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(proxies={}, retries={"total_max_attempts": 1}, response_checksum_validation="when_required"),
        )

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The variables that make AWS clients use this server (or `endpoint`, a proxy) and nothing else."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def new_bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    def contents(self, bucket: str) -> dict[str, bytes]:
        """The content of every object in the bucket, by key."""
        return {key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in self._keys(bucket)}

    def uploads(self, bucket: str) -> list[dict[str, Any]]:
        """The multipart uploads that are neither completed nor aborted (`Key`, `UploadId`, ...)."""
        return list(self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))

    def remove_bucket(self, bucket: str) -> None:
        """Remove the bucket with its objects and uploads, to free the server's memory."""
        for upload in self.uploads(bucket):
            self.client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        for key in self._keys(bucket):
            self.client.delete_object(Bucket=bucket, Key=key)
        self.client.delete_bucket(Bucket=bucket)

    def _keys(self, bucket: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


@dataclass(frozen=True)
class S3Bucket:
    """A bucket of the server for one test."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def contents(self) -> dict[str, bytes]:
        return self.server.contents(self.name)

    def uploads(self) -> list[dict[str, Any]]:
        return self.server.uploads(self.name)


@contextmanager
def counted_requests() -> Iterator[Counter[str]]:
    """Context that counts the S3 requests of this process through s3fs, by operation."""
    from aiobotocore.client import AioBaseClient

    original, counts = AioBaseClient._make_api_call, Counter[str]()

    async def counted(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        counts[operation] += 1
        return await original(self, operation, arguments)

    AioBaseClient._make_api_call = counted
    try:
        yield counts
    finally:
        AioBaseClient._make_api_call = original


def as_s3_answers(moto: WSGIApplication, *, refuse_bad_digests: bool) -> WSGIApplication:
    """moto with complete, serialized requests: each is read to its end and handled before the next one starts."""
    one_at_a_time = threading.Lock()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = complete_body(environ)
        if body is None:
            return refusal("IncompleteBody", start_response)
        if refuse_bad_digests and not digests_agree(environ, body):
            return refusal("BadDigest", start_response)
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        with one_at_a_time:
            return list(moto(environ, start_response))

    return application


def complete_body(environ: WSGIEnvironment) -> bytes | None:
    """The request's body; None if the sender disconnected before its end."""
    if environ.get("wsgi.input_terminated"):  # Transfer-Encoding: chunked, which raises if it is incomplete
        return bytes(environ["wsgi.input"].read())
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = bytes(environ["wsgi.input"].read(length)) if length else b""
    return body if len(body) == length else None


def digests_agree(environ: WSGIEnvironment, body: bytes) -> bool:
    """Whether the body agrees with the digest headers of the request."""
    found = {
        "HTTP_CONTENT_MD5": base64.b64encode(hashlib.md5(body).digest()),
        "HTTP_X_AMZ_CHECKSUM_CRC32": base64.b64encode(binascii.crc32(body).to_bytes(4, "big")),
        "HTTP_X_AMZ_CHECKSUM_SHA256": base64.b64encode(hashlib.sha256(body).digest()),
        "HTTP_X_AMZ_CONTENT_SHA256": hashlib.sha256(body).hexdigest().encode(),
    }
    claimed = {name: environ[name].encode() for name in found if name in environ}
    payload = claimed.get("HTTP_X_AMZ_CONTENT_SHA256", b"")
    if payload.startswith((b"UNSIGNED-", b"STREAMING-")):  # a keyword instead of a digest
        del claimed["HTTP_X_AMZ_CONTENT_SHA256"]
    return all(found[name] == digest for name, digest in claimed.items())


def refusal(code: str, start_response: StartResponse) -> list[bytes]:
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
    start_response("400 Bad Request", [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
    return [text]


def end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve until the standard input ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    arguments = argparse.ArgumentParser()
    arguments.add_argument("port", type=int)
    arguments.add_argument("--refuse-bad-digests", action="store_true")
    options = arguments.parse_args()

    class QuietHandler(MotoRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Do not log requests, only errors: each line costs time."""

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    moto = DomainDispatcherApplication(create_backend_app)
    application = as_s3_answers(moto, refuse_bad_digests=options.refuse_bad_digests)
    run_simple(HOST, options.port, application, threaded=True, request_handler=QuietHandler)


if __name__ == "__main__":
    main()
