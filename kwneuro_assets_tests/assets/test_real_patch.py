"""A real acquisition processed from BIDS files to stored maps, compared with the results of MRtrix3."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.imaging import MapSet, NotApplicable
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.project import Project

SUBJECT = SubjectKey("real")
SELECTED = "denoised_dwi,mean_b0,brain_mask,dti,noddi,fiber_response,csd_peaks"


@pytest.fixture(scope="module")
def project(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The patch as a BIDS dataset, run with the provided mask and MRtrix3's response function, without denoising."""
    patch = reference / "real-patch"
    project = Project(tmp_path_factory.mktemp("patch"))
    folder = project.source / SUBJECT.folder
    folder.mkdir(parents=True)
    for extension in (".nii.gz", ".bval", ".bvec"):
        shutil.copy(patch / f"sub-real_dwi{extension}", folder)
    shutil.copy(patch / "mask.nii.gz", folder / "sub-real_desc-brain_mask.nii.gz")
    (project.source / "dataset_description.json").write_text(json.dumps({"Name": "patch", "BIDSVersion": "1.11.1"}))
    project.write_settings(
        {
            "brain_mask": {"method": "provided"},
            "denoising": {"method": "none"},
            "csd": {"wm_response": str(patch / "mrtrix_response.txt")},
        }
    )
    done = project.command("run", "--select", SELECTED)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="module")
def store(project: Project) -> DerivativeStore:
    return DerivativeStore(project.store)


def read(path: Path) -> NDArray[np.float64]:
    return np.nan_to_num(nib.load(path).get_fdata())


def degrees(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.degrees(np.arccos(np.clip(np.abs(cosines), 0, 1)))


def test_fa_and_first_eigenvector_agree_with_mrtrix(store: DerivativeStore, reference: Path) -> None:
    maps, _ = store.read("dti", SUBJECT)
    assert isinstance(maps, MapSet)
    patch = reference / "real-patch"
    mask = read(patch / "mask.nii.gz") > 0
    fa = read(patch / "mrtrix_fa.nii.gz")
    assert np.abs(maps["fa"].array - fa)[mask].mean() <= 0.01
    anisotropic = mask & (fa > 0.2)
    ours, theirs = maps["evecs"].array[..., :3], read(patch / "mrtrix_v1_world.nii.gz")
    unit = theirs / np.maximum(np.linalg.norm(theirs, axis=-1, keepdims=True), 1e-9)
    assert np.median(degrees((ours * unit).sum(-1)[anisotropic])) <= 2.0


def test_the_first_peak_agrees_with_a_peak_of_mrtrix(store: DerivativeStore, reference: Path) -> None:
    """The frame is right through files and affine: 0.18 degrees measured; a wrong frame gives tens of degrees."""
    maps, _ = store.read("csd_peaks", SUBJECT)
    assert isinstance(maps, MapSet)
    patch = reference / "real-patch"
    mask = read(patch / "mask.nii.gz") > 0
    theirs = read(patch / "mrtrix_peaks_world.nii.gz")
    theirs = theirs.reshape(*theirs.shape[:3], -1, 3)
    theirs = theirs / np.maximum(np.linalg.norm(theirs, axis=-1, keepdims=True), 1e-9)
    first = maps["peaks"].array[..., :3]
    first = first / np.maximum(np.linalg.norm(first, axis=-1, keepdims=True), 1e-9)
    nearest = np.abs(np.einsum("xyzk,xyzpk->xyzp", first, theirs)).max(-1)
    assert np.median(degrees(nearest[mask])) <= 0.5


def test_noddi_of_a_single_shell_is_not_applicable_and_the_rest_is_computed(
    project: Project, store: DerivativeStore
) -> None:
    value, _ = store.read("noddi", SUBJECT)
    assert isinstance(value, NotApplicable)
    assert "shell" in value.reason
    states = json.loads(project.command("status", "--json").stdout)["sub-real"]
    assert states["noddi"]["state"] == "not-applicable"
    assert {states[name]["state"] for name in SELECTED.split(",") if name != "noddi"} == {"fresh"}
    assert {states[name]["state"] for name in ("tract_masks", "tract_endings")} == {"missing"}


def test_a_second_run_writes_the_same_bytes(project: Project) -> None:
    before = project.stored_bytes()
    done = project.command("run", "--select", SELECTED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.stored_bytes() == before
