"""No credential is ever written to the log, the database, the store, an error message or a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kwneuro_assets_tests.testkit.fault_proxy import FaultProxy
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.s3_server import KEY, SECRET, S3Bucket
from kwneuro_assets_tests.testkit.small_dataset import write_mask, write_series

TOKEN = "kwneuro-test-session-token-2b7e151628aed2a6"
PASSWORD = "kwneuro-test-password-9f86d081884c7d65"
SECRETS = (SECRET, TOKEN, PASSWORD)

pytestmark = pytest.mark.slow  # five runs of the command line


@pytest.fixture
def project(tmp_path: Path, s3_bucket: S3Bucket) -> Project:
    """Source and store in one bucket; only the Dagster instance is in a local folder."""
    project = Project(
        tmp_path / "home",
        {
            **s3_bucket.server.environment(),
            "AWS_SESSION_TOKEN": TOKEN,
            "KWNEURO_SOURCE": f"{s3_bucket.url}/raw",
            "KWNEURO_STORE": f"{s3_bucket.url}/derivatives",
        },
    )
    project.write_settings({"brain_mask": {"method": "provided"}})
    local = tmp_path / "raw"
    write_series(local)
    write_mask(local)
    for path in sorted(local.rglob("*")):
        if path.is_file():
            key = f"raw/{path.relative_to(local).as_posix()}"
            s3_bucket.server.client.put_object(Bucket=s3_bucket.name, Key=key, Body=path.read_bytes())
    return project


def written(project: Project, bucket: S3Bucket) -> Iterator[tuple[str, bytes]]:
    """Every file of the project, including its databases and their journals, and every object of the bucket."""
    for path in sorted(project.home.rglob("*")):
        if path.is_file():
            yield str(path), path.read_bytes()
    yield from bucket.contents().items()


def leaks(project: Project, bucket: S3Bucket, outputs: list[str]) -> list[tuple[str, str]]:
    places = [*written(project, bucket), *((f"output {index}", text.encode()) for index, text in enumerate(outputs))]
    return [(place, secret) for place, content in places for secret in SECRETS if secret.encode() in content]


def test_no_credential_is_written_in_any_failure(project: Project, s3_bucket: S3Bucket) -> None:
    outputs: list[str] = []

    def run(code: int, *arguments: str, **changed: str) -> str:
        done = Project(project.home, {**project.environment, **changed}).command("run", *arguments)
        outputs.append(done.stdout + done.stderr)
        assert done.returncode == code, outputs[-1]
        return outputs[-1]

    run(0, "--select", "denoised_dwi,mean_b0,brain_mask")
    # A failure inside a step writes its traceback to the event log.
    with FaultProxy(s3_bucket.server.endpoint, faults=["reset"], probability=0.0) as proxy:
        for _ in range(200):
            proxy.once("reset", method="PUT", path="*_model-tensor_*")
        assert "dti: failed" in run(1, "--select", "dti", AWS_ENDPOINT_URL=proxy.endpoint)
    run(2, "--store", f"{s3_bucket.url}-that-there-is-not/store", "--source", f"{s3_bucket.url}-not-there/raw")
    output = run(2, "--source", f"s3://{KEY}:{PASSWORD}@{s3_bucket.name}/raw")
    assert "holds credentials" in output
    run(2, "--select", "noddi", "--store", f"s3://{KEY}:{PASSWORD}@{s3_bucket.name}/derivatives")
    assert leaks(project, s3_bucket, outputs) == []
    # The search itself works.
    everything = b"".join(content for _, content in written(project, s3_bucket))
    assert s3_bucket.name.encode() in everything
    assert b"check that the server is reachable" in everything, "the failure of dti is in the event log"
