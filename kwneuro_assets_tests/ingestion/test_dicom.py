"""DICOM series become a BIDS dataset of our own: real dcm2niix on series of a known tensor."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (the extra dicom)")
pytest.importorskip("pydicom", reason="pydicom is not installed (the extra dicom)")

import pydicom

from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.dicom import HIDDEN, DicomError, DicomReport, convert_new
from kwneuro_assets.ingestion.dicom_series import find_series
from kwneuro_assets.ingestion.read import read_dwi
from kwneuro_assets.ingestion.scanner import convert_dicom
from kwneuro_assets.settings import DicomSettings, PipelineSettings, SourceSettings
from kwneuro_assets_tests.bids_validator import Verdict
from kwneuro_assets_tests.dicom_files import GRID, write_dicom_series
from kwneuro_assets_tests.small_dataset import rotation, signal, table

DIRECTIONS = table((1000.0,), 8)
IMAGE = "sub-P01/dwi/sub-P01_dir-AP_dwi.nii.gz"


@pytest.fixture
def scanner(tmp_path: Path) -> Path:
    write_dicom_series(tmp_path / "scanner", DIRECTIONS)
    return tmp_path / "scanner"


def convert(scanner: Path, seconds: float = 0, **dicom: Any) -> DicomReport:
    settings = DicomSettings(**{"folder": str(scanner), "series": {"*diff*ap": "dir-AP"}, **dicom})
    return convert_new(settings, scanner.parent / "bids", seconds)


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    found = [path for path in sorted(root.rglob("*")) if path.is_file() and HIDDEN not in path.parts]
    return {path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_a_series_becomes_a_run_with_its_signal_and_gradients_in_the_world_frame(scanner: Path) -> None:
    before = contents(scanner)
    assert convert(scanner) == DicomReport(converted=[IMAGE])
    assert contents(scanner) == before, "the originals are untouched"
    dataset = SourceDataset(SourceSettings(url=str(scanner.parent / "bids")))
    [subject], refused = dataset.subjects()
    assert refused == {}
    dwi, _ = read_dwi(dataset, dataset.series(subject))
    np.testing.assert_array_equal(dwi.bvals, DIRECTIONS.bvals)
    weighted = DIRECTIONS.bvals > 0
    along = np.abs(np.sum(dwi.world_bvecs * DIRECTIONS.world, axis=1))[weighted]
    np.testing.assert_allclose(along, 1, atol=1e-4)
    axes = dwi.affine[:3, :3] / np.linalg.norm(dwi.affine[:3, :3], axis=0)
    steps = [slice(None, None, int(np.sign(axes[axis, axis]))) for axis in range(3)]  # to the order of the world's axes
    inside = signal(DIRECTIONS, GRID)[..., 0] > 0
    made = np.asarray(dwi.array)[tuple(steps)]
    np.testing.assert_allclose(made[inside], signal(DIRECTIONS, GRID)[inside] + 20, atol=1)


def test_looking_again_converts_nothing_and_the_bytes_are_the_same_every_time(scanner: Path) -> None:
    convert(scanner)
    before = contents(scanner.parent / "bids")
    assert convert(scanner) == DicomReport(unchanged=1)
    assert contents(scanner.parent / "bids") == before
    for path in (scanner.parent / "bids").rglob("*"):
        if path.name == "dicom.json":
            path.unlink()
    assert convert(scanner).converted == [IMAGE]
    after = contents(scanner.parent / "bids")
    assert {name: one[0] for name, one in after.items()} == {name: one[0] for name, one in before.items()}


def test_a_corrected_export_is_converted_again_to_the_same_name(scanner: Path) -> None:
    convert(scanner)
    before = contents(scanner.parent / "bids")[IMAGE][0]
    write_dicom_series(scanner, DIRECTIONS, brightness=1.5)
    assert convert(scanner).converted == [IMAGE]
    assert contents(scanner.parent / "bids")[IMAGE][0] != before


def test_a_repeated_scan_is_a_second_run_and_other_series_are_left_out(scanner: Path) -> None:
    convert(scanner)
    write_dicom_series(scanner / "more", DIRECTIONS, number=9)
    write_dicom_series(scanner / "more", DIRECTIONS, number=10, kind="ADC")
    write_dicom_series(scanner / "more", DIRECTIONS, number=11, description="t1_mprage")
    write_dicom_series(scanner / "more", table((), b0=2), number=12, description="diff_b0_AP", gradients=False)
    (scanner / "more" / "notes.txt").write_text("none")
    (scanner / "DICOMDIR").write_bytes(b"none")
    assert convert(scanner) == DicomReport(converted=["sub-P01/dwi/sub-P01_dir-AP_run-2_dwi.nii.gz"], unchanged=1)
    assert convert(scanner) == DicomReport(unchanged=2)


def test_a_session_comes_of_its_field(scanner: Path) -> None:
    assert convert(scanner, session="{StudyDate}").converted == [
        "sub-P01/ses-20261103/dwi/sub-P01_ses-20261103_dir-AP_dwi.nii.gz"
    ]


def test_two_patients_of_one_label_are_not_merged(scanner: Path) -> None:
    write_dicom_series(scanner, DIRECTIONS, patient="P.01", number=6)
    report = convert(scanner)
    assert report.converted == [IMAGE]
    assert "'P.01', whose label P01 is that of 'P-01' already" in report.failed["6 ep2d_diff_AP"]
    assert convert(scanner).failed == report.failed, "told again, and not tried again"


def test_a_series_that_is_still_being_sent_waits(scanner: Path) -> None:
    report = convert(scanner, seconds=60)
    assert list(report.waiting) == ["5 ep2d_diff_AP"]
    assert report.converted == []


@pytest.mark.parametrize(
    ("dicom", "told"),
    [
        ({"folder": "nowhere"}, "expected a folder of DICOM series"),
        ({"subject": "{Patient}"}, "expected a DICOM keyword like PatientID"),
        ({"series": {"*": "dir-AP_acq-x"}}, "in this order"),
        ({"series": {"*": "dir-AP_rec-x"}}, "in this order"),
        ({"series": {"*": "task-rest"}}, "expected entities of acq"),
        ({"series": {"*": "run-first"}}, "run with a number"),
        ({"subject": "{}"}, "expected a DICOM keyword"),
        ({"subject": "{PatientID:d}"}, "cannot be read"),
    ],
)
def test_settings_that_cannot_be_used_are_told(scanner: Path, dicom: dict[str, Any], told: str) -> None:
    with pytest.raises(DicomError, match=told):
        convert(scanner, **dicom)


def test_neither_folder_may_lie_in_the_other(scanner: Path) -> None:
    for target in (scanner, scanner / "bids", scanner.parent):
        with pytest.raises(DicomError, match="neither lies in the other"):
            convert_new(DicomSettings(folder=str(scanner)), target)


def test_a_bucket_is_no_place_to_convert_into(scanner: Path) -> None:
    settings = PipelineSettings.model_validate(
        {"source": {"url": "s3://bucket/raw"}, "dicom": {"folder": str(scanner)}}
    )
    with pytest.raises(DicomError, match="expected a local folder"):
        convert_dicom(settings)
    assert convert_dicom(PipelineSettings()) == []


@pytest.mark.parametrize("maker", ["Siemens", "Philips"])
def test_gradients_point_the_same_way_in_the_world_however_the_slices_lie(
    tmp_path: Path, maker: Literal["Siemens", "Philips"]
) -> None:
    # Of GE, whose vectors lie along the axes of frequency and phase, there is no reference here but dcm2niix itself.
    write_dicom_series(tmp_path / "scanner", DIRECTIONS, maker=maker, turn=rotation(12, -20, 33))
    assert convert(tmp_path / "scanner").converted == [IMAGE]
    dataset = SourceDataset(SourceSettings(url=str(tmp_path / "bids")))
    dwi, _ = read_dwi(dataset, dataset.series(dataset.subjects()[0][0]))
    np.testing.assert_array_equal(dwi.bvals, DIRECTIONS.bvals)
    # Signed: dcm2niix writes six digits and keeps the sense of each vector.
    np.testing.assert_allclose(dwi.world_bvecs, DIRECTIONS.world, atol=1e-5)


def test_a_series_of_ge_without_its_protocol_block_is_whole(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "scanner", DIRECTIONS, maker="GE")
    assert convert(tmp_path / "scanner").converted == [IMAGE]


def test_what_is_made_is_valid_bids(scanner: Path, validate: Callable[[Path], Verdict]) -> None:
    write_dicom_series(scanner, DIRECTIONS, number=9)
    mapping = {"*": "acq-a_rec-b_dir-AP_part-mag"}
    assert len(convert(scanner, series=mapping, session="{StudyDate}").converted) == 2
    assert validate(scanner.parent / "bids").errors == set()


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (lambda paths: [paths[20]], "missing images"),
        (lambda paths: paths[-2:], "missing images"),
        (lambda paths: paths[2 :: GRID[2]], "Error: Check sorted order"),  # with exit code 0
    ],
    ids=["one slice", "the last slices", "one slice of every volume"],
)
def test_a_series_with_slices_missing_is_told_and_not_tried_again_until_they_come(
    scanner: Path, lost: Callable[[list[Path]], list[Path]], told: str
) -> None:
    away = {path: path.read_bytes() for path in lost(sorted(scanner.iterdir()))}
    for path in away:
        path.unlink()
    report = convert(scanner)
    assert report.converted == []
    assert told in report.failed["5 ep2d_diff_AP"]
    assert convert(scanner, series={"*diff*ap": "dir-AP"}).failed == report.failed
    for path, content in away.items():
        path.write_bytes(content)
    assert convert(scanner) == DicomReport(converted=[IMAGE])


def test_one_broken_file_is_named_and_other_series_go_on(scanner: Path) -> None:
    broken = sorted(write_dicom_series(scanner / "b", DIRECTIONS, patient="Q"))[7]
    broken.write_bytes(broken.read_bytes()[:-100])
    report = convert(scanner)
    assert report.converted == [IMAGE]
    assert broken.name in report.failed["b: 5 ep2d_diff_AP"]


def test_an_incomplete_series_without_gradients_is_no_failure(scanner: Path) -> None:
    anatomy = write_dicom_series(scanner, table((), b0=1), number=2, description="t1", kind="NORM", gradients=False)
    anatomy[3].unlink()
    assert convert(scanner, series={"*": ""}) == DicomReport(converted=["sub-P01/dwi/sub-P01_dwi.nii.gz"])


def test_failures_of_one_protocol_are_told_for_each_patient(tmp_path: Path) -> None:
    for patient in ("A", "B"):
        write_dicom_series(tmp_path / "scanner", DIRECTIONS, patient=patient)[20].unlink()
    assert len(convert(tmp_path / "scanner").failed) == 2


def test_files_that_are_no_dicom_or_broken_never_stop_a_look(scanner: Path) -> None:
    random, content = np.random.default_rng(0), sorted(scanner.iterdir())[0].read_bytes()[:1200]
    (scanner / "junk").mkdir()
    for number in range(300):
        junk = np.frombuffer(content, np.uint8).copy()
        junk[random.integers(132, len(junk), 6)] = random.integers(0, 256, 6)
        (scanner / "junk" / f"{number}").write_bytes(junk[: random.integers(100, len(junk))].tobytes())
    found, index = find_series(scanner, {}, ["Modality", "SeriesInstanceUID", "SeriesNumber", "StudyDate", "StudyTime"])
    assert len(index) == 300 + len(DIRECTIONS.bvals) * GRID[2]
    assert found


def test_a_patient_that_was_corrected_leaves_nothing_under_the_old_name(scanner: Path) -> None:
    convert(scanner)
    correct(scanner, PatientID="P-02")
    assert convert(scanner).converted == ["sub-P02/dwi/sub-P02_dir-AP_dwi.nii.gz"]
    assert not any("P01" in name for name in contents(scanner.parent / "bids"))


def test_a_label_that_became_free_is_given_to_who_waited_for_it(scanner: Path) -> None:
    write_dicom_series(scanner / "b", DIRECTIONS, patient="P.01", number=6)
    assert len(convert(scanner).failed) == 1
    correct(scanner / "b", PatientID="P-01")
    assert convert(scanner).converted == ["sub-P01/dwi/sub-P01_dir-AP_run-2_dwi.nii.gz"]


def test_two_patients_of_one_name_are_not_merged(scanner: Path) -> None:
    write_dicom_series(scanner, DIRECTIONS, patient="Q", number=6)
    report = convert(scanner, subject="{PatientName}")
    assert report.converted == ["sub-DoeJane/dwi/sub-DoeJane_dir-AP_dwi.nii.gz"]
    assert "its patient is 'Q'" in report.failed["6 ep2d_diff_AP"]


@pytest.mark.parametrize("change", [{"series": {"*": "acq-new"}}, {"session": "{StudyDate}"}])
def test_settings_that_name_it_otherwise_move_what_was_made(scanner: Path, change: dict[str, Any]) -> None:
    convert(scanner)
    assert len(convert(scanner, **change).converted) == 1
    assert len([name for name in contents(scanner.parent / "bids") if name.endswith(".nii.gz")]) == 1
    assert convert(scanner, **change) == DicomReport(unchanged=1)


def test_runs_are_numbered_in_the_order_of_acquisition(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "scanner", DIRECTIONS, number=3, date="20261201", brightness=0.5)
    write_dicom_series(tmp_path / "scanner", DIRECTIONS, number=7, date="20261101")
    convert(tmp_path / "scanner")
    dataset = SourceDataset(SourceSettings(url=str(tmp_path / "bids")))
    dwi, _ = read_dwi(dataset, dataset.series(dataset.subjects()[0][0]))
    count = len(DIRECTIONS.bvals)
    assert dwi.array[..., 0].sum() > 1.5 * dwi.array[..., count].sum()


def test_an_image_that_was_lost_is_made_again(scanner: Path) -> None:
    convert(scanner)
    (scanner.parent / "bids" / IMAGE).unlink()
    assert convert(scanner).converted == [IMAGE]


def test_a_file_of_someone_else_is_never_replaced(scanner: Path) -> None:
    foreign = scanner.parent / "bids" / IMAGE
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    assert "move it away" in convert(scanner).failed["5 ep2d_diff_AP"]
    assert foreign.read_bytes() == b"mine"
    foreign.unlink()
    assert convert(scanner).converted == [IMAGE]


def test_a_person_s_own_defaults_of_dcm2niix_do_not_count(
    scanner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(scanner)
    before = contents(scanner.parent / "bids")[IMAGE][0]
    (tmp_path / ".dcm2nii.ini").write_text("isMaximize16BitRange=1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    (scanner.parent / "bids" / IMAGE).unlink()
    convert(scanner)
    assert contents(scanner.parent / "bids")[IMAGE][0] == before


@pytest.mark.parametrize("moment", [0, 3, 4, 6, 7])  # of the renames: its index, name and description come first
def test_a_conversion_killed_between_two_names_is_taken_up_under_the_same_name(scanner: Path, moment: int) -> None:
    write_dicom_series(scanner, DIRECTIONS, number=9)
    for path in scanner.glob("*_05_*"):  # arrives later
        path.rename(path.with_name(f".{path.name}"))
    killed = multiprocessing.get_context("fork").Process(target=_convert_and_die, args=(scanner, moment))
    killed.start()
    killed.join()
    assert killed.exitcode == 9
    begun = any("sub-P01" in name for name in contents(scanner.parent / "bids"))
    assert begun == (moment > 3)
    for path in scanner.glob(".P*"):
        path.rename(path.with_name(path.name[1:]))
    assert sorted(convert(scanner).converted) == [IMAGE, IMAGE.replace("_dwi.nii", "_run-2_dwi.nii")]
    if begun:
        memory = json.loads((scanner.parent / "bids" / HIDDEN / "dicom.json").read_text())
        first = pydicom.dcmread(next(scanner.glob("*_09_*"))).SeriesInstanceUID
        assert f"{memory['series'][first]['stem']}.nii.gz" == IMAGE
    assert {path.name for path in (scanner.parent / "bids" / HIDDEN).iterdir()} == {"dicom.json", "dicom_files.json"}


def _convert_and_die(scanner: Path, moment: int) -> None:
    replace, calls = os.replace, iter(range(99))
    os.replace = lambda *paths: os._exit(9) if next(calls) == moment else replace(*paths)  # type: ignore[assignment]
    convert(scanner)


def test_processes_that_convert_at_once_make_each_image_once(scanner: Path) -> None:
    for number in range(6, 10):
        write_dicom_series(scanner, DIRECTIONS, number=number)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        reports = pool.map(convert, [scanner] * 3)
    assert sum(len(report.converted) for report in reports) == 5
    assert all(not report.failed for report in reports)


def test_a_second_look_opens_no_file_that_did_not_change(scanner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(scanner)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(pydicom, "dcmread", refuse)
    assert convert(scanner) == DicomReport(unchanged=1)


def test_a_place_that_cannot_be_written_is_told(scanner: Path) -> None:
    (scanner.parent / "bids").write_text("a file")
    with pytest.raises(DicomError, match="Not a directory"):
        convert(scanner)


def correct(folder: Path, **fields: str) -> None:
    for path in folder.glob("*.IMA"):
        one = pydicom.dcmread(path)
        for name, value in fields.items():
            setattr(one, name, value)
        one.save_as(path)
