"""A dataset without BIDS names, found by a pattern."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dagster import DagsterInstance

from kwneuro_assets.cohort.run import run_subject
from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion.custom_layout import open_dataset
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.settings import SettingsError, SourceSettings, load_settings
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.small_dataset import dwi_folder, small_settings, write_dataset

FSL = {".nii.gz": "data.nii.gz", ".bval": "bvals", ".bvec": "bvecs", "mask": "nodif_brain_mask.nii.gz"}
OWN = {".nii.gz": "dwi.nii.gz", ".bval": "dwi.bval", ".bvec": "dwi.bvec", "mask": "dwi_mask.nii.gz"}


def lay_out(root: Path, place: str, names: dict[str, str] = OWN) -> None:
    """Write the files of one subject under other names."""
    bids = write_dataset(root.parent / "bids")
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    for kind, name in names.items():
        ending = "desc-brain_mask.nii.gz" if kind == "mask" else f"dwi{kind}"
        shutil.copy(dwi_folder(bids, "sub-01") / f"sub-01_{ending}", folder / name)


@pytest.mark.parametrize(
    ("layout", "places", "names", "keys"),
    [
        ("{subject}/dwi.nii.gz", ["01", "sub-A2"], OWN, ["sub-01", "sub-A2"]),
        ("{subject}/T1w/Diffusion/data.nii.gz", ["100307/T1w/Diffusion"], FSL, ["sub-100307"]),
        ("P_{subject}/{session}/*.nii.gz", ["P_7/ses-a", "P_7/b"], OWN, ["sub-7_ses-a", "sub-7_ses-b"]),
    ],
)
def test_subjects_of_a_custom_layout_are_found_and_materialized(
    tmp_path: Path, instance: DagsterInstance, layout: str, places: list[str], names: dict[str, str], keys: list[str]
) -> None:
    for place in places:
        lay_out(tmp_path / "source", place, names)
    (tmp_path / "source" / "notes").mkdir()
    select = {"select": "dwi.nii.gz"} if "*" in layout else {}
    settings = small_settings(tmp_path / "source", tmp_path / "store", source={"layout": layout, **select})
    assert ingest(instance, settings).added == keys
    results = run_subject(instance, settings, keys[0], ["denoised_dwi", "mean_b0", "brain_mask"])
    assert [result.outcome for result in results] == ["materialized"] * 3
    assert ingest(instance, settings).unchanged == keys


def test_invalid_and_duplicate_labels_are_refused(tmp_path: Path) -> None:
    for place in ("01(2)", "02", "sub-02", "03", "a1", "A1", "4_S", "4-S", "5_S_0017"):
        lay_out(tmp_path / "source", place)
    dataset = open_dataset(SourceSettings(url=str(tmp_path / "source"), layout="{subject}/dwi.nii.gz"))
    subjects, refused = dataset.subjects()
    assert [str(key) for key in subjects] == ["sub-03", "sub-5+S+0017"]
    assert sorted(refused) == ["sub-01(2)", "sub-02", "sub-4+S", "sub-A1", "sub-a1"]
    assert "one folder of this label, found 02, sub-02" in str(refused["sub-02"])


def test_missing_and_ambiguous_files_are_refused_by_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    lay_out(source, "01")
    (source / "01" / "dwi.bvec").unlink()
    lay_out(source, "02")
    shutil.copy(source / "02" / "dwi.nii.gz", source / "02" / "dwi2.nii.gz")
    (source / "02" / "dwi_mask.nii.gz").unlink()
    dataset = open_dataset(SourceSettings(url=str(source), layout="{subject}/dwi*.nii.gz"))
    dataset.subjects()
    with pytest.raises(InvalidData, match=r"expected one image \{subject\}/dwi\*\.nii\.gz, found dwi\.nii\.gz, dwi2"):
        dataset.series(SubjectKey("02"))
    dataset = open_dataset(SourceSettings(url=str(source), layout="{subject}/dwi.nii.gz"))
    with pytest.raises(InvalidData, match=r"b-vectors: expected dwi\.bvec or dwi\.bvecs or bvecs beside the image"):
        dataset.series(SubjectKey("01"))


def test_a_pattern_without_a_subject_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match=r"source\.layout: expected bids, or a pattern with \{subject\} once"):
        load_settings(environment={"KWNEURO_SOURCE__LAYOUT": "dwi/*.nii.gz"})
