"""Errors of a location are one message: the location, the reason, and the remedy."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from s3fs import S3FileSystem  # type: ignore[import-untyped]

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import Volume
from kwneuro_assets.storage import retries
from kwneuro_assets.storage.location import location
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.storage.refusing_server import RefusingServer
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.s3_server import KEY, SECRET, S3Bucket
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, write_dataset

SUBJECT = SubjectKey("01")
URL = "s3://a-bucket/study"
PASSWORD = "kwneuro-test-password-77f1"
TOKEN = "kwneuro-test-session-token-31bc"
SECRETS = (SECRET, PASSWORD, TOKEN)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Credentials without an endpoint; a test sets the endpoint."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    variables = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retries, "FIRST_DELAY", 0.005)
    S3FileSystem.clear_instance_cache()
    yield variables
    S3FileSystem.clear_instance_cache()


def write(store: DerivativeStore) -> None:
    value = Volume(np.ones((3, 3, 3), np.float32), AFFINES["oblique"])
    store.write("mean_b0", SUBJECT, value, Provenance("ones", "1-00000000", "0" * 64))


ACTS: dict[str, Callable[[DerivativeStore], object]] = {
    "write": write,
    "read": lambda store: store.read("mean_b0", SUBJECT),
    "subjects": lambda store: store.subjects(),
}


def message_of(act: Callable[[], object]) -> str:
    """The one-line message of the error that `act` raises."""
    with pytest.raises(ActionableError) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    assert not any(secret in text for secret in SECRETS)
    assert caught.value.__cause__ is None
    is_alone = caught.value.__context__ is None or caught.value.__suppress_context__
    assert is_alone, "a traceback would show the message of the library"
    return text


@pytest.mark.parametrize("act", ACTS.values(), ids=list(ACTS))
@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "AccessDenied", "access is denied (AccessDenied): check the permissions of the credentials"),
        (403, "InvalidAccessKeyId", "the server rejected the credentials (InvalidAccessKeyId)"),
        (403, "SignatureDoesNotMatch", "the server rejected the credentials (SignatureDoesNotMatch)"),
        (400, "InvalidToken", "the server rejected the credentials (InvalidToken)"),
        (400, "ExpiredToken", "the server rejected the credentials (ExpiredToken)"),
        (404, "NoSuchBucket", "the bucket does not exist"),
        (507, "InsufficientStorage", "is full: free some space and run again; the previous results are untouched"),
        (403, "InvalidObjectState", "is archived: restore it first"),
        (400, "InvalidRequest", "the server answered InvalidRequest"),
    ],
)
def test_a_refusal_of_the_server_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[DerivativeStore], object], status: int, code: str, message: str
) -> None:
    with RefusingServer(status, code) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        text = message_of(lambda: act(DerivativeStore(URL)))
        assert text.startswith(URL)
        assert text.endswith(f": {message}")
        assert server.requests == 1, "a permanent error is not retried"


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
def test_transient_errors_of_the_server_are_retried(monkeypatch: pytest.MonkeyPatch, status: int, code: str) -> None:
    with RefusingServer(status, code) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        text = message_of(lambda: DerivativeStore(URL).subjects())
        assert text.endswith(f": the server answered {code}, in 7 attempts: check that the server is reachable")
        assert server.requests == retries.ATTEMPTS


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "AccessDenied", "access is denied (AccessDenied): check the permissions of the credentials"),
        (507, "InsufficientStorage", "is full: free some space and run again; the previous results are untouched"),
    ],
)
def test_a_location_that_is_readable_but_not_writable_is_reported(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, message: str
) -> None:
    with RefusingServer(status, code, methods=("PUT", "POST")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        store = DerivativeStore(URL)
        assert store.subjects() == []
        assert message_of(lambda: write(store)).endswith(f": {message}")


def test_a_full_server_keeps_the_previous_result(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has space for small objects, such as the lock, but not for an image."""
    store = DerivativeStore(s3_bucket.url)
    write(store)
    before = s3_bucket.contents()
    call = S3FileSystem._call_s3

    async def full(self: S3FileSystem, method: str, *arguments: object, **parameters: object) -> object:
        if method == "upload_part" or (method == "put_object" and str(parameters["Key"]).endswith(".nii.gz")):
            raise OSError(28, "No space left on device")
        return await call(self, method, *arguments, **parameters)

    from fsspec.asyn import sync_wrapper

    monkeypatch.setattr(S3FileSystem, "_call_s3", full)
    monkeypatch.setattr(S3FileSystem, "call_s3", sync_wrapper(full))
    value = Volume(np.zeros((3, 3, 3), np.float32), AFFINES["oblique"])
    text = message_of(lambda: store.write("mean_b0", SUBJECT, value, Provenance("zeros", "1-00000000", "1" * 64)))
    assert text.startswith(f"{s3_bucket.url}/sub-01/dwi/sub-01_desc-meanb0_dwiref.nii.gz: is full")
    assert s3_bucket.contents() == before


@pytest.mark.parametrize("act", ACTS.values(), ids=list(ACTS))
def test_a_missing_bucket_is_reported(s3_bucket: S3Bucket, act: Callable[[DerivativeStore], object]) -> None:
    text = message_of(lambda: act(DerivativeStore("s3://no-such-bucket-at-all/study")))
    assert text.startswith("s3://no-such-bucket-at-all/study")
    assert text.endswith(": the bucket does not exist")


@pytest.mark.parametrize("act", ACTS.values(), ids=list(ACTS))
def test_an_unreachable_endpoint_is_reported(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[DerivativeStore], object]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        started = time.monotonic()
        text = message_of(lambda: act(DerivativeStore(URL)))
        assert time.monotonic() - started < 10
    assert text.startswith(URL)
    assert text.endswith(": the server cannot be reached, in 7 attempts: check that the server is reachable")


