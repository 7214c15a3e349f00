"""One ingest of a source dataset: new, changed and unchanged subjects."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dagster import AssetKey, AssetRecordsFilter, DagsterInstance

from kwneuro_assets.ingestion import tree as tree_module
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.ingest_report import IngestReport
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.storage import files
from kwneuro_assets.storage.files import Listing
from kwneuro_assets.versioning.partitions import PARTITIONS
from kwneuro_assets.versioning.records import recorded
from kwneuro_assets_tests.testkit.small_dataset import dwi_folder, load, settings_for, write_dataset, write_series

KEYS = ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
BVEC = "sub-02/ses-a/dwi/sub-02_ses-a_dwi.bvec"
IMAGE = "sub-02/ses-a/dwi/sub-02_ses-a_dwi.nii.gz"
MASK = "sub-02/ses-a/dwi/sub-02_ses-a_desc-brain_mask.nii.gz"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "source", KEYS)


def observations(instance: DagsterInstance, asset: str = "dwi") -> int:
    return len(instance.fetch_observations(AssetRecordsFilter(asset_key=AssetKey(asset)), limit=100).records)


def lists(report: IngestReport) -> tuple[list[str], list[str], list[str], list[str]]:
    return report.added, report.changed, report.unchanged, report.removed


def test_new_subjects_are_added_and_observed(instance: DagsterInstance, source: Path) -> None:
    report = ingest(instance, settings_for(source))
    assert lists(report) == (KEYS, [], [], [])
    assert report.usable == KEYS
    assert report.quarantined == {}
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == KEYS
    for asset in ("dwi", "provided_mask"):
        assert all(recorded(instance, asset, key, observed=True) for key in KEYS)
    known = recorded(instance, "dwi", "sub-02_ses-a", observed=True)
    assert known is not None
    assert known.values["files"] == [f"{IMAGE[:-7]}{end}" for end in (".nii.gz", ".bval", ".bvec")]


def test_a_second_ingest_changes_nothing(instance: DagsterInstance, source: Path) -> None:
    ingest(instance, settings_for(source))
    before = observations(instance), observations(instance, "provided_mask")
    assert lists(ingest(instance, settings_for(source))) == ([], [], KEYS, [])
    assert (observations(instance), observations(instance, "provided_mask")) == before


def negated_bvec(path: Path) -> None:
    np.savetxt(path, -np.loadtxt(path))


def brighter(path: Path) -> None:
    image = load(path)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32) * 2, image.affine), path)


def smaller_mask(path: Path) -> None:
    image = load(path)
    values = np.asarray(image.dataobj).copy()
    values[:4] = 0
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)


@pytest.mark.parametrize(
    ("file", "change"),
    [(BVEC, negated_bvec), (IMAGE, brighter), (MASK, smaller_mask)],
    ids=["corrected bvec alone", "image", "mask"],
)
def test_a_changed_file_changes_only_its_subject(
    instance: DagsterInstance, source: Path, file: str, change: Callable[[Path], None]
) -> None:
    ingest(instance, settings_for(source))
    stat = (source / file).stat()
    change(source / file)
    os.utime(source / file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the content counts, not the date
    assert lists(ingest(instance, settings_for(source))) == ([], ["sub-02_ses-a"], ["sub-01", "sub-02_ses-b"], [])
    assert lists(ingest(instance, settings_for(source))) == ([], [], KEYS, [])


def test_a_touched_or_copied_file_of_the_same_content_is_no_change(instance: DagsterInstance, source: Path) -> None:
    ingest(instance, settings_for(source))
    later = time.time() + 3600
    for path in source.rglob("*"):
        os.utime(path, (later, later))
    shutil.copytree(source, source.parent / "moved")
    assert lists(ingest(instance, settings_for(source))) == ([], [], KEYS, [])
    assert lists(ingest(instance, settings_for(source.parent / "moved"))) == ([], [], KEYS, [])


def test_a_changed_inherited_gradient_table_changes_all_subjects_that_use_it(
    instance: DagsterInstance, source: Path
) -> None:
    for extension in (".bval", ".bvec"):
        for session in ("a", "b"):
            (source / f"sub-02/ses-{session}/dwi/sub-02_ses-{session}_dwi{extension}").rename(
                source / f"sub-02/sub-02_dwi{extension}"
            )
    ingest(instance, settings_for(source))
    negated_bvec(source / "sub-02/sub-02_dwi.bvec")
    assert ingest(instance, settings_for(source)).changed == ["sub-02_ses-a", "sub-02_ses-b"]


def test_an_added_run_is_a_change_and_removing_it_restores_the_version(instance: DagsterInstance, source: Path) -> None:
    ingest(instance, settings_for(source))
    first = recorded(instance, "dwi", "sub-01", observed=True)
    for path in dwi_folder(source, "sub-01").glob("sub-01_dwi.*"):
        path.rename(path.with_name(path.name.replace("_dwi", "_run-1_dwi")))
    assert ingest(instance, settings_for(source)).changed == [], "a file name is not content"
    write_series(source, "sub-01", entities="run-2")
    assert ingest(instance, settings_for(source)).changed == ["sub-01"]
    for path in dwi_folder(source, "sub-01").glob("*_run-2_*"):
        path.unlink()
    assert ingest(instance, settings_for(source)).changed == ["sub-01"]
    again = recorded(instance, "dwi", "sub-01", observed=True)
    assert first is not None
    assert again is not None
    assert again.data_version == first.data_version


@pytest.mark.parametrize("setting", [{"subsample": 2}, {"b0_threshold": 100}], ids=["subsample", "b0_threshold"])
def test_a_setting_of_the_source_changes_the_data_version(
    instance: DagsterInstance, source: Path, setting: dict[str, object]
) -> None:
    ingest(instance, settings_for(source))
    assert ingest(instance, settings_for(source, source=setting)).changed == KEYS


def test_a_setting_of_a_derivation_does_not_change_the_source(instance: DagsterInstance, source: Path) -> None:
    ingest(instance, settings_for(source))
    assert ingest(instance, settings_for(source, dti={"max_bvalue": 900})).unchanged == KEYS


def test_a_removed_subject_is_reported_and_its_partition_stays(instance: DagsterInstance, source: Path) -> None:
    ingest(instance, settings_for(source))
    shutil.rmtree(source / "sub-01")
    assert lists(ingest(instance, settings_for(source))) == ([], [], KEYS[1:], ["sub-01"])
    assert "sub-01" in instance.get_dynamic_partitions(PARTITIONS)


def test_a_subject_with_a_broken_file_is_quarantined_until_it_is_corrected(
    instance: DagsterInstance, source: Path
) -> None:
    ingest(instance, settings_for(source))
    original = (source / BVEC).read_text()
    (source / BVEC).write_text("1 2 3\n")
    report = ingest(instance, settings_for(source))
    assert lists(report) == ([], [], ["sub-01", "sub-02_ses-b"], [])
    assert list(report.quarantined) == ["sub-02_ses-a"]
    (source / BVEC).write_text(original)
    assert lists(ingest(instance, settings_for(source))) == ([], [], KEYS, [])


def test_a_folder_that_cannot_be_listed_is_quarantined_and_not_removed(
    instance: DagsterInstance, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(instance, settings_for(source))

    def listing(folder: Path) -> Listing:
        # Instead of file permissions, which do not apply if the tests run as root.
        if folder == source / "sub-02":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return files.listing(folder)

    monkeypatch.setattr(tree_module, "listing", listing)
    report = ingest(instance, settings_for(source))
    assert lists(report) == ([], [], ["sub-01"], [])
    assert list(report.quarantined) == ["sub-02"]


def test_only_the_requested_subjects_are_ingested(instance: DagsterInstance, source: Path) -> None:
    assert lists(ingest(instance, settings_for(source), subjects=["sub-01"])) == (["sub-01"], [], [], [])
    assert lists(ingest(instance, settings_for(source), subjects=["sub-01"])) == ([], [], ["sub-01"], [])
    assert lists(ingest(instance, settings_for(source))) == (KEYS[1:], [], ["sub-01"], [])


def test_a_missing_source_is_an_error_and_removes_no_subject(instance: DagsterInstance, source: Path) -> None:
    ingest(instance, settings_for(source))
    with pytest.raises(SourceError, match="found nothing there"):
        ingest(instance, settings_for(source.parent / "unmounted"))
    assert sorted(instance.get_dynamic_partitions(PARTITIONS)) == KEYS
