"""The demo as `make demo` runs it, with its store in a folder and on an S3 server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

import kwneuro_assets
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets_tests.bids_validator import Verdict
from kwneuro_assets_tests.project import Project
from kwneuro_assets_tests.s3_server import S3Bucket

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("local"))
    done = project.command("--home", str(project.home), "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def versions(project: Project, store: str) -> dict[str, str]:
    """The data version of each derivative that the project calls fresh, all of which can be loaded from `store`."""
    done = project.command("status", "--json", "--store", store)
    assert done.returncode == 0, done.stderr
    return {
        asset: status["data_version"]
        for asset, status in json.loads(done.stdout)["sub-01"].items()
        if status["state"] == "fresh"
    }


def test_the_demo_has_the_same_data_versions_on_s3_as_in_a_folder(
    local: Project, tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Project(tmp_path, s3_bucket.server.environment())
    url = f"{s3_bucket.url}/demo/store"
    shutil.copytree(local.source, remote.source)  # the same subject, which takes a while to make
    done = remote.command("--home", str(tmp_path), "demo", "--store", url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not remote.store.exists()
    made = versions(remote, url)
    assert len(made) >= 7
    assert made == versions(local, str(local.store))
    # What lies there is what a local store holds, byte for byte, but for the name of the source.
    prefix = "demo/store/"
    stored = {key.removeprefix(prefix): content for key, content in s3_bucket.contents().items()}
    described = "dataset_description.json"
    assert {name: content for name, content in stored.items() if name != described} == {
        name: content for name, content in local.stored_bytes().items() if name != described
    }
    verified = remote.command("verify", "--store", url)
    assert verified.returncode == 0, verified.stderr
    monkeypatch.setenv("KWNEURO_STORE", url)
    for asset in made:
        assert asset in NAMES
        assert type(kwneuro_assets.load(asset, "sub-01")).__name__


def test_the_demos_store_is_a_valid_bids_dataset(local: Project, validate: Callable[[Path], Verdict]) -> None:
    verdict = validate(local.store)
    assert not verdict.errors
    ignored = (local.store / ".bidsignore").read_text().split()
    names = [Path(name).name for name in local.stored_bytes() if name != ".bidsignore"]
    assert verdict.files == len([name for name in names if not any(fnmatch(name, line) for line in ignored)])
    assert verdict.subjects == {"01"}
