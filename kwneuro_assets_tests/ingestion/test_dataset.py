"""The index of a BIDS dataset: what it finds, joins, chooses and refuses, by names and headers."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kwneuro_assets.imaging import InvalidData
from kwneuro_assets.ingestion import tree as tree_module
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.read_source import read_dwi, scan_dwi
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage import files
from kwneuro_assets.storage.files import Listing
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.small_dataset import (
    AFFINES,
    dwi_folder,
    table,
    write_dataset,
    write_gradients,
    write_mask,
    write_series,
)

SUBJECT = SubjectKey("01")


def opened(root: Path, **source: object) -> SourceDataset:
    return SourceDataset(SourceSettings(url=str(root), **source))


def images(root: Path, key: str = "sub-01", **source: object) -> list[str]:
    series = opened(root, **source).series(SubjectKey.parse(key))
    return [run.image.name for run in series.runs]


def tables(root: Path, key: str = "sub-01") -> list[tuple[str, str]]:
    dataset = opened(root)
    return [(dataset.relative(run.bval), dataset.relative(run.bvec)) for run in dataset.series(_key(key)).runs]


def _key(text: str) -> SubjectKey:
    return SubjectKey.parse(text)


def test_subjects_and_sessions_with_diffusion_data_are_found_in_order(tmp_path: Path) -> None:
    write_dataset(tmp_path, ["sub-10", "sub-02_ses-b", "sub-02_ses-a+b", "sub-A1"])
    (tmp_path / "sub-03" / "anat").mkdir(parents=True)
    (tmp_path / "sub-04" / "dwi").mkdir(parents=True)
    (tmp_path / "derivatives" / "other" / "sub-09" / "dwi").mkdir(parents=True)
    (tmp_path / "derivatives" / "other" / "sub-09" / "dwi" / "sub-09_dwi.nii.gz").touch()
    subjects, refused = opened(tmp_path).subjects()
    assert [str(key) for key in subjects] == ["sub-02_ses-a+b", "sub-02_ses-b", "sub-10", "sub-A1"]
    assert refused == {}


@pytest.mark.parametrize("name", ["sub-..", "sub-0 1", "sub-0_1", "sub-é1", "sub-" + "x" * 65, "sub-"])
def test_a_folder_without_a_bids_label_is_refused_and_the_others_are_found(tmp_path: Path, name: str) -> None:
    write_dataset(tmp_path, ["sub-02"])
    folder = tmp_path / name / "dwi"
    folder.mkdir(parents=True)
    (folder / f"{name}_dwi.nii.gz").touch()
    subjects, refused = opened(tmp_path).subjects()
    assert [str(key) for key in subjects] == ["sub-02"]
    [error] = refused.values()
    assert str(error).startswith(f"{folder}: subject: expected sub-LABEL")
    assert repr(name) in error.found


def test_only_the_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, ["sub-01", "sub-02"])

    def listing(folder: Path) -> Listing:
        # Instead of file permissions, which do not apply if the tests run as root.
        if folder == tmp_path / "sub-01":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return files.listing(folder)

    monkeypatch.setattr(tree_module, "listing", listing)
    subjects, refused = opened(tmp_path).subjects()
    assert [str(key) for key in subjects] == ["sub-02"]
    assert str(refused["sub-01"]) == (
        f"{tmp_path}/sub-01: folder: expected one that can be listed, found Permission denied."
    )


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    """The images of a datalad dataset are links into .git/annex."""
    plain = write_dataset(tmp_path / "plain", ["sub-01", "sub-02"])
    annexed = write_dataset(tmp_path / "annexed", ["sub-01"])
    for number, path in enumerate(sorted(dwi_folder(annexed, "sub-01").iterdir())):
        target = annexed / ".git" / "annex" / str(number)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        path.symlink_to(target)
    (annexed / "sub-02").symlink_to(plain / "sub-02", target_is_directory=True)
    subjects, _ = opened(annexed).subjects()
    assert subjects == [SubjectKey("01"), SubjectKey("02")]
    for subject in subjects:
        versions = [scan_dwi(one, one.series(subject)).version for one in (opened(plain), opened(annexed))]
        assert versions[0] == versions[1]


def test_a_mask_that_was_not_fetched_is_left_out(tmp_path: Path) -> None:
    write_series(tmp_path)
    mask = write_mask(tmp_path / "derivatives" / "masks")
    (tmp_path / "sub-01" / "dwi" / mask.name).symlink_to(tmp_path / ".git" / "annex" / "content-not-here")
    assert opened(tmp_path).mask(SUBJECT) == mask


@pytest.mark.parametrize(("url", "found"), [("nowhere", "nothing there"), ("file", "a file")])
def test_a_source_that_is_no_folder_is_named_in_the_error(tmp_path: Path, url: str, found: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=rf"the source {tmp_path}/{url}: expected the folder .* found {found}"):
        opened(tmp_path / url)


def test_runs_are_joined_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for run in ("run-10", "run-2", "run-01"):
        write_series(tmp_path, entities=run)
    assert images(tmp_path) == ["sub-01_run-01_dwi.nii.gz", "sub-01_run-2_dwi.nii.gz", "sub-01_run-10_dwi.nii.gz"]


def test_uncompressed_images_are_found_too(tmp_path: Path) -> None:
    write_series(tmp_path, extension=".nii")
    assert images(tmp_path) == ["sub-01_dwi.nii"]


def test_a_preprocessed_dwi_replaces_the_raw_dwi_and_counts_as_interpolated(tmp_path: Path) -> None:
    write_series(tmp_path)
    assert not opened(tmp_path).series(SUBJECT).interpolated
    write_series(tmp_path, entities="desc-preproc")
    assert images(tmp_path) == ["sub-01_desc-preproc_dwi.nii.gz"]
    assert opened(tmp_path).series(SUBJECT).interpolated


def test_derivatives_of_another_kind_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_series(tmp_path, entities="desc-denoised")
    assert images(tmp_path) == ["sub-01_dwi.nii.gz"]


def test_images_of_several_kinds_are_refused_until_the_settings_choose(tmp_path: Path) -> None:
    for entities in ("dir-AP", "dir-PA_run-1", "dir-PA_run-2"):
        write_series(tmp_path, entities=entities)
    with pytest.raises(InvalidData) as caught:
        images(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/sub-01/dwi: DWI series: expected runs of one kind")
    assert "2 kinds: sub-01_dir-AP_dwi.nii.gz, sub-01_dir-PA_run-1_dwi.nii.gz" in caught.value.found
    assert "source.select" in caught.value.remedy
    assert images(tmp_path, select="*dir-AP*") == ["sub-01_dir-AP_dwi.nii.gz"]
    assert images(tmp_path, select="*dir-PA*") == ["sub-01_dir-PA_run-1_dwi.nii.gz", "sub-01_dir-PA_run-2_dwi.nii.gz"]
    assert len(images(tmp_path, select="*")) == 3
    with pytest.raises(InvalidData, match=r"that matches '\*dir-LR\*', found sub-01_dir-AP_dwi.nii.gz, "):
        images(tmp_path, select="*dir-LR*")


def both_compressions(root: Path) -> None:
    write_series(root)
    write_series(root, extension=".nii")


def two_matching_tables(root: Path) -> None:
    image = write_series(root, entities="acq-a_dir-AP", gradients=False)
    for entity in ("acq-a", "dir-AP"):
        write_gradients(image.parent / f"sub-01_{entity}_dwi", table(), AFFINES["right-handed"])


REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no image": (lambda root: dwi_folder(root, "sub-01").mkdir(parents=True), "an image *_dwi.nii.gz", "none"),
    "no bval": (
        lambda root: write_series(root).parent.joinpath("sub-01_dwi.bval").unlink(), "sub-01_dwi.bval beside", "none",
    ),
    "no bvec": (
        lambda root: write_series(root).parent.joinpath("sub-01_dwi.bvec").unlink(), "sub-01_dwi.bvec beside", "none",
    ),
    "a bval of another run": (
        lambda root: write_series(root, entities="run-1").parent.joinpath("sub-01_run-1_dwi.bval").rename(
            dwi_folder(root, "sub-01") / "sub-01_run-2_dwi.bval"
        ),
        "sub-01_run-1_dwi.bval beside",
        "none",
    ),
    "two that match equally": (two_matching_tables, "one that applies", "sub-01_acq-a_dwi.bval"),
    "two compressions": (both_compressions, "sub-01_dwi once", ".nii and as .nii.gz"),
    "a run that is no number": (lambda root: write_series(root, entities="run-two"), "an integer", "two"),
    "another subject's image": (
        lambda root: write_series(root, "sub-02").parent.parent.rename(root / "sub-01"), "sub-01", "sub-02_dwi.nii.gz",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lay_out", "expected", "found"), REFUSED.values(), ids=list(REFUSED))
def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, lay_out: Callable[[Path], object], expected: str, found: str
) -> None:
    lay_out(tmp_path)
    with pytest.raises(InvalidData) as caught:
        opened(tmp_path).series(SUBJECT)
    assert str(caught.value).startswith(f"{tmp_path}/sub-01/dwi")
    assert expected in caught.value.expected
    assert found in caught.value.found


@pytest.mark.parametrize(
    ("key", "level", "name"),
    [
        ("sub-01", "", "dwi"),
        ("sub-01", "sub-01", "sub-01_dwi"),
        ("sub-01_ses-02", "", "dwi"),
        ("sub-01_ses-02", "sub-01", "sub-01_dwi"),
        ("sub-01_ses-02", "sub-01/ses-02", "sub-01_ses-02_dwi"),
    ],
)
def test_gradient_tables_are_inherited_from_any_parent_folder(tmp_path: Path, key: str, level: str, name: str) -> None:
    write_series(tmp_path, key, gradients=False)
    write_gradients(tmp_path / level / name, table(), AFFINES["right-handed"])
    inherited = str(Path(level, name))
    assert tables(tmp_path, key) == [(f"{inherited}.bval", f"{inherited}.bvec")]
    dataset = opened(tmp_path)
    dwi, _ = read_dwi(dataset, dataset.series(_key(key)))
    assert len(dwi.gradients) == len(table().bvals)


def test_the_nearest_folder_and_the_most_specific_name_apply(tmp_path: Path) -> None:
    write_gradients(tmp_path / "dwi", table(), AFFINES["right-handed"])
    write_gradients(tmp_path / "acq-a_dwi", table(), AFFINES["right-handed"])
    write_gradients(tmp_path / "acq-b_dwi", table(), AFFINES["right-handed"])
    write_series(tmp_path, entities="acq-a", gradients=False)
    assert tables(tmp_path) == [("acq-a_dwi.bval", "acq-a_dwi.bvec")]
    write_gradients(tmp_path / "sub-01" / "sub-01_dwi", table(), AFFINES["right-handed"])
    assert tables(tmp_path) == [("sub-01/sub-01_dwi.bval", "sub-01/sub-01_dwi.bvec")]


def test_a_bvec_beside_the_image_and_a_bval_in_a_parent_folder_are_combined(tmp_path: Path) -> None:
    image = write_series(tmp_path)
    shutil.move(image.parent / "sub-01_dwi.bval", tmp_path / "dwi.bval")
    assert tables(tmp_path) == [("dwi.bval", "sub-01/dwi/sub-01_dwi.bvec")]


def test_gradient_tables_outside_the_dataset_are_not_used(tmp_path: Path) -> None:
    write_series(tmp_path / "bids", gradients=False)
    write_gradients(tmp_path / "dwi", table(), AFFINES["right-handed"])
    with pytest.raises(InvalidData, match=r"expected sub-01_dwi\.bval beside the image"):
        tables(tmp_path / "bids")


@pytest.mark.parametrize("place", ["", "derivatives/masks"])
def test_a_mask_is_found_in_the_dataset_or_below_its_derivatives(tmp_path: Path, place: str) -> None:
    write_series(tmp_path, "sub-01_ses-02")
    path = write_mask(tmp_path / place, "sub-01_ses-02")
    assert opened(tmp_path).mask(SubjectKey("01", "02")) == path


def test_no_mask_and_two_masks_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path)
    with pytest.raises(InvalidData, match=r"brain mask: expected one file sub-01/dwi/.*, found none"):
        opened(tmp_path).mask(SUBJECT)
    write_mask(tmp_path)
    write_mask(tmp_path / "derivatives" / "a")
    with pytest.raises(InvalidData, match=r"found .*/sub-01/dwi/.*, .*/derivatives/a/sub-01/dwi/"):
        opened(tmp_path).mask(SUBJECT)
