"""A place that cannot be used is told in one sentence that names it, soon, and without a traceback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kwneuro_assets.imaging import NotApplicable
from kwneuro_assets.storage import patience
from kwneuro_assets.storage.location import location
from kwneuro_assets.storage.patience import StorageError
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.project import Project
from kwneuro_assets_tests.s3_server import S3Bucket, S3Server

SUBJECT = SubjectKey("01")


@contextmanager
def answering(status: int, code: str) -> Iterator[str]:
    """The endpoint of a server that answers every request so, as S3 does."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/xml")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *values: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def lead_to(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Points this process's S3 client to an endpoint."""
    import s3fs

    def lead(endpoint: str) -> None:
        for name, value in s3_server.environment(endpoint).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()

    monkeypatch.setattr(patience, "FIRST_DELAY", 0.001)
    yield lead
    s3fs.S3FileSystem.clear_instance_cache()


ANSWERS = {
    "forbidden": (403, "AccessDenied", r"access is denied \(AccessDenied\): check what the credentials may do"),
    "wrong key": (403, "InvalidAccessKeyId", r"the credentials are not accepted \(InvalidAccessKeyId\)"),
    "wrong secret": (403, "SignatureDoesNotMatch", r"the credentials are not accepted \(SignatureDoesNotMatch\)"),
    "expired": (400, "ExpiredToken", r"the credentials are not accepted \(ExpiredToken\)"),
    "no bucket": (404, "NoSuchBucket", "there is no such bucket"),
    "full": (507, "XMinioStorageFull", "is full: make room and run again"),
    "overloaded": (503, "SlowDown", r"the server answered SlowDown, \d times: is the place reachable\?"),
    "broken": (500, "InternalError", r"the server answered InternalError, \d times: is the place reachable\?"),
}


@pytest.mark.parametrize(("status", "code", "told"), ANSWERS.values(), ids=list(ANSWERS))
def test_an_answer_that_will_not_change_is_one_sentence(
    lead_to: Callable[[str], None], status: int, code: str, told: str
) -> None:
    with answering(status, code) as endpoint:
        lead_to(endpoint)
        store = DerivativeStore("s3://somewhere/study")
        with pytest.raises(StorageError, match=rf"^s3://somewhere/study.*: {told}") as reading:
            store.read("dti", SUBJECT)
        with pytest.raises(StorageError, match=rf"^s3://somewhere/study.*: {told}") as writing:
            store.write("dti", SUBJECT, NotApplicable("a test"), Provenance("", "1-0", "0"))
    for caught in (reading, writing):
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is None, "a library's own error may hold what must not be shown"


def test_a_server_that_is_not_there_is_named(lead_to: Callable[[str], None]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        lead_to(f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(StorageError, match=r"^s3://somewhere/.*: it cannot be reached, \d times"):
            DerivativeStore("s3://somewhere/study").read("dti", SUBJECT)


def test_without_credentials_the_way_to_give_them_is_told(
    lead_to: Callable[[str], None], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_to(s3_server.endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StorageError, match="no credentials were found: set the usual AWS variables"):
        DerivativeStore("s3://somewhere/study").read("dti", SUBJECT)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s4://bucket/study", "did you mean s3://"),
        ("nowhere-known://x", "expected a folder, s3://bucket/prefix or another URL"),
        ("s3://key:password@bucket/study", r"s3://\.\.\.@bucket holds credentials"),
        ("sftp://me@host/study", r"sftp://\.\.\.@host holds credentials"),
    ],
)
def test_a_url_that_cannot_be_one_is_refused(url: str, told: str) -> None:
    with pytest.raises(StorageError, match=told) as caught:
        location(url)
    assert "password" not in str(caught.value)


def test_a_store_of_a_later_format_is_refused_for_reading_and_writing(tmp_path: Path) -> None:
    store = DerivativeStore(tmp_path)
    store.write("dti", SUBJECT, NotApplicable("a test"), Provenance("", "1-0", "0"))
    description = tmp_path / "dataset_description.json"
    description.write_text(description.read_text().replace('"StoreFormat": 1', '"StoreFormat": 2'))
    later = DerivativeStore(tmp_path)
    told = rf"the store {tmp_path} has format 2; this version reads and writes up to 1: upgrade kwneuro-assets"
    with pytest.raises(StorageError, match=told):
        later.read("dti", SUBJECT)
    with pytest.raises(StorageError, match=told):
        later.write("dti", SUBJECT, NotApplicable("another"), Provenance("", "1-0", "1"))


def test_the_command_line_ends_with_one_line(tmp_path: Path, s3_bucket: S3Bucket) -> None:
    project = Project(tmp_path, s3_bucket.server.environment())
    done = project.command("verify", "--store", f"{s3_bucket.url}-gone/study")
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {s3_bucket.url}-gone/study")
    assert done.stderr.endswith(": there is no such bucket\n")
    assert done.stderr.count("\n") == 1
