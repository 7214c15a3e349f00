"""The demo as `make demo` runs it, with its store in a folder and on an S3 server; and as a small cohort."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from select import select as readable

import pytest
from click.testing import CliRunner

import kwneuro_assets
from kwneuro_assets.cli.console import console
from kwneuro_assets.cli.demo import DEMO_NETWORKS, computable
from kwneuro_assets.cli.demo_tables import print_cohort_scores
from kwneuro_assets.cli.main import main
from kwneuro_assets.cohort.selection import select
from kwneuro_assets.demo.heads import write_heads
from kwneuro_assets.demo.networks import DEMO_NOTE
from kwneuro_assets.demo.truth import Score
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.names import NAMES
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.bids_validator import Verdict
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.s3_server import S3Bucket

NAMES_OF_ALL = select(PipelineSettings(), None)
TRACTS = ("tract_masks", "tract_endings", "tract_orientations")
SMALL = 6.4  # mm, voxels of a small cohort
FAST = f"""\
brain_mask:
  method: median-otsu
ingestion:
  settle_seconds: 0
{DEMO_NETWORKS}"""


class Internet:
    """A server in place of the internet: every address of the weights and every proxy. It never answers."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a process in which no weights are installed and this server is the internet."""
        url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), url)
        weights = {"KWNEURO_WEIGHTS_URL": url, "KWNEURO_WEIGHTS__FOLDER": str(home / "weights")}
        return {**proxies, **weights, "HOME": str(home), "TRACTSEG_WEIGHTS_DIR": "", "no_proxy": "", "NO_PROXY": ""}

    def was_tried(self) -> bool:
        """Whether a process connected."""
        return bool(readable([self._socket], [], [], 0)[0])

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    server = Internet()
    yield server
    server.close()


def outcomes(output: str) -> dict[tuple[str, str], tuple[str, bool]]:
    """By subject and asset: the outcome, and whether the table says that a demo network was used."""
    rows = re.findall(r"^(sub-\d+) +(\w+) +(materialized|skipped|failed|upstream-failed)(.*)$", output, re.M)
    return {(subject, asset): (outcome, DEMO_NOTE in rest) for subject, asset, outcome, rest in rows}


def scores(output: str) -> dict[str, float]:
    """The first score of each derivative of one subject."""
    _, table = output.split("compared with the known truth")
    rows = re.findall(r"^(\w+) .*?  +(\d[\d.]*)", table, re.M)
    return {asset: float(value) for asset, value in reversed(rows)}


def test_the_sherbrooke_dataset_has_one_subject(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["--home", str(tmp_path / "x"), "demo", "--dataset", "sherbrooke", "--subjects", "2"]
    )
    assert done.exit_code == 2
    assert "the Sherbrooke dataset has one subject" in done.output
    assert not (tmp_path / "x").exists()


def test_tracts_of_a_real_subject_are_left_out_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"KWNEURO_OFFLINE": "1", "HOME": str(tmp_path), "TRACTSEG_WEIGHTS_DIR": ""}.items():
        monkeypatch.setenv(name, value)
    settings = PipelineSettings.model_validate({"weights": {"folder": str(tmp_path)}})
    with console.capture() as capture:
        assert computable(settings, NAMES_OF_ALL) == [name for name in NAMES_OF_ALL if name not in TRACTS]
    assert capture.get().startswith(f"left out: {', '.join(TRACTS)}: weights of tractseg-masks")


def test_the_table_of_a_cohort_has_the_main_scores_by_subject_and_their_means() -> None:
    def of_subject(overlap: float, angle: float) -> list[Score]:
        return [
            Score("brain_mask", "Dice with the true brain", overlap, f"{overlap:.3f}", "Dice"),
            Score("dti", "direction", angle, f"{angle:.1f} degrees", "degrees"),
            Score("dti", "another measure", 17.0, "17"),
        ]

    with console.capture() as capture:
        print_cohort_scores({"sub-01": of_subject(0.9, 1.0), "sub-02": of_subject(0.95, float("nan"))})
    lines = [line.split() for line in capture.get().splitlines() if line.strip()]
    assert lines == [
        ["compared", "with", "the", "known", "truth"],
        ["brain_mask", "dti"],
        ["subject", "Dice", "degrees"],
        ["sub-01", "0.9", "1"],
        ["sub-02", "0.95", "n/a"],
        ["mean", "0.925", "1"],
    ]


