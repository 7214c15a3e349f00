"""QC files are found by their names, beside the images that they belong to."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from dagster import DagsterInstance
from upath import UPath

from kwneuro_assets.ingestion import tree as tree_module
from kwneuro_assets.ingestion.custom_layout import open_dataset
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.qc_files import qc_files
from kwneuro_assets.ingestion.read_source import read_dwi
from kwneuro_assets.ingestion.tree import SourceTree
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.files import Listing, listing
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.ingestion.test_preprocessing_qc import KEY, ROW, fd, read_both, write_qc
from kwneuro_assets_tests.ingestion.test_qc_values import QUAD, tsv
from kwneuro_assets_tests.testkit.small_dataset import dwi_folder, settings_for, write_dataset, write_series


@pytest.mark.parametrize(
    ("image", "files", "expected"),
    [
        # What QSIPrep 1.0 and 0.19 write; a data dictionary and the QC of slices are no files of QUAD.
        (
            "sub-01_ses-a_space-ACPC_res-5mm_desc-preproc_dwi.nii.gz",
            [
                "sub-01_ses-a_space-ACPC_res-5mm_desc-image_qc.tsv", "sub-01_ses-a_desc-confounds_timeseries.tsv",
                "sub-01_ses-a_space-ACPC_res-5mm_desc-slice_qc.json", "sub-01_ses-a_desc-image_qc.json",
            ],
            [0, 1],
        ),
        ("sub-01_ses-a_dwi.nii", ["sub-01_ses-a_confounds.tsv", "sub-01_ses-a_qc.json"], [0, 1]),
        ("sub-01_ses-a_dwi.nii", ["sub-01_ses-a_confounds.tsv", "sub-01_ses-a_desc-confounds_timeseries.tsv"], [1]),
        # Each run has its own files, or that of all runs; the most entities win.
        ("sub-01_ses-a_run-01_dwi.nii.gz", ["sub-01_ses-a_run-1_qc.json", "sub-01_ses-a_run-2_qc.json"], [0]),
        ("sub-01_ses-a_run-2_dwi.nii.gz", ["sub-01_qc.json", "sub-01_ses-a_qc.json"], [1]),
        ("sub-01_ses-a_acq-b_dwi.nii.gz", ["sub-01_acq-c_desc-image_qc.tsv", "sub-01_ses-a_dir-AP_confounds.tsv"], []),
        # Folders of QUAD, the closest name first.
        ("sub-01_ses-a_dwi.nii.gz", ["eddy_quad/qc.json", "other.qc/qc.json", "sub-01.qc"], [0]),
        ("sub-01_ses-a_dwi.nii.gz", ["eddy_quad/qc.json", "sub-01_ses-a_qc.json", "sub-01_ses-a_dwi.qc/qc.json"], [2]),
        ("sub-01_ses-a_dwi.nii.gz", ["sub-01_ses-a_desc-eddy_dwi.qc/qc.json", "eddy_quad/qc.json"], [0]),
        # Files of others.
        ("sub-01_ses-a_dwi.nii.gz", ["sub-02_desc-image_qc.tsv", "sub-01_ses-b_qc.json", "desc-image_qc.tsv"], []),
        # Names without entities.
        ("data.nii.gz", ["data_confounds.tsv", "data_qc.json", "data_other_qc.json", "data.qc/qc.json"], [0, 3]),
    ],
)  # fmt: skip
def test_the_files_of_an_image_are_found_by_their_names(
    tmp_path: Path, image: str, files: list[str], expected: list[int]
) -> None:
    for name in [image, *files]:
        (tmp_path / "dwi" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dwi" / name).touch()
    tree = SourceTree(SourceSettings(url=str(tmp_path)))
    assert qc_files(tree, "dwi", SubjectKey("01", "a"), [image]) == tuple(sorted(files[index] for index in expected))


def test_a_folder_of_quad_that_cannot_be_listed_counts_as_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path)
    write_qc(tmp_path)
    complete, _ = read_both(tmp_path)

    def refusing_listing(folder: UPath) -> Listing:
        if folder.name.endswith(".qc"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(tree_module, "listing", refusing_listing)
    dwi, scanned = read_both(tmp_path)
    assert dwi.preprocessing == {k: value for k, value in complete.preprocessing.items() if not k.startswith("eddy_")}
    assert scanned.warnings == ()


def test_a_qc_file_of_another_subject_is_ignored_with_the_reason(tmp_path: Path, instance: DagsterInstance) -> None:
    source = write_dataset(tmp_path / "source", [KEY])
    (dwi_folder(source, KEY) / "sub-02_desc-image_qc.tsv").write_text(tsv(ROW))
    report = ingest(instance, settings_for(source))
    assert report.ignored == {"sub-01/dwi/sub-02_desc-image_qc.tsv": "its name is not that of a QC file of sub-01"}
    assert report.added == [KEY]


def lay_out(root: Path, place: str, stem: str) -> Path:
    """Write the DWI series of one subject under another name; returns its folder."""
    image = write_series(root.parent / "bids")
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    for extension in (".nii.gz", ".bval", ".bvec"):
        (folder / f"{stem}{extension}").write_bytes((image.parent / f"sub-01_dwi{extension}").read_bytes())
    return folder


def test_a_custom_layout_has_qc_files_with_the_name_of_the_image(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "source", "A_1", "data")
    (folder / "data_desc-image_qc.tsv").write_text(tsv({**ROW, "subject_id": "sub-A_1"}))
    (folder / "other_confounds.tsv").write_text(fd(0.5))
    (folder / "eddy_quad").mkdir()
    (folder / "eddy_quad" / "qc.json").write_text(json.dumps(QUAD))
    dwi, _ = read_both(tmp_path / "source", layout="{subject}/data.nii.gz")
    assert dwi.preprocessing["qsiprep_mean_fd"] == 0.25
    assert dwi.preprocessing["eddy_qc_mot_rel"] == 0.19
    assert not any(name.startswith("confounds_") for name in dwi.preprocessing)


def test_in_a_folder_of_all_subjects_each_has_its_own_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, stem in enumerate(("1", "12")):
        lay_out(source, "all", stem)
        (source / "all" / f"{stem}.qc").mkdir()
        (source / "all" / f"{stem}.qc" / "qc.json").write_text(json.dumps(QUAD | {"qc_mot_abs": number}))
        (source / "all" / f"{stem}_confounds.tsv").write_text(fd(number))
    lay_out(source, "all", "2")
    (source / "all" / "eddy_quad").mkdir()
    (source / "all" / "eddy_quad" / "qc.json").write_text(json.dumps(QUAD))
    dataset = open_dataset(SourceSettings(url=str(source), layout="all/{subject}.nii.gz"))
    subjects, _ = dataset.subjects()
    found = {str(subject): read_dwi(dataset, dataset.series(subject))[0].preprocessing for subject in subjects}
    names = ("eddy_qc_mot_abs", "confounds_max_fd")
    assert {key: [values.get(name) for name in names] for key, values in found.items()} == {
        "sub-1": [0.0, 0.0], "sub-12": [1.0, 1.0], "sub-2": [None, None],
    }  # fmt: skip
