"""A real S3 server over HTTP for tests: moto's, in a process of its own.

moto by itself falls short of S3 in two points that a store's tests would take for faults of the store, so the server
process puts a thin layer before it (`as_s3_answers`):

- S3 handles the requests for one object one after the other; moto's threads close an object's buffer while another
  thread reads it (500, or a wrong ETag).
- S3 refuses a body that contradicts its digest headers (400 BadDigest); moto believes them. This one is a choice,
  `refuse_bad_digests`: without it, a body that was changed on its way is stored, the harder case for a client.
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
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
KEY = "kwneuro-test-key"
SECRET = "kwneuro-test-secret-5f0c1e7ab9d24c3f86"
"""What no log, event, error text or database may ever hold: tests look for it."""

START_SECONDS = 60.0
"""Importing moto takes about one second; a loaded machine may need many times that."""

SMALLEST_PART = 1024
"""S3 itself wants 5 MB of every part but the last; with less, an upload of many parts needs no large data."""

BUFFER_BYTES = 2 << 30
"""moto keeps an object up to this size in memory. Past its own default (5 MB) it copies the whole object from a
temporary file for every ranged read, however small the range."""


class S3Server:
    """A running S3 server, as a context manager: started when made, stopped at the exit.

    The server also ends by itself when the process that made it ends, in whatever way: it holds the other end of a
    pipe and stops at the pipe's end.

    Raises RuntimeError, with the server's own words, when it does not answer within `START_SECONDS`.
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
            cwd=Path(__file__).parents[1],
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
            self._wait_for_an_answer()
        except BaseException:
            self.stop()
            raise

    def _wait_for_an_answer(self) -> None:
        straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            try:
                straight.open(f"{self.endpoint}/moto-api/data.json", timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the S3 server at {self.endpoint} did not start: {self.log()}")

    def log(self) -> str:
        """What the server has written so far: its errors, with tracebacks."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def stop(self) -> None:
        """End the server process and wait for its end; a second call does nothing."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()  # it holds nothing that outlives it
        self._process.wait()
        self._log.close()

    def __enter__(self) -> S3Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @cached_property
    def client(self) -> Any:
        """A boto3 S3 client that talks to the server itself, whatever the environment says.

        It asks once, and believes what it gets: a test wants to see what is there, right or wrong.
        """
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(proxies={}, retries={"total_max_attempts": 1}, response_checksum_validation="when_required"),
        )

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The variables that lead any AWS client to this server (or to `endpoint`, a proxy), and to nothing else."""
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
        """Every object of the bucket: key to bytes."""
        return {key: self.client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in self._keys(bucket)}

    def uploads(self, bucket: str) -> list[dict[str, Any]]:
        """The multipart uploads that were begun and neither completed nor aborted (`Key`, `UploadId`, ...)."""
        return list(self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))

    def remove_bucket(self, bucket: str) -> None:
        """Remove the bucket with all it holds: the server's memory is the test machine's."""
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
    """One empty bucket of the server, for one test."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def contents(self) -> dict[str, bytes]:
        return self.server.contents(self.name)

    def uploads(self) -> list[dict[str, Any]]:
        return self.server.uploads(self.name)


def as_s3_answers(moto: WSGIApplication, *, refuse_bad_digests: bool) -> WSGIApplication:
    """moto, with each request whole before it is begun and none begun before the last has its answer."""
    one_at_a_time = threading.Lock()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = whole_body(environ)
        if body is None:
            return refusal("IncompleteBody", start_response)
        if refuse_bad_digests and not digests_agree(environ, body):
            return refusal("BadDigest", start_response)
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        with one_at_a_time:
            return list(moto(environ, start_response))

    return application


def whole_body(environ: WSGIEnvironment) -> bytes | None:
    """The request's body; None when its sender left before its end."""
    if environ.get("wsgi.input_terminated"):  # Transfer-Encoding: chunked, which raises at an early end
        return bytes(environ["wsgi.input"].read())
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = bytes(environ["wsgi.input"].read(length)) if length else b""
    return body if len(body) == length else None


def digests_agree(environ: WSGIEnvironment, body: bytes) -> bool:
    """Whether the body agrees with the digest headers that clients send by themselves."""
    found = {
        "HTTP_CONTENT_MD5": base64.b64encode(hashlib.md5(body).digest()),
        "HTTP_X_AMZ_CHECKSUM_CRC32": base64.b64encode(binascii.crc32(body).to_bytes(4, "big")),
        "HTTP_X_AMZ_CHECKSUM_SHA256": base64.b64encode(hashlib.sha256(body).digest()),
        "HTTP_X_AMZ_CONTENT_SHA256": hashlib.sha256(body).hexdigest().encode(),
    }
    told = {name: environ[name].encode() for name in found if name in environ}
    payload = told.get("HTTP_X_AMZ_CONTENT_SHA256", b"")
    if payload.startswith((b"UNSIGNED-", b"STREAMING-")):  # a word in place of the digest
        del told["HTTP_X_AMZ_CONTENT_SHA256"]
    return all(found[name] == digest for name, digest in told.items())


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
            """Errors are worth a line; requests are not, and each would cost time."""

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    moto = DomainDispatcherApplication(create_backend_app)
    application = as_s3_answers(moto, refuse_bad_digests=options.refuse_bad_digests)
    run_simple(HOST, options.port, application, threaded=True, request_handler=QuietHandler)


if __name__ == "__main__":
    main()
