"""The proxy forwards requests unchanged, and each fault has its documented effect."""

from __future__ import annotations

import hashlib
import http.client
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwneuro_assets_tests.testkit.fault_proxy import FaultProxy
from kwneuro_assets_tests.testkit.s3_server import KEY, SECRET, S3Bucket

PAUSE, STALL = 0.4, 1.5
READ_TIMEOUT = 0.8
"""Seconds; longer than the pause, shorter than the stall."""

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[FaultProxy]:
    with FaultProxy(s3_bucket.server.endpoint, pause=PAUSE, stall=STALL) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Any:
    return client_without_retries(proxy)


def client_without_retries(proxy: FaultProxy) -> Any:
    """A boto3 client that uses the proxy, without retries and checksums."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=proxy.endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(
            proxies={},
            read_timeout=READ_TIMEOUT,
            retries={"total_max_attempts": 1},
            response_checksum_validation="when_required",
        ),
    )


def differences(one: bytes, other: bytes) -> int:
    assert len(one) == len(other)
    return int(np.count_nonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8)))


def test_without_faults_every_kind_of_request_passes_unchanged(
    proxy: FaultProxy, client: Any, s3_bucket: S3Bucket
) -> None:
    name, direct = s3_bucket.name, s3_bucket.server.client
    client.put_object(Bucket=name, Key="a folder/ü+%.bin", Body=CONTENT, Metadata={"kind": "test"})
    client.put_object(Bucket=name, Key="empty", Body=b"")
    assert s3_bucket.contents() == {"a folder/ü+%.bin": CONTENT, "empty": b""}

    for operation, arguments in [
        ("head_object", {"Key": "a folder/ü+%.bin"}),
        ("list_objects_v2", {"Delimiter": "/"}),
        ("list_objects_v2", {"Prefix": "a folder/"}),
    ]:
        responses = [getattr(one, operation)(Bucket=name, **arguments) for one in (client, direct)]
        statuses = [response.pop("ResponseMetadata")["HTTPStatusCode"] for response in responses]
        assert statuses[0] == statuses[1]
        assert responses[0] == responses[1]
    part = client.get_object(Bucket=name, Key="a folder/ü+%.bin", Range="bytes=10-19")
    assert (part["Body"].read(), part["ContentRange"]) == (CONTENT[10:20], f"bytes 10-19/{len(CONTENT)}")
    assert client.get_object(Bucket=name, Key="empty")["Body"].read() == b""
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket=name, Key="absent")

    client.delete_object(Bucket=name, Key="empty")
    client.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "a folder/ü+%.bin"}]})
    assert s3_bucket.contents() == {}
    assert proxy.requests == 10
    assert not proxy.injected


def test_a_multipart_upload_of_60_mb_by_s3fs_passes_unchanged(
    proxy: FaultProxy, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    content = np.random.default_rng(0).bytes(60_000_000)
    (tmp_path / "up").write_bytes(content)
    store = s3fs.S3FileSystem()
    store.put_file(str(tmp_path / "up"), f"{s3_bucket.name}/big", chunksize=20_000_000)
    assert s3_bucket.uploads() == []
    assert hashlib.sha256(s3_bucket.contents()["big"]).digest() == hashlib.sha256(content).digest()
    assert store.info(f"{s3_bucket.name}/big")["ETag"].endswith('-3"')  # three parts

    store.get_file(f"{s3_bucket.name}/big", str(tmp_path / "down"))
    assert hashlib.sha256((tmp_path / "down").read_bytes()).digest() == hashlib.sha256(content).digest()
    assert store.cat_file(f"{s3_bucket.name}/big", start=30_000_000, end=30_000_100) == content[30_000_000:30_000_100]
    store.rm(f"{s3_bucket.name}/big")
    assert s3_bucket.contents() == {}


@pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding"])
@pytest.mark.parametrize("fault", [None, "corrupt_upload"])
def test_a_body_in_signed_chunks_with_a_trailer_has_the_same_framing(
    proxy: FaultProxy, s3_bucket: S3Bucket, framing: str, fault: str | None
) -> None:
    """Clients send this framing over TLS, with the checksum after the body; the test writes it explicitly."""
    body = b"4\r\nfour\r\n6\r\nlonger\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    if fault:
        proxy.once(fault)
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"))
    connection.request(
        "PUT",
        f"/{s3_bucket.name}/chunks",
        body=body if framing == "Content-Length" else iter([body[:12], body[12:]]),
        headers={
            "Content-Encoding": "aws-chunked",
            "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "x-amz-decoded-content-length": "10",
            "Expect": "100-continue",
        },
        encode_chunked=framing == "Transfer-Encoding",
    )
    assert connection.getresponse().status == 200
    connection.close()
    assert differences(s3_bucket.contents()["chunks"], b"fourlonger") == (1 if fault else 0)


def test_slow_delays_a_correct_response(proxy: FaultProxy, client: Any, s3_bucket: S3Bucket) -> None:
    for _ in range(2):
        proxy.once("slow")
    start = time.monotonic()
    client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    assert client.get_object(Bucket=s3_bucket.name, Key="object")["Body"].read() == CONTENT
    assert time.monotonic() - start > 2 * PAUSE
    assert proxy.injected == {"slow": 2}


def test_a_timeout_gives_no_response_and_no_effect(proxy: FaultProxy, client: Any, s3_bucket: S3Bucket) -> None:
    from botocore.exceptions import ReadTimeoutError

    proxy.once("timeout")
    with pytest.raises(ReadTimeoutError):
        client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    assert s3_bucket.contents() == {}


@pytest.mark.parametrize(("fault", "arrives"), [("reset", False), ("reset_after", True)])
def test_a_reset_closes_the_connection_before_or_after_the_request_is_executed(
    proxy: FaultProxy, client: Any, s3_bucket: S3Bucket, fault: str, arrives: bool
) -> None:
    from botocore.exceptions import ConnectionClosedError, HTTPClientError

    proxy.once(fault)
    with pytest.raises((ConnectionClosedError, HTTPClientError), match=r"reset by peer|closed"):
        client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    assert s3_bucket.contents() == ({"object": CONTENT} if arrives else {})
    client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    assert proxy.injected == {fault: 1}


def test_unavailable_gives_each_of_s3s_error_responses(proxy: FaultProxy, client: Any, s3_bucket: S3Bucket) -> None:
    met: Counter[tuple[int, str]] = Counter()
    for _ in range(20):  # 20 draws of three: the chance that one is missing is 1 in 1100, and the seed is fixed
        proxy.once("unavailable", method="PUT")
        with pytest.raises(client.exceptions.ClientError) as refusal:
            client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
        answer = refusal.value.response
        met[answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]] += 1
    assert set(met) == {(503, "SlowDown"), (503, "ServiceUnavailable"), (500, "InternalError")}
    assert s3_bucket.contents() == {}


def test_a_truncated_response_has_half_of_the_announced_body(
    proxy: FaultProxy, client: Any, s3_bucket: S3Bucket
) -> None:
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    proxy.once("truncated")
    answer = client.get_object(Bucket=s3_bucket.name, Key="object")
    assert answer["ContentLength"] == len(CONTENT)
    half = len(CONTENT) // 2
    assert answer["Body"].read(half) == CONTENT[:half]
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        answer["Body"].read()


def test_a_corrupt_download_differs_in_one_byte_and_the_object_does_not_change(
    proxy: FaultProxy, client: Any, s3_bucket: S3Bucket
) -> None:
    client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    proxy.once("corrupt_download")
    client.list_objects_v2(Bucket=s3_bucket.name)  # a listing is not content: the order remains
    assert differences(client.get_object(Bucket=s3_bucket.name, Key="object")["Body"].read(), CONTENT) == 1
    assert client.get_object(Bucket=s3_bucket.name, Key="object")["Body"].read() == CONTENT
    assert s3_bucket.contents() == {"object": CONTENT}


def test_a_corrupt_upload_is_stored_with_one_byte_changed(proxy: FaultProxy, client: Any, s3_bucket: S3Bucket) -> None:
    proxy.once("corrupt_upload")
    answer = client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    stored = s3_bucket.contents()["object"]
    assert differences(stored, CONTENT) == 1
    assert answer["ETag"] == f'"{hashlib.md5(stored).hexdigest()}"'  # a client can detect it by this


def test_an_order_applies_to_the_next_request_with_its_method_and_path(
    proxy: FaultProxy, client: Any, s3_bucket: S3Bucket
) -> None:
    proxy.once("unavailable", method="PUT", path="*/sub-02/*.json")
    proxy.once("unavailable", path="*partNumber=2*")
    client.put_object(Bucket=s3_bucket.name, Key="sub-01/a.json", Body=b"")
    client.put_object(Bucket=s3_bucket.name, Key="sub-02/a.nii.gz", Body=b"")
    with pytest.raises(client.exceptions.ClientError):
        client.put_object(Bucket=s3_bucket.name, Key="sub-02/a.json", Body=b"")
    client.put_object(Bucket=s3_bucket.name, Key="sub-02/a.json", Body=b"")

    target = {"Bucket": s3_bucket.name, "Key": "sub-03/a"}
    upload = target | {"UploadId": client.create_multipart_upload(**target)["UploadId"]}
    client.upload_part(**upload, PartNumber=1, Body=b"")
    with pytest.raises(client.exceptions.ClientError):
        client.upload_part(**upload, PartNumber=2, Body=b"")
    assert len(s3_bucket.uploads()) == 1


def faults_met(s3_bucket: S3Bucket, seed: int, active: bool = True) -> list[str]:
    """The faults of 60 identical requests, one letter each."""
    faults = ["unavailable", "reset"]
    with FaultProxy(s3_bucket.server.endpoint, faults, probability=0.4, seed=seed) as proxy:
        proxy.active = active
        client, met = client_without_retries(proxy), []
        for _ in range(60):
            before = proxy.injected.copy()
            try:
                client.head_bucket(Bucket=s3_bucket.name)
            except Exception:
                assert proxy.injected != before
            met.append("".join(fault[0] for fault in proxy.injected - before) or ".")
        return met


def test_random_faults_follow_seed_and_probability_and_can_be_disabled(s3_bucket: S3Bucket) -> None:
    met = faults_met(s3_bucket, seed=1)
    assert met == faults_met(s3_bucket, seed=1)
    assert met != faults_met(s3_bucket, seed=2)
    assert set(met) == {"u", "r", "."}
    assert 12 <= 60 - met.count(".") <= 36  # 24 expected, with a standard deviation of 3.8
    assert set(faults_met(s3_bucket, seed=1, active=False)) == {"."}


def test_when_the_proxy_stops_it_closes_open_connections(s3_bucket: S3Bucket) -> None:
    with FaultProxy(s3_bucket.server.endpoint) as proxy:
        connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"))
        connection.request("GET", f"/{s3_bucket.name}")
        assert connection.getresponse().read()
        assert connection.sock is not None, "the proxy keeps connections alive, as S3 does"
    assert connection.sock.recv(1) == b""
    connection.close()


def test_an_unknown_fault_is_an_error(proxy: FaultProxy) -> None:
    with pytest.raises(ValueError, match=r"expected names among slow, .*, found sloww"):
        FaultProxy(proxy.endpoint, faults=["slow", "sloww"])
    with pytest.raises(ValueError, match="found resett"):
        proxy.once("resett")