@pytest.mark.parametrize("act", ACTS.values(), ids=list(ACTS))
def test_missing_credentials_are_reported(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[DerivativeStore], object]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    text = message_of(lambda: act(DerivativeStore(URL)))
    assert text.startswith(URL)
    assert ": found no credentials: set the usual AWS variables" in text


def test_a_missing_profile_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    text = message_of(lambda: DerivativeStore(URL).subjects())
    assert "s3://a-bucket" in text
    assert "profile" in text.lower()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("foo://bucket/x", "foo://bucket/x: expected a folder, s3://bucket/prefix or another fsspec URL"),
        ("s4://bucket/x", "s4://bucket/x: expected a folder, s3://bucket/prefix or another fsspec URL"),
        ("s33://bucket/x", "; did you mean s3://?"),
        ("s3://", "s3://: expected s3://bucket/prefix"),
        ("s3:///study", "s3:///study: expected s3://bucket/prefix"),
        (f"s3://{KEY}:{PASSWORD}@bucket/x", "the URL s3://...@bucket holds credentials, which would be shown"),
        (f"https://{KEY}:{PASSWORD}@host/x?y", "the URL https://...@host holds credentials, which would be shown"),
        (f"s3://bucket/{KEY}:{PASSWORD}@x", ""),
    ],
)
def test_an_invalid_url_is_reported(url: str, message: str) -> None:
    if not message:  # an @ in a key is not a credential
        assert location(url).path == url.removeprefix("s3://")
        return
    assert message in message_of(lambda: location(url))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (3, "format 3 of a later kwneuro-assets. Upgrade it with: pip install --upgrade kwneuro-assets"),
        (
            1,
            "format 1 of an earlier kwneuro-assets. Delete it, or set store.url (KWNEURO_STORE) to an empty folder, "
            "and rebuild it with: kwneuro-assets run",
        ),
    ],
)
def test_a_store_of_another_format_is_neither_read_nor_written(tmp_path: Path, other: int, message: str) -> None:
    write(DerivativeStore(tmp_path))
    description = tmp_path / "dataset_description.json"
    description.write_text(description.read_text().replace('"StoreFormat": 2', f'"StoreFormat": {other}'))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    for act in ACTS.values():
        text = message_of(lambda act=act: act(DerivativeStore(tmp_path)))  # type: ignore[misc]
        assert text == f"the store {tmp_path}: expected format 2, found {message}"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


class TestCommandLine:
    """The same for the command line: exit code 2, one line on stderr, no traceback."""

    @pytest.fixture
    def project(self, tmp_path: Path, credentials: dict[str, str]) -> Project:
        project = Project(tmp_path / "home", credentials)
        write_dataset(project.source)
        project.write_settings({"brain_mask": {"method": "provided"}, "denoising": {"method": "none"}})
        return project

    @staticmethod
    def failed(project: Project, code: int, *arguments: str) -> str:
        done = project.command(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        output = done.stdout + done.stderr
        assert "Traceback" not in output
        assert not any(secret in output for secret in SECRETS)
        return done.stderr if code == 2 else output

    def test_a_refused_verify_is_one_line(self, project: Project) -> None:
        with RefusingServer(403, "InvalidAccessKeyId") as server:
            project.environment["AWS_ENDPOINT_URL"] = server.endpoint
            text = self.failed(project, 2, "verify", "--store", URL)
        assert text == (
            f"Error: {URL}/dataset_description.json: the server rejected the credentials (InvalidAccessKeyId)\n"
        )

    def test_a_password_in_the_url_is_refused_and_not_repeated(self, project: Project) -> None:
        text = self.failed(project, 2, "verify", "--store", f"s3://{KEY}:{PASSWORD}@bucket/x")
        assert text.startswith("Error: the URL s3://...@bucket holds credentials")
        assert text.count("\n") == 1

    @pytest.mark.slow
    def test_a_step_without_write_permission_fails_with_the_reason(self, project: Project) -> None:
        """The source is a folder, so that the run starts; steps downstream of the failed one are skipped."""
        with RefusingServer(403, "AccessDenied", methods=("PUT", "POST")) as server:
            project.environment["AWS_ENDPOINT_URL"] = server.endpoint
            text = self.failed(project, 1, "run", "--store", URL, "--select", "denoised_dwi,mean_b0")
        reason = "access is denied (AccessDenied): check the permissions of the credentials"
        assert f"sub-01 denoised_dwi: failed: {URL}/" in text
        assert reason in text
        assert "sub-01 mean_b0: upstream-failed: a derivative upstream failed" in text
        states = json.loads(project.command("status", "--json", "--why").stdout)
        assert states["sub-01"]["denoised_dwi"]["state"] == "failed"
        written = b"".join(path.read_bytes() for path in project.home.rglob("*") if path.is_file())
        assert reason.encode() in written, "the event log holds the failure"
        assert not any(secret.encode() in written for secret in SECRETS)

    @pytest.mark.slow
    def test_a_missing_location_ends_every_command_with_one_line(self, project: Project) -> None:
        project.environment["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
        for arguments in (
            ["verify", "--store", "s4://bucket/x"],
            ["export", "--subject", "sub-01", "--to", "s4://bucket/x"],
            ["run", "--source", "s4://bucket/x"],
            ["ingest", "--source", URL],
        ):
            text = self.failed(project, 2, *arguments)
            *attempts, last = text.splitlines()
            assert all("; retrying in " in line for line in attempts)
            assert last.startswith("Error: ")
            assert last.endswith(("fsspec URL; did you mean s3://?", "check that the server is reachable"))
