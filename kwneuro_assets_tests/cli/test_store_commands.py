"""The commands `verify` and `export`, and other commands with a store on S3."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kwneuro_assets
from kwneuro_assets.imaging import MapSet, Volume
from kwneuro_assets.imaging.content_hash import data_version
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.project import Project
from kwneuro_assets_tests.testkit.s3_server import S3Bucket
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, write_mask, write_series

FA = "sub-01/dwi/sub-01_model-tensor_param-fa_dwimap.nii.gz"


def maps(seed: int) -> MapSet:
    random = np.random.default_rng(seed)
    return MapSet({name: Volume(random.random((4, 5, 6), np.float32), AFFINES["oblique"]) for name in ("fa", "md")})


def fill(url: str) -> None:
    """Two subjects, the second with a session; `dti` of both and `noddi` of the first."""
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


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_verify_counts_intact_files(project: Project) -> None:
    done = project.command("verify")
    assert done.returncode == 0, done.stderr
    assert "3 derivatives of 2 subjects" in done.stdout
    assert "all 12 files are intact" in done.stdout
    done = project.command("verify", "--subject", "sub-02_ses-b")
    assert "all 4 files are intact" in done.stdout


def test_verify_names_damaged_files_with_the_command_that_rematerializes_them(project: Project) -> None:
    damage(project.store / FA)
    done = project.command("verify")
    assert done.returncode == 1
    assert f"{project.store / FA}: expected" in done.stderr
    assert "Materialize it with: kwneuro-assets run --subject sub-01 --select dti" in done.stderr
    assert "1 damaged" in done.stdout
    assert project.command("verify", "--subject", "sub-02_ses-b").returncode == 0


def test_verify_reports_a_subject_that_is_not_in_the_store(project: Project) -> None:
    done = project.command("verify", "--subject", "sub-03")
    assert done.returncode == 2
    assert done.stderr == f"Error: the store {project.store} has no derivative of sub-03\n"


def test_an_exported_subject_is_a_complete_store(
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


def test_only_selected_assets_are_exported(project: Project, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    done = project.command("export", "--subject", "sub-01", "--to", str(target), "--select", "noddi")
    assert done.returncode == 0, done.stderr
    assert DerivativeStore(target).assets(SubjectKey("01")) == ["noddi"]


def test_bundles_are_exported_as_single_files_on_request(project: Project, tmp_path: Path) -> None:
    masks = Volume(np.ones((4, 5, 6, 2), np.uint8), AFFINES["oblique"], ("CST_left", "CST_right"))
    provenance = Provenance("masks", "1-0", data_version(masks))
    DerivativeStore(project.store).write("tract_masks", SubjectKey("01"), masks, provenance)
    for flag, count in ((("--split-bundles",), 2), ((), 0)):
        target = tmp_path / f"copy-{count}"
        done = project.command("export", "--subject", "sub-01", "--to", str(target), "--select", "tract_masks", *flag)
        assert done.returncode == 0, done.stderr
        assert len(list(target.rglob("*label-*_desc-tracts_mask.nii.gz"))) == count


def test_a_damaged_derivative_is_not_exported_and_leaves_no_files(project: Project, tmp_path: Path) -> None:
    damage(project.store / FA)
    target = tmp_path / "copy"
    done = project.command("export", "--subject", "sub-01", "--to", str(target))
    assert done.returncode == 1
    assert f"{project.store / FA}: expected" in done.stderr
    assert {path.name for path in (target / "sub-01/dwi").iterdir()} == {
        path.name for path in (project.store / "sub-01/dwi").iterdir() if "model-noddi" in path.name
    }


def test_a_store_is_identical_after_a_round_trip_to_s3(project: Project, s3_bucket: S3Bucket, tmp_path: Path) -> None:
    remote = Project(project.home, s3_bucket.server.environment())
    url, back = f"{s3_bucket.url}/study", tmp_path / "back"
    subjects = ("--subject", "sub-01", "--subject", "sub-02_ses-b")
    done = remote.command("export", *subjects, "--to", url)
    assert done.returncode == 0, done.stderr
    done = remote.command("verify", "--store", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all 12 files are intact" in done.stdout
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
