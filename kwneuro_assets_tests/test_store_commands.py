"""The commands that look at a whole store: `verify` and `export`, and what others say of a store on S3."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kwneuro_assets
from kwneuro_assets.imaging import MapSet, Volume
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.content import data_version
from kwneuro_assets_tests.project import Project
from kwneuro_assets_tests.s3_server import S3Bucket
from kwneuro_assets_tests.small_dataset import AFFINES, write_mask, write_series

FA = "sub-01/dwi/sub-01_model-tensor_param-fa_dwimap.nii.gz"


def maps(seed: int) -> MapSet:
    random = np.random.default_rng(seed)
    return MapSet({name: Volume(random.random((4, 5, 6), np.float32), AFFINES["oblique"]) for name in ("fa", "md")})


def fill(url: str) -> None:
    """Two subjects, one of them in a session; `dti` of both and `noddi` of the first."""
    store = DerivativeStore(url)
    for seed, (asset, subject) in enumerate(
        [("dti", SubjectKey("01")), ("noddi", SubjectKey("01")), ("dti", SubjectKey("02", "b"))]
    ):
        store.write(asset, subject, maps(seed), Provenance("maps", "1-0", data_version(maps(seed))), b"a figure")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    home = tmp_path / "home"
    home.mkdir()
    project = Project(home)
    fill(str(project.store))
    return project


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_verify_counts_what_is_whole(project: Project) -> None:
    done = project.command("verify")
    assert done.returncode == 0, done.stderr
    assert "3 derivatives of 2 subjects" in done.stdout
    assert "all 12 files are as they were stored" in done.stdout
    done = project.command("verify", "--subject", "sub-02_ses-b")
    assert "all 4 files are as they were stored" in done.stdout


def test_verify_names_what_is_damaged_with_the_command_that_remakes_it(project: Project) -> None:
    spoil(project.store / FA)
    done = project.command("verify")
    assert done.returncode == 1
    assert f"{project.store / FA}: expected" in done.stderr
    assert "Make it with: kwneuro-assets run --subject sub-01 --select dti" in done.stderr
    assert "1 damaged" in done.stdout
    assert project.command("verify", "--subject", "sub-02_ses-b").returncode == 0


def test_verify_of_a_subject_that_is_not_there_says_so(project: Project) -> None:
    done = project.command("verify", "--subject", "sub-03")
    assert done.returncode == 2
    assert done.stderr == f"Error: nothing of sub-03 is in the store {project.store}\n"


def test_an_exported_subject_is_a_store_of_its_own(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "copy"
    done = project.command("export", "--subject", "sub-01", "--to", str(target))
    assert done.returncode == 0, done.stderr
    assert "8 files" in done.stdout
    assert not (target / "sub-02").exists()
    for path in (project.store / "sub-01").rglob("*"):
        if path.is_file():
            assert (target / path.relative_to(project.store)).read_bytes() == path.read_bytes()
    assert project.command("verify", "--store", str(target)).returncode == 0
    monkeypatch.setenv("KWNEURO_STORE", str(target))
    monkeypatch.delenv("KWNEURO_SETTINGS", raising=False)
    assert data_version(kwneuro_assets.load("dti", "sub-01")) == data_version(maps(0))


def test_only_the_assets_that_are_asked_for_are_exported(project: Project, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    done = project.command("export", "--subject", "sub-01", "--to", str(target), "--select", "noddi")
    assert done.returncode == 0, done.stderr
    assert DerivativeStore(target).assets(SubjectKey("01")) == ["noddi"]


def test_what_is_damaged_is_not_exported_and_leaves_no_part(project: Project, tmp_path: Path) -> None:
    spoil(project.store / FA)
    target = tmp_path / "copy"
    done = project.command("export", "--subject", "sub-01", "--to", str(target))
    assert done.returncode == 1
    assert f"{project.store / FA}: expected" in done.stderr
    assert {path.name for path in (target / "sub-01/dwi").iterdir()} == {
        path.name for path in (project.store / "sub-01/dwi").iterdir() if "model-noddi" in path.name
    }


def test_a_store_goes_to_s3_and_comes_back_the_same(project: Project, s3_bucket: S3Bucket, tmp_path: Path) -> None:
    remote = Project(project.home, s3_bucket.server.environment())
    url, back = f"{s3_bucket.url}/study", tmp_path / "back"
    subjects = ("--subject", "sub-01", "--subject", "sub-02_ses-b")
    done = remote.command("export", *subjects, "--to", url)
    assert done.returncode == 0, done.stderr
    done = remote.command("verify", "--store", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all 12 files are as they were stored" in done.stdout
    done = remote.command("export", *subjects, "--to", str(back), "--store", url)
    assert done.returncode == 0, done.stderr
    for path in project.store.rglob("sub-*.*"):
        assert (back / path.relative_to(project.store)).read_bytes() == path.read_bytes()


def test_status_and_load_work_on_a_store_on_s3(
    tmp_path: Path, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{s3_bucket.url}/study"
    project = Project(tmp_path, {**s3_bucket.server.environment(), "KWNEURO_STORE": url})
    project.write_settings({"brain_mask": {"method": "provided"}})
    write_series(project.source)
    write_mask(project.source)
    done = project.command("run", "--select", "denoised_dwi,mean_b0,brain_mask,dti")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not project.store.exists()
    status = json.loads(project.command("status", "--json").stdout)["sub-01"]
    assert {name: one["state"] for name, one in status.items() if name in ("mean_b0", "dti", "noddi")} == {
        "mean_b0": "fresh", "dti": "fresh", "noddi": "missing",
    }  # fmt: skip
    monkeypatch.setenv("KWNEURO_STORE", url)
    assert data_version(kwneuro_assets.load("dti", "sub-01")) == status["dti"]["data_version"]
