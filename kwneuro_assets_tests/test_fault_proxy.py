"""The proxy forwards as if it were not there, and each fault does what its name says."""

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

from kwneuro_assets_tests.fault_proxy import FaultProxy
from kwneuro_assets_tests.s3_server import KEY, SECRET, S3Bucket

PAUSE, STALL = 0.4, 1.5
PATIENCE = 0.8
"""Seconds that the impatient client waits: longer than the pause, shorter than the stall."""

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[FaultProxy]:
    with FaultProxy(s3_bucket.server.endpoint, pause=PAUSE, stall=STALL) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Any:
    return impatient_client(proxy)


def impatient_client(proxy: FaultProxy) -> Any:
    """A boto3 client that asks through the proxy, once, and believes what it gets."""
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    return boto3.client(
        "s3",
        endpoint_url=proxy.endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(
            proxies={},
            read_timeout=PATIENCE,
            retries={"total_max_attempts": 1},
            response_checksum_validation="when_required",
        ),
    )


def differences(one: bytes, other: bytes) -> int:
    assert len(one) == len(other)
    return int(np.count_nonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8)))


def test_without_faults_every_kind_of_request_passes_as_it_is(
    proxy: FaultProxy, client: Any, s3_bucket: S3Bucket
) -> None:
    name, direct = s3_bucket.name, s3_bucket.server.client
    client.put_object(Bucket=name, Key="a folder/ü+%.bin", Body=CONTENT, Metadata={"kind": "test"})
    client.put_object(Bucket=name, Key="empty", Body=b"")
    assert s3_bucket.contents() == {"a folder/ü+%.bin": CONTENT, "empty": b""}

    for question, where in [
        ("head_object", {"Key": "a folder/ü+%.bin"}),
        ("list_objects_v2", {"Delimiter": "/"}),
        ("list_objects_v2", {"Prefix": "a folder/"}),
    ]:
        through, straight = (getattr(c, question)(Bucket=name, **where) for c in (client, direct))
        assert through.pop("ResponseMetadata")["HTTPStatusCode"] == straight.pop("ResponseMetadata")["HTTPStatusCode"]
        assert through == straight
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


def test_a_multipart_upload_of_60_mb_by_s3fs_passes_whole(
    proxy: FaultProxy, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import s3fs  # type: ignore[import-untyped]

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
def test_a_body_in_signed_chunks_with_a_trailer_keeps_its_framing(
    proxy: FaultProxy, s3_bucket: S3Bucket, framing: str, fault: str | None
) -> None:
    """As clients send over TLS, where they put the checksum after the body: here by hand."""
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


def test_slow_pauses_and_is_right(proxy: FaultProxy, client: Any, s3_bucket: S3Bucket) -> None:
    for _ in range(2):
        proxy.once("slow")
    begin = time.monotonic()
    client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    assert client.get_object(Bucket=s3_bucket.name, Key="object")["Body"].read() == CONTENT
    assert time.monotonic() - begin > 2 * PAUSE
    assert proxy.injected == {"slow": 2}


def test_a_timeout_is_silence_and_nothing_arrives(proxy: FaultProxy, client: Any, s3_bucket: S3Bucket) -> None:
    from botocore.exceptions import ReadTimeoutError  # type: ignore[import-untyped]

    proxy.once("timeout")
    with pytest.raises(ReadTimeoutError):
        client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    assert s3_bucket.contents() == {}


@pytest.mark.parametrize(("fault", "arrives"), [("reset", False), ("reset_after", True)])
def test_a_reset_breaks_the_connection_before_or_after_the_deed(
    proxy: FaultProxy, client: Any, s3_bucket: S3Bucket, fault: str, arrives: bool
) -> None:
    from botocore.exceptions import ConnectionClosedError, HTTPClientError

    proxy.once(fault)
    with pytest.raises((ConnectionClosedError, HTTPClientError), match=r"reset by peer|closed"):
        client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    assert s3_bucket.contents() == ({"object": CONTENT} if arrives else {})
    client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    assert proxy.injected == {fault: 1}


def test_unavailable_is_s3s_own_refusal_in_each_of_its_forms(
    proxy: FaultProxy, client: Any, s3_bucket: S3Bucket
) -> None:
    met: Counter[tuple[int, str]] = Counter()
    for _ in range(20):  # 20 draws from three: one is missing with a chance of 1 in 1100, and the seed is fixed
        proxy.once("unavailable", method="PUT")
        with pytest.raises(client.exceptions.ClientError) as refusal:
            client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
        answer = refusal.value.response
        met[answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]] += 1
    assert set(met) == {(503, "SlowDown"), (503, "ServiceUnavailable"), (500, "InternalError")}
    assert s3_bucket.contents() == {}


