"""Voxels that are not finite are set to zero outside the brain and refused inside; unusual files and names."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from dagster import DagsterInstance
from numpy.typing import NDArray

from kwneuro_assets.cohort.run import run_subject
from kwneuro_assets.imaging import Dwi, InvalidData, MapSet, streamed
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.ingest_report import IngestReport
from kwneuro_assets.ingestion.read_mask import scan_mask
from kwneuro_assets.ingestion.read_source import ScannedDwi, read_dwi, scan_dwi
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.small_dataset import (
    AFFINES,
    FA,
    GRID,
    dwi_folder,
    head,
    settings_for,
    signal,
    table,
    to_fsl,
    write_mask,
    write_series,
)

SUBJECT = SubjectKey("01")
AFFINE = AFFINES["right-handed"]


def save(root: Path, values: NDArray[np.float32]) -> Path:
    image = write_series(root)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), image)
    return image


def with_value(value: float, where: NDArray[np.bool_], volumes: slice = slice(None)) -> NDArray[np.float32]:
    values = signal(table())
    values[where, volumes] = value
    return values


def scan(root: Path, mask: bool = False, **source: object) -> ScannedDwi:
    dataset = SourceDataset(SourceSettings(url=str(root), **source))
    found = scan_mask(dataset, dataset.mask(SUBJECT)) if mask else None
    return scan_dwi(dataset, dataset.series(SUBJECT), mask=found)


def read(root: Path, **source: object) -> Dwi:
    dataset = SourceDataset(SourceSettings(url=str(root), **source))
    return read_dwi(dataset, dataset.series(SUBJECT))[0]


CORNERS = np.zeros(GRID, bool)
CORNERS[0] = CORNERS[:, 0] = True


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("volumes", [slice(None), slice(20, 21), slice(0, 2)], ids=["all", "one", "b=0"])
def test_voxels_outside_the_head_become_zero_and_are_counted(tmp_path: Path, value: float, volumes: slice) -> None:
    save(tmp_path, with_value(value, CORNERS, volumes))
    [warning] = scan(tmp_path).warnings
    assert warning.startswith(f"{CORNERS.sum()} voxels outside the brain are NaN or infinite in some volume: set to 0")
    np.testing.assert_array_equal(read(tmp_path).array, signal(table()))


def test_outside_a_mask_any_number_of_voxels_may_be_not_finite(tmp_path: Path) -> None:
    save(tmp_path, with_value(np.nan, ~head()))
    assert (~head()).mean() > 0.5
    with pytest.raises(InvalidData, match=r"expected finite numbers in most voxels, found .* provide a brain mask"):
        scan(tmp_path)
    write_mask(tmp_path)
    [warning] = scan(tmp_path, mask=True).warnings
    assert warning.startswith(f"{(~head()).sum()} voxels")
    np.testing.assert_array_equal(read(tmp_path).array, signal(table()))


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("volumes", [slice(None), slice(20, 21), slice(0, 1)], ids=["all", "one", "b=0"])
def test_voxels_in_the_brain_that_are_not_finite_are_refused(tmp_path: Path, mask: bool, volumes: slice) -> None:
    where = np.zeros(GRID, bool)
    where[4, 3, 3] = where[0, 0, 0] = True
    save(tmp_path, with_value(np.nan, where, volumes))
    write_mask(tmp_path)
    with pytest.raises(InvalidData, match=r"sub-01_dwi.nii.gz: voxel values: expected finite .*, in 1 of its voxels"):
        scan(tmp_path, mask=mask)


def test_a_voxel_outside_a_smaller_mask_is_repaired_in_all_volumes(tmp_path: Path) -> None:
    where = np.zeros(GRID, bool)
    where[4, 3, 3] = True
    save(tmp_path, with_value(np.nan, where, slice(5, 6)))
    write_mask(tmp_path, inside=head() & ~where)
    assert len(scan(tmp_path, mask=True).warnings) == 1
    expected = signal(table())
    expected[where] = 0
    np.testing.assert_array_equal(read(tmp_path).array, expected)


@pytest.mark.parametrize("step", [1, 2])
def test_a_streamed_dwi_is_repaired_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    save(tmp_path, with_value(np.nan, CORNERS, slice(3, 9)))
    in_memory = read(tmp_path, subsample=step)
    monkeypatch.setattr(streamed, "LARGE", 0)
    from_files = read(tmp_path, subsample=step)
    np.testing.assert_array_equal(from_files.array, in_memory.array)
    np.testing.assert_array_equal(from_files.mean_b0().array, in_memory.mean_b0().array)


def test_a_repaired_subject_has_a_warning_and_correct_maps(tmp_path: Path, instance: DagsterInstance) -> None:
    source = tmp_path / "source"
    save(source, with_value(np.nan, ~head()))
    write_mask(source)
    settings = settings_for(source)
    report = ingest(instance, settings)
    [warning] = report.warnings["sub-01"]
    assert report.to_json()["warnings"] == {"sub-01": [warning]}
    results = run_subject(instance, settings, "sub-01", ["denoised_dwi", "mean_b0", "brain_mask", "dti"])
    assert {result.outcome for result in results} == {"materialized"}
    maps, _ = DerivativeStore(tmp_path / "store").read("dti", SUBJECT)
    assert isinstance(maps, MapSet)
    np.testing.assert_allclose(maps["fa"].array[head()], FA, atol=1e-5)


def rewritten(root: Path, extension: str, content: str | bytes) -> None:
    path = write_series(root).parent / f"sub-01_dwi{extension}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def plain_bvec() -> str:
    vectors = to_fsl(table().world, AFFINE).T
    return "".join(" ".join(f"{value:.8f}" for value in row) + "\n" for row in vectors)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + plain_bvec(),
        "# FSL frame\n" + plain_bvec() + "# end\n",
        plain_bvec().replace("\n", "\r\n"),
        plain_bvec().replace(" ", "\t"),
        ("\ufeff" + plain_bvec()).encode("utf-16-le"),
        "# Richtungen für den Kopf\n" + plain_bvec(),
    ],
    ids=["BOM", "comments", "CRLF", "tabs", "UTF-16", "umlaut"],
)
def test_text_files_of_any_encoding_and_line_ending_are_read(tmp_path: Path, content: str | bytes) -> None:
    write_series(tmp_path / "plain")
    rewritten(tmp_path / "other", ".bvec", content)
    np.testing.assert_array_equal(read(tmp_path / "other").world_bvecs, read(tmp_path / "plain").world_bvecs)
    assert not scan(tmp_path / "other").warnings


@pytest.mark.parametrize("vector", ["nan", "NaN", "inf"])
def test_an_undefined_vector_of_a_b0_volume_is_set_to_zero_with_a_warning(tmp_path: Path, vector: str) -> None:
    vectors = to_fsl(table().world, AFFINE)
    vectors[:2] = float(vector)
    rewritten(tmp_path, ".bvec", "\n".join(" ".join(map(str, row)) for row in vectors.T))
    [warning] = scan(tmp_path).warnings
    assert warning == "sub-01_dwi.bvec: the b-vectors of 2 b=0 volumes are not finite: set to zero"
    np.testing.assert_array_equal(read(tmp_path).world_bvecs[:2], 0)


@pytest.mark.parametrize(("factor", "unit"), [(1e6, "s/m^2"), (100, "s/cm^2"), (1e-3, "ms/um^2")])
def test_b_values_in_another_unit_are_refused_with_the_likely_one(tmp_path: Path, factor: float, unit: str) -> None:
    rewritten(tmp_path, ".bval", " ".join(map(str, table().bvals * factor)))
    with pytest.raises(InvalidData) as caught:
        scan(tmp_path)
    assert caught.value.problem == "b-values"
    assert f"probably in {unit}" in caught.value.remedy


def test_a_pointer_instead_of_a_text_file_is_named(tmp_path: Path) -> None:
    rewritten(tmp_path, ".bval", "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    with pytest.raises(InvalidData, match=r"sub-01_dwi.bval: .*found a Git LFS pointer.*git lfs pull"):
        scan(tmp_path)


def ingested(root: Path, instance: DagsterInstance, **source: object) -> IngestReport:
    return ingest(instance, settings_for(root, source=source, brain_mask={"method": "median-otsu"}))


def test_misnamed_files_are_listed_with_the_reason(tmp_path: Path, instance: DagsterInstance) -> None:
    source = tmp_path / "source"
    write_series(source)
    folder = dwi_folder(source, "sub-01")
    for name in (
        "sub-01_DWI.nii.gz", "sub-01_acq-b_dwi.NII.GZ", "sub-01_dwi_AP.nii.gz", "sub-01_run-2_dwi.bval",
        "sub-01_dwi.bvals", "sub-01_sbref.nii.gz", "sub-01_dwi.json", "sub-01_dwi_FA.nii.gz", "notes.txt",
    ):  # fmt: skip
        (folder / name).touch()
    (source / "sub-02" / "dwi").mkdir(parents=True)
    (source / "sub-02" / "dwi" / "sub-02_dti.nii.gz").touch()
    (source / "sub-03" / "DWI").mkdir(parents=True)
    (source / "sub-04").mkdir()
    (source / "sub-04" / "sub-04_dwi.nii.gz").touch()
    report = ingested(source, instance)
    assert report.added == ["sub-01"]
    assert set(report.ignored) == {
        *(f"sub-01/dwi/{name}" for name in (
            "sub-01_DWI.nii.gz", "sub-01_acq-b_dwi.NII.GZ", "sub-01_dwi_AP.nii.gz", "sub-01_run-2_dwi.bval",
            "sub-01_dwi.bvals", "sub-01_dwi_FA.nii.gz",
        )),
        "sub-02/dwi/sub-02_dti.nii.gz", "sub-03/DWI", "sub-04/sub-04_dwi.nii.gz",
    }  # fmt: skip
    assert "lower case" in report.ignored["sub-01/dwi/sub-01_DWI.nii.gz"]
    assert "no image" in report.ignored["sub-01/dwi/sub-01_run-2_dwi.bval"]
    assert report.to_json()["ignored"] == report.ignored


def test_a_custom_layout_lists_names_that_differ_in_case(tmp_path: Path, instance: DagsterInstance) -> None:
    source = tmp_path / "source"
    (source / "01").mkdir(parents=True)
    (source / "01" / "DWI.NII.GZ").touch()
    report = ingested(source, instance, layout="{subject}/dwi.nii.gz")
    assert list(report.ignored) == ["01/DWI.NII.GZ"]
    assert report.no_subjects.endswith("expected images {subject}/dwi.nii.gz, found 1 folder (01)")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "found nothing"),
        (["notes.txt"], "found 1 file (notes.txt)"),
        (["study/sub-01/dwi/sub-01_dwi.nii.gz"], "/study are folders sub-*: is that the dataset?"),
        (["dwi/sub-01_dwi.nii.gz"], "This is the folder of one subject"),
        ([f"patient{number}/scan.dcm" for number in range(7)], "found 7 folders (patient0, patient1, "),
        (["sub-01/anat/sub-01_T1w.nii.gz"], "found 1 folder (sub-01)"),
    ],
)
def test_the_message_about_a_folder_without_subjects_names_its_contents(
    tmp_path: Path, instance: DagsterInstance, files: list[str], message: str
) -> None:
    (tmp_path / "source").mkdir()
    for file in files:
        path = tmp_path / "source" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    report = ingested(tmp_path / "source", instance)
    assert report.no_subjects.startswith(
        f"no subject in {tmp_path}/source: expected folders sub-*/[ses-*/]dwi with images"
    )
    assert message in report.no_subjects
    assert report.summary() == report.no_subjects


@pytest.mark.parametrize(
    ("chosen", "names", "expected"),
    [
        ({"part": "mag"}, ["part-mag", "part-phase"], "part-mag"),
        ({"space": "T1w"}, ["space-T1w", "acq-b"], "space-T1w"),
        ({"desc": "denoised"}, ["desc-denoised", "desc-preproc", "acq-b"], "desc-denoised"),
        (
            {"desc": "preproc, eddy", "space": "T1w"},
            ["space-T1w_desc-eddy", "space-x_desc-eddy"],
            "space-T1w_desc-eddy",
        ),
    ],
)
def test_images_are_chosen_by_part_space_and_desc(
    tmp_path: Path, chosen: dict[str, object], names: list[str], expected: str
) -> None:
    for entities in names:
        write_series(tmp_path, entities=entities)
    series = SourceDataset(SourceSettings(url=str(tmp_path), **chosen)).series(SUBJECT)
    assert [run.image.name for run in series.runs] == [f"sub-01_{expected}_dwi.nii.gz"]
    assert series.interpolated == ("space" in expected)


def test_other_spellings_of_the_same_dataset_are_not_read_again(
    tmp_path: Path, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    write_series(source)
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def at(url: str) -> IngestReport:
        settings = settings_for(source, source={"url": url}, brain_mask={"method": "median-otsu"})
        return ingest(instance, settings)

    assert at(str(source)).added == ["sub-01"]
    import kwneuro_assets.ingestion.subject_files as module

    def never(*_: object) -> None:
        raise AssertionError("a file was opened again")

    monkeypatch.setattr(module, "scan_dwi", never)
    for url in (f"{source}/", "source", "./source/", "link", "~/source", f"file://{source}", "other/../source"):
        assert at(url).unchanged == ["sub-01"], url