@pytest.mark.slow
def test_a_small_cohort_is_computed_without_the_internet_and_then_skipped(tmp_path: Path, internet: Internet) -> None:
    home = tmp_path / "demo"
    project = Project(home, internet.environment(tmp_path))
    subjects = write_heads(project.source, 2, SMALL)
    (home / "settings.yaml").write_text(FAST)
    for count, computed in ((1, {"sub-01"}), (2, {"sub-02"}), (2, set())):
        done = project.command("--home", str(home), "demo", "--subjects", str(count))
        assert done.returncode == 0, done.stdout + done.stderr
        assert outcomes(done.stdout) == {
            (subject, asset): ("materialized" if subject in computed else "skipped", asset in TRACTS)
            for subject in subjects[:count]
            for asset in NAMES_OF_ALL
        }
    assert re.search(r"^sub-02 .*\nmean ", done.stdout, re.M)
    assert not internet.was_tried()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, internet: Internet) -> Project:
    home = tmp_path_factory.mktemp("local")
    project = Project(home / "demo", internet.environment(home))
    project.home.mkdir()
    done = project.command("--home", str(project.home), "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    (home / "output").write_text(done.stdout)
    return project


@pytest.mark.slow
def test_the_demo_computes_every_derivative_without_the_internet(local: Project, internet: Internet) -> None:
    output = (local.home.parent / "output").read_text()
    assert outcomes(output) == {("sub-01", asset): ("materialized", asset in TRACTS) for asset in NAMES_OF_ALL}
    found = scores(output)
    for asset, least in (("brain_mask", 0.9), ("tract_masks", 0.6), ("tract_endings", 0.5)):
        assert found[asset] > least, output
    for asset, most in (("dti", 1.5), ("csd_peaks", 1.5), ("tract_orientations", 12)):
        assert found[asset] < most, output
    assert not internet.was_tried()
    for asset in TRACTS:
        sidecar = local.store / NAMES[asset].sidecar(SubjectKey.parse("sub-01"))
        assert json.loads(sidecar.read_text())["Networks"]["Note"] == DEMO_NOTE


def versions(project: Project, store: str) -> dict[str, str]:
    """The data version of each fresh derivative in `store`."""
    done = project.command("status", "--json", "--store", store)
    assert done.returncode == 0, done.stderr
    return {
        asset: status["data_version"]
        for asset, status in json.loads(done.stdout)["sub-01"].items()
        if status["state"] == "fresh"
    }


@pytest.mark.slow
def test_the_demo_has_the_same_data_versions_on_s3_as_in_a_folder(
    local: Project, tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_weights = {"HOME": str(tmp_path), "KWNEURO_WEIGHTS__FOLDER": str(tmp_path / "weights")}
    remote = Project(tmp_path, {**s3_bucket.server.environment(), **no_weights})
    url = f"{s3_bucket.url}/demo/store"
    shutil.copytree(local.source, remote.source)  # the same subject: writing it takes a while
    done = remote.command("--home", str(tmp_path), "demo", "--store", url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not remote.store.exists()
    remote_versions = versions(remote, url)
    assert list(remote_versions) == NAMES_OF_ALL
    assert remote_versions == versions(local, str(local.store))
    # The remote store is byte-identical to the local one, except for the name of the source.
    prefix = "demo/store/"
    stored = {key.removeprefix(prefix): content for key, content in s3_bucket.contents().items()}
    # The report of a subject names run times, which its data version does not cover.
    others = ("dataset_description.json", "sub-01.html", "sub-01_report.json")
    assert {name: content for name, content in stored.items() if name not in others} == {
        name: content for name, content in local.stored_bytes().items() if name not in others
    }
    verified = remote.command("verify", "--store", url)
    assert verified.returncode == 0, verified.stderr
    monkeypatch.setenv("KWNEURO_STORE", url)
    for asset in remote_versions:
        assert asset in NAMES
        assert type(kwneuro_assets.load(asset, "sub-01")).__name__


@pytest.mark.slow
def test_the_demos_store_is_a_valid_bids_dataset(local: Project, validate: Callable[[Path], Verdict]) -> None:
    verdict = validate(local.store)
    assert not verdict.errors
    ignored = (local.store / ".bidsignore").read_text().split()
    names = [Path(name).name for name in local.stored_bytes() if not name.startswith((".bidsignore", ".assets/"))]
    assert verdict.files == len([name for name in names if not any(fnmatch(name, line) for line in ignored)])
    assert verdict.subjects == {"01"}