def test_a_truncated_answer_promises_the_whole_and_holds_half(
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


def test_a_corrupt_download_differs_in_one_byte_and_the_object_stays(
    proxy: FaultProxy, client: Any, s3_bucket: S3Bucket
) -> None:
    client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    proxy.once("corrupt_download")
    client.list_objects_v2(Bucket=s3_bucket.name)  # a listing is no content: the order waits
    assert differences(client.get_object(Bucket=s3_bucket.name, Key="object")["Body"].read(), CONTENT) == 1
    assert client.get_object(Bucket=s3_bucket.name, Key="object")["Body"].read() == CONTENT
    assert s3_bucket.contents() == {"object": CONTENT}


def test_a_corrupt_upload_is_stored_with_one_byte_changed(proxy: FaultProxy, client: Any, s3_bucket: S3Bucket) -> None:
    proxy.once("corrupt_upload")
    answer = client.put_object(Bucket=s3_bucket.name, Key="object", Body=CONTENT)
    stored = s3_bucket.contents()["object"]
    assert differences(stored, CONTENT) == 1
    assert answer["ETag"] == f'"{hashlib.md5(stored).hexdigest()}"'  # by which a client can notice it


def test_an_order_waits_for_its_method_and_path(proxy: FaultProxy, client: Any, s3_bucket: S3Bucket) -> None:
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
    """What 60 identical requests meet, one letter each."""
    refused = ["unavailable", "reset"]
    with FaultProxy(s3_bucket.server.endpoint, refused, probability=0.4, seed=seed) as proxy:
        proxy.active = active
        client, met = impatient_client(proxy), []
        for _ in range(60):
            before = proxy.injected.copy()
            try:
                client.head_bucket(Bucket=s3_bucket.name)
            except Exception:
                assert proxy.injected != before
            met.append("".join(fault[0] for fault in proxy.injected - before) or ".")
        return met


def test_faults_come_by_seed_and_at_their_probability_and_can_be_switched_off(s3_bucket: S3Bucket) -> None:
    met = faults_met(s3_bucket, seed=1)
    assert met == faults_met(s3_bucket, seed=1)
    assert met != faults_met(s3_bucket, seed=2)
    assert set(met) == {"u", "r", "."}
    assert 12 <= 60 - met.count(".") <= 36  # 24 expected; 12 away is past three standard deviations (3.8 each)
    assert set(faults_met(s3_bucket, seed=1, active=False)) == {"."}


def test_when_the_proxy_ends_so_do_the_connections_that_clients_kept(s3_bucket: S3Bucket) -> None:
    with FaultProxy(s3_bucket.server.endpoint) as proxy:
        kept = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"))
        kept.request("GET", f"/{s3_bucket.name}")
        assert kept.getresponse().read()
        assert kept.sock is not None, "the proxy keeps connections alive, as S3 does"
    assert kept.sock.recv(1) == b""
    kept.close()


def test_a_fault_of_no_known_name_is_refused(proxy: FaultProxy) -> None:
    with pytest.raises(ValueError, match=r"expected names among slow, .*, found sloww"):
        FaultProxy(proxy.endpoint, faults=["slow", "sloww"])
    with pytest.raises(ValueError, match="found resett"):
        proxy.once("resett")
