"""What `weights list` shows, in Python and on the command line."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kwneuro_assets.cli.main import main
from kwneuro_assets.weights import NETWORKS, digest_cache, fetch
from kwneuro_assets.weights.inventory import Listed, inventory
from kwneuro_assets_tests.testkit.weight_server import LICENSE, WeightServer
from kwneuro_assets_tests.weights.conftest import CONTENT, MASKS

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the weights of the project of `run`."""
    return tmp_path / "weights"


@pytest.fixture
def run(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in this process: `run("weights", "list")`."""
    monkeypatch.setenv("KWNEURO_WEIGHTS__FOLDER", str(folder))
    for variable in ("KWNEURO_SOURCE", "KWNEURO_STORE", "KWNEURO_SETTINGS", "DAGSTER_HOME"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    return lambda *words: CliRunner().invoke(main, ["--home", str(tmp_path / "project"), *words])


def masks(folder: Path) -> Listed:
    return next(one for one in inventory(folder) if one.network == "tractseg-masks")


def test_absent_weights_are_listed_with_version_and_dois(folder: Path) -> None:
    listed = {one.network: one for one in inventory(folder)}
    assert list(listed) == list(NETWORKS)
    assert {one.state for one in listed.values()} == {"absent"}
    assert listed["tractseg-orientations"].doi[0] == "10.5281/zenodo.3239216"
    assert listed["tractseg-masks"].version == "3"
    assert listed["tractseg-masks"].license == "unknown"


def test_fetched_weights_are_listed_with_what_the_record_says(server: WeightServer, folder: Path) -> None:
    fetch("tractseg-masks", folder)
    found = masks(folder)
    assert (found.state, found.license, found.trust) == ("installed", LICENSE, "published checksum")
    assert found.size == len(CONTENT)
    assert found.origin == (f"{server.url}/records/3518348/files/best_weights_ep220.npz?download=1",)


def test_files_that_the_user_copied_have_no_recorded_checksum(folder: Path) -> None:
    (folder / "tractseg-masks").mkdir(parents=True)
    (folder / "tractseg-masks" / MASKS).write_bytes(CONTENT)
    found = masks(folder)
    assert (found.state, found.license, found.trust, found.origin) == ("installed", "unknown", "none", ("unknown",))
    assert found.sha256[MASKS]


def test_weights_in_the_folder_of_a_tool_are_listed_with_its_name(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "home" / ".tractseg").mkdir(parents=True)
    (tmp_path / "home" / ".tractseg" / MASKS).write_bytes(CONTENT)
    found = masks(folder)
    assert (found.state, found.folder) == ("installed", str(tmp_path / "home" / ".tractseg"))
    assert found.origin == ("folder of TractSeg",)


def test_a_changed_file_is_listed_as_damaged_and_an_unfinished_set_as_incomplete(
    server: WeightServer, folder: Path
) -> None:
    where = fetch("tractseg-masks", folder)
    (where / MASKS).write_bytes(CONTENT[::-1])
    assert masks(folder).state == "damaged"
    parts = NETWORKS["tractseg-orientations"].installed_files
    (folder / "tractseg-orientations").mkdir()
    (folder / "tractseg-orientations" / parts[2]).write_bytes(b"part")
    assert {one.network: one.state for one in inventory(folder)}["tractseg-orientations"] == "incomplete"


def test_unchanged_files_are_not_read_again(
    server: WeightServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("tractseg-masks", folder)
    time.sleep(digest_cache.MIN_AGE + 0.01)
    first = inventory(folder)
    monkeypatch.setattr(digest_cache, "file_sha256", lambda path: pytest.fail(f"{path} is read"))
    assert inventory(folder) == first


def test_the_demo_networks_are_listed_where_they_are_used(folder: Path, tmp_path: Path) -> None:
    from kwneuro_assets.demo.networks import DEMO_NOTE, FOLDER

    if not (FOLDER / MASKS).is_file():
        pytest.skip("the demo's network for tract masks is absent")
    listed = {one.network: one for one in inventory(folder, with_demo=True)}
    assert listed["tractseg-masks"].state == "demo"
    assert listed["tractseg-masks"].origin == (DEMO_NOTE,)
    assert listed["hd-bet"].state == "absent"
    assert masks(folder).state == "absent"


def test_the_command_line_fetches_lists_and_verifies(server: WeightServer, run: Run, folder: Path) -> None:
    done = run("weights", "fetch", "tractseg-masks")
    assert done.exit_code == 0, done.output
    assert f"tractseg-masks: {folder / 'tractseg-masks'} (published checksum)" in done.output

    listed = run("weights", "list").output.splitlines()
    row = next(line for line in listed if line.startswith("tractseg-masks")).split()
    assert row[:6] == ["tractseg-masks", "3", "installed", "2.1", LICENSE, masks(folder).sha256[MASKS][:12]]
    assert next(line for line in listed if line.startswith("hd-bet")).split()[2] == "absent"

    entries = {entry["network"]: entry for entry in json.loads(run("weights", "list", "--json").output)}
    assert entries["tractseg-masks"]["sha256"] == masks(folder).sha256
    assert entries["tractseg-endings"]["state"] == "absent"

    verified = run("weights", "verify")
    assert verified.exit_code == 0
    assert f"{masks(folder).sha256[MASKS]} (published checksum)" in verified.output
    (folder / "tractseg-masks" / MASKS).write_bytes(b"damaged")
    assert run("weights", "verify").exit_code == 2


def test_the_command_line_says_when_the_first_download_is_trusted(server: WeightServer, run: Run, folder: Path) -> None:
    server.checksums[MASKS] = None
    assert f"{folder / 'tractseg-masks'} (first download)" in run("weights", "fetch", "tractseg-masks").output


def test_weights_of_a_tool_are_not_fetched_again(server: WeightServer, run: Run, tmp_path: Path) -> None:
    (tmp_path / "home" / ".tractseg").mkdir(parents=True)
    (tmp_path / "home" / ".tractseg" / MASKS).write_bytes(CONTENT)
    assert f"tractseg-masks: {tmp_path / 'home' / '.tractseg'}" in run("weights", "fetch", "tractseg-masks").output
    assert server.requests == []


def test_offline_the_command_line_ends_with_the_remedy(
    server: WeightServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWNEURO_OFFLINE", "1")
    done = run("weights", "fetch")
    assert done.exit_code == 2
    assert "weights add hd-bet FILE" in done.output
    assert server.requests == []


def test_the_command_line_brings_weights_to_another_machine(
    real_networks: Path, run: Run, folder: Path, tmp_path: Path
) -> None:
    files = [str(real_networks / "tractseg" / name) for name in NETWORKS["tractseg-orientations"].installed_files]
    done = run("weights", "add", "tractseg-orientations", *files)
    assert done.output == f"tractseg-orientations: {folder / 'tractseg-orientations'}\n"
    archive = tmp_path / "weights.tar"
    assert f"written: {archive}" in run("weights", "pack", str(archive)).output
    shutil.rmtree(folder)
    assert run("weights", "unpack", str(archive)).output == done.output
    assert "weights.tar" in run("weights", "list").output
    refused = run("weights", "add", "tractseg-masks", files[0])
    assert refused.exit_code == 2
    assert "expected pretrained_weights_tract_segmentation_v3.npz (or best_weights_ep220.npz)" in refused.output
