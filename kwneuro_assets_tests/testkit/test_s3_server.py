"""The S3 server of the tests behaves as S3 in the points that a store depends on."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kwneuro_assets_tests.testkit.s3_server import HOST, S3Bucket, S3Server


def test_readers_of_an_object_that_is_overwritten_get_one_complete_version(s3_bucket: S3Bucket) -> None:
    client = s3_bucket.server.client
    versions = [bytes([number]) * 500_000 for number in range(4)]
    digests = {version: f'"{hashlib.md5(version).hexdigest()}"' for version in versions}
    client.put_object(Bucket=s3_bucket.name, Key="object", Body=versions[0])

    def write(version: bytes) -> None:
        client.put_object(Bucket=s3_bucket.name, Key="object", Body=version)

    def read(_: int) -> bool:
        answer = client.get_object(Bucket=s3_bucket.name, Key="object")
        return bool(digests.get(answer["Body"].read()) == answer["ETag"])

    with ThreadPoolExecutor(6) as pool:
        writes = [pool.submit(write, version) for version in versions * 15]
        assert all(pool.map(read, range(60)))
        for done in writes:
            done.result()


def test_one_of_many_exclusive_creations_succeeds(s3_bucket: S3Bucket) -> None:
    client = s3_bucket.server.client

    def create(number: int) -> str:
        try:
            client.put_object(Bucket=s3_bucket.name, Key="lock", Body=b"%d" % number, IfNoneMatch="*")
        except client.exceptions.ClientError as refusal:
            return str(refusal.response["Error"]["Code"])
        return "created"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(create, range(40)))
    assert sorted(outcomes) == ["PreconditionFailed"] * 39 + ["created"]
    assert s3_bucket.contents() == {"lock": b"%d" % outcomes.index("created")}


def test_an_interrupted_upload_stores_nothing(s3_bucket: S3Bucket) -> None:
    address = urlsplit(s3_bucket.server.endpoint)
    with socket.create_connection((HOST, address.port or 0)) as sender:
        sender.sendall(f"PUT /{s3_bucket.name}/half HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\n".encode())
        sender.sendall(b"x" * 500)
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(100).startswith(b"HTTP/1.1 400 ")
    assert s3_bucket.contents() == {}


WRONG = b"another body"
WRONG_DIGESTS = {
    "ContentMD5": hashlib.md5(WRONG).digest(),
    "ChecksumSHA256": hashlib.sha256(WRONG).digest(),
    "ChecksumCRC32": binascii.crc32(WRONG).to_bytes(4, "big"),
}


def test_a_body_that_contradicts_its_digest_is_rejected_with_the_option(s3_bucket: S3Bucket) -> None:
    with S3Server(refuse_bad_digests=True) as strict:
        bucket = strict.new_bucket()
        for name, digest in WRONG_DIGESTS.items():
            claim = {name: base64.b64encode(digest).decode()}
            s3_bucket.server.client.put_object(Bucket=s3_bucket.name, Key=name, Body=b"body", **claim)
            strict.client.put_object(Bucket=bucket, Key="body", Body=b"body")
            with pytest.raises(strict.client.exceptions.ClientError, match="BadDigest"):
                strict.client.put_object(Bucket=bucket, Key=name, Body=b"body", **claim)
        assert set(strict.contents(bucket)) == {"body"}
    assert set(s3_bucket.contents()) == set(WRONG_DIGESTS)


def test_the_server_stops_when_its_parent_process_is_killed(s3_server: S3Server) -> None:
    code = (
        "import time\nfrom kwneuro_assets_tests.testkit.s3_server import S3Server\n"
        "print(S3Server().endpoint, flush=True)\ntime.sleep(600)"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        address = (HOST, urlsplit(parent.stdout.readline().strip()).port or 0)
        socket.create_connection(address).close()
        os.kill(parent.pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    pytest.fail("the server still runs 20 s after its parent ended")
