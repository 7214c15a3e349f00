"""Dagster's `dg` commands in a checkout: they find the project by `[tool.dg]` in pyproject.toml."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import kwneuro_assets
from kwneuro_assets.assets import DERIVATIVES, GROUP_DERIVATIVES
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.small_dataset import write_mask, write_series

ROOT = Path(kwneuro_assets.__file__).parents[1]
DG = Path(sys.executable).with_name("dg")
START_SECONDS = 120  # on a busy machine
QUERY = b'{"query": "{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name } } } } }"}'

pytestmark = [
    pytest.mark.skipif(not DG.exists(), reason="the package dagster-dg-cli is not installed"),
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the package is not installed from a checkout"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with one subject that is ingested."""
    project = Project(tmp_path_factory.mktemp("dg"))
    write_series(project.source)
    write_mask(project.source)
    project.write_settings({"denoising": {"method": "none"}, "brain_mask": {"method": "provided"}})
    done = project.command("ingest")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def environment(project: Project) -> dict[str, str]:
    """The variables that `kwneuro-assets` sets for a project; a user of `dg` sets them."""
    return {
        **project.variables,
        "VIRTUAL_ENV": str(Path(sys.executable).parents[1]),
        "DAGSTER_HOME": str(project.home / "dagster"),
        "KWNEURO_SETTINGS": str(project.home / "settings.yaml"),
        "KWNEURO_SOURCE": str(project.source),
        "KWNEURO_STORE": str(project.store),
    }


def dg(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([DG, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_dg_list_defs_lists_all_assets(environment: dict[str, str]) -> None:
    listed = json.loads(dg(environment, "list", "defs", "--json"))
    names = {asset["asset_key"] for asset in listed["assets"]}
    assert names == {*(one.name for one in (*DERIVATIVES, *GROUP_DERIVATIVES)), "dwi", "provided_mask"}
    assert {job["name"] for job in listed["jobs"]} >= {"materialize_stale", "rematerialize", "rescan_source"}
    assert {sensor["name"] for sensor in listed["sensors"]} == {"ingestion_sensor", "stale_derivatives_sensor"}


def test_dg_check_defs_accepts_the_definitions(environment: dict[str, str]) -> None:
    dg(environment, "check", "defs")


@pytest.mark.slow
def test_dg_launch_materializes_assets_of_a_subject(environment: dict[str, str], project: Project) -> None:
    dg(environment, "launch", "--assets", "denoised_dwi,mean_b0", "--partition", "sub-01")
    assert DerivativeStore(project.store).assets(SubjectKey("01")) == ["denoised_dwi", "mean_b0"]


@pytest.mark.slow
def test_dg_dev_serves_the_code_location(environment: dict[str, str], project: Project) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (project.home / "dg.log").open("wb") as log:
        command = [DG, "dev", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        names = next(filter(None, _location_names(server, port)), None)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert names == ["kwneuro_assets"], (project.home / "dg.log").read_text()[-3000:]


def _location_names(server: subprocess.Popen[bytes], port: int) -> Iterator[list[str]]:
    """The names of the loaded code locations, once in a while until the server ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", QUERY, {"Content-Type": "application/json"})
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                nodes = json.load(response)["data"]["repositoriesOrError"].get("nodes", [])
            yield [node["location"]["name"] for node in nodes]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.5)
