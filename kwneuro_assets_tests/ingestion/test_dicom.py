"""Conversion of DICOM series to a BIDS dataset: real dcm2niix on series with a known tensor."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pytest

pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (the extra dicom)")
pytest.importorskip("pydicom", reason="pydicom is not installed (the extra dicom)")

import pydicom

from kwneuro_assets.ingestion import dcm2niix, dicom
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.dicom import HIDDEN, DicomError, DicomReport, convert_new
from kwneuro_assets.ingestion.dicom_import import convert_dicom
from kwneuro_assets.ingestion.dicom_series import find_series
from kwneuro_assets.ingestion.read_source import read_dwi
from kwneuro_assets.settings import DicomSettings, PipelineSettings, SourceSettings
from kwneuro_assets_tests.testkit.bids_validator import Verdict
from kwneuro_assets_tests.testkit.dicom_files import GRID, write_dicom_series
from kwneuro_assets_tests.testkit.small_dataset import rotation, signal, table

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


def test_a_series_becomes_a_run_with_its_signal_and_world_gradients(scanner: Path) -> None:
    before = contents(scanner)
    assert convert(scanner) == DicomReport(converted=[IMAGE])
    assert contents(scanner) == before, "the DICOM files are not changed"
    dataset = SourceDataset(SourceSettings(url=str(scanner.parent / "bids")))
    [subject], refused = dataset.subjects()
    assert refused == {}
    dwi, _ = read_dwi(dataset, dataset.series(subject))
    np.testing.assert_array_equal(dwi.bvals, DIRECTIONS.bvals)
    weighted = DIRECTIONS.bvals > 0
    along = np.abs(np.sum(dwi.world_bvecs * DIRECTIONS.world, axis=1))[weighted]
    np.testing.assert_allclose(along, 1, atol=1e-4)
    axes = dwi.affine[:3, :3] / np.linalg.norm(dwi.affine[:3, :3], axis=0)
    steps = [slice(None, None, int(np.sign(axes[axis, axis]))) for axis in range(3)]  # to RAS+
    inside = signal(DIRECTIONS, GRID)[..., 0] > 0
    converted = np.asarray(dwi.array)[tuple(steps)]
    np.testing.assert_allclose(converted[inside], signal(DIRECTIONS, GRID)[inside] + 20, atol=1)


def test_a_second_conversion_converts_nothing_and_bytes_are_reproducible(scanner: Path) -> None:
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


def test_a_corrected_export_is_converted_again_under_the_same_name(scanner: Path) -> None:
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


def test_the_session_label_comes_from_its_dicom_field(scanner: Path) -> None:
    assert convert(scanner, session="{StudyDate}").converted == [
        "sub-P01/ses-20261103/dwi/sub-P01_ses-20261103_dir-AP_dwi.nii.gz"
    ]


def test_two_patients_with_the_same_label_are_not_merged(scanner: Path) -> None:
    write_dicom_series(scanner, DIRECTIONS, patient="P.01", number=6)
    report = convert(scanner)
    assert report.converted == [IMAGE]
    assert "'P.01', whose label P01 already belongs to 'P-01'" in report.failed["6 ep2d_diff_AP"]
    assert convert(scanner).failed == report.failed, "reported again, and not retried"


def test_a_series_that_is_still_being_sent_waits(scanner: Path) -> None:
    report = convert(scanner, seconds=60)
    assert list(report.waiting) == ["5 ep2d_diff_AP"]
    assert report.converted == []


@pytest.mark.parametrize(
    ("dicom", "message"),
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
def test_invalid_settings_are_refused(scanner: Path, dicom: dict[str, Any], message: str) -> None:
    with pytest.raises(DicomError, match=message):
        convert(scanner, **dicom)


def test_neither_folder_may_contain_the_other(scanner: Path) -> None:
    for target in (scanner, scanner / "bids", scanner.parent):
        with pytest.raises(DicomError, match="neither contains the other"):
            convert_new(DicomSettings(folder=str(scanner)), target)


def test_a_remote_source_is_refused(scanner: Path) -> None:
    settings = PipelineSettings.model_validate(
        {"source": {"url": "s3://bucket/raw"}, "dicom": {"folder": str(scanner)}}
    )
    with pytest.raises(DicomError, match="expected a local folder"):
        convert_dicom(settings)
    assert convert_dicom(PipelineSettings()) == []


@pytest.mark.parametrize("maker", ["Siemens", "Philips"])
def test_world_gradients_do_not_depend_on_the_slice_orientation(
    tmp_path: Path, maker: Literal["Siemens", "Philips"]
) -> None:
    # GE stores vectors along the frequency and phase axes: dcm2niix itself is the only reference available here.
    write_dicom_series(tmp_path / "scanner", DIRECTIONS, manufacturer=maker, rotation=rotation(12, -20, 33))
    assert convert(tmp_path / "scanner").converted == [IMAGE]
    dataset = SourceDataset(SourceSettings(url=str(tmp_path / "bids")))
    dwi, _ = read_dwi(dataset, dataset.series(dataset.subjects()[0][0]))
    np.testing.assert_array_equal(dwi.bvals, DIRECTIONS.bvals)
    # Signed: dcm2niix writes six digits and keeps the sense of each vector.
    np.testing.assert_allclose(dwi.world_bvecs, DIRECTIONS.world, atol=1e-5)


def test_a_ge_series_without_its_protocol_block_is_complete(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "scanner", DIRECTIONS, manufacturer="GE")
    assert convert(tmp_path / "scanner").converted == [IMAGE]


def test_the_converted_dataset_is_valid_bids(scanner: Path, validate: Callable[[Path], Verdict]) -> None:
    write_dicom_series(scanner, DIRECTIONS, number=9)
    mapping = {"*": "acq-a_rec-b_dir-AP_part-mag"}
    assert len(convert(scanner, series=mapping, session="{StudyDate}").converted) == 2
    assert validate(scanner.parent / "bids").errors == set()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (lambda paths: [paths[20]], "missing images"),
        (lambda paths: paths[-2:], "missing images"),
        (lambda paths: paths[2 :: GRID[2]], "Error: Check sorted order"),  # with exit code 0
    ],
    ids=["one slice", "the last slices", "one slice of every volume"],
)
def test_a_series_with_missing_slices_is_reported_and_not_retried_until_they_exist(
    scanner: Path, missing: Callable[[list[Path]], list[Path]], message: str
) -> None:
    away = {path: path.read_bytes() for path in missing(sorted(scanner.iterdir()))}
    for path in away:
        path.unlink()
    report = convert(scanner)
    assert report.converted == []
    assert message in report.failed["5 ep2d_diff_AP"]
    assert convert(scanner, series={"*diff*ap": "dir-AP"}).failed == report.failed
    for path, content in away.items():
        path.write_bytes(content)
    assert convert(scanner) == DicomReport(converted=[IMAGE])


def test_a_broken_file_is_named_and_the_other_series_are_converted(scanner: Path) -> None:
    broken = sorted(write_dicom_series(scanner / "b", DIRECTIONS, patient="Q"))[7]
    broken.write_bytes(broken.read_bytes()[:-100])
    report = convert(scanner)
    assert report.converted == [IMAGE]
    assert broken.name in report.failed["b: 5 ep2d_diff_AP"]


def test_an_incomplete_series_without_gradients_is_no_failure(scanner: Path) -> None:
    anatomy = write_dicom_series(scanner, table((), b0=1), number=2, description="t1", kind="NORM", gradients=False)
    anatomy[3].unlink()
    assert convert(scanner, series={"*": ""}) == DicomReport(converted=["sub-P01/dwi/sub-P01_dwi.nii.gz"])


def test_failures_of_one_protocol_are_reported_for_each_patient(tmp_path: Path) -> None:
    for patient in ("A", "B"):
        write_dicom_series(tmp_path / "scanner", DIRECTIONS, patient=patient)[20].unlink()
    assert len(convert(tmp_path / "scanner").failed) == 2


def test_broken_files_and_files_that_are_no_dicom_never_stop_a_scan(scanner: Path) -> None:
    random, content = np.random.default_rng(0), sorted(scanner.iterdir())[0].read_bytes()[:1200]
    (scanner / "junk").mkdir()
    for number in range(300):
        junk = np.frombuffer(content, np.uint8).copy()
        junk[random.integers(132, len(junk), 6)] = random.integers(0, 256, 6)
        (scanner / "junk" / f"{number}").write_bytes(junk[: random.integers(100, len(junk))].tobytes())
    found, index = find_series(scanner, {}, ["Modality", "SeriesInstanceUID", "SeriesNumber", "StudyDate", "StudyTime"])
    assert len(index) == 300 + len(DIRECTIONS.bvals) * GRID[2]
    assert found


def test_a_corrected_patient_id_leaves_no_files_under_the_old_name(scanner: Path) -> None:
    convert(scanner)
    correct(scanner, PatientID="P-02")
    assert convert(scanner).converted == ["sub-P02/dwi/sub-P02_dir-AP_dwi.nii.gz"]
    assert not any("P01" in name for name in contents(scanner.parent / "bids"))


def test_a_label_that_becomes_free_is_given_to_the_series_that_failed_for_it(scanner: Path) -> None:
    write_dicom_series(scanner / "b", DIRECTIONS, patient="P.01", number=6)
    assert len(convert(scanner).failed) == 1
    correct(scanner / "b", PatientID="P-01")
    assert convert(scanner).converted == ["sub-P01/dwi/sub-P01_dir-AP_run-2_dwi.nii.gz"]


def test_two_patients_with_the_same_name_are_not_merged(scanner: Path) -> None:
    write_dicom_series(scanner, DIRECTIONS, patient="Q", number=6)
    report = convert(scanner, subject="{PatientName}")
    assert report.converted == ["sub-DoeJane/dwi/sub-DoeJane_dir-AP_dwi.nii.gz"]
    assert "its patient is 'Q'" in report.failed["6 ep2d_diff_AP"]


@pytest.mark.parametrize("change", [{"series": {"*": "acq-new"}}, {"session": "{StudyDate}"}])
def test_settings_with_another_name_move_the_converted_files(scanner: Path, change: dict[str, Any]) -> None:
    convert(scanner)
    assert len(convert(scanner, **change).converted) == 1
    assert len([name for name in contents(scanner.parent / "bids") if name.endswith(".nii.gz")]) == 1
    assert convert(scanner, **change) == DicomReport(unchanged=1)


def test_runs_are_numbered_in_the_order_of_acquisition(tmp_path: Path) -> None:
    write_dicom_series(tmp_path / "scanner", DIRECTIONS, number=3, date="20261201", brightness=0.5)
    write_dicom_series(tmp_path / "scanner", DIRECTIONS, number=7, date="20261101")
    convert(tmp_path / "scanner")
    dataset = SourceDataset(SourceSettings(url=str(tmp_path / "bids"), scale_runs="none"))
    dwi, _ = read_dwi(dataset, dataset.series(dataset.subjects()[0][0]))
    count = len(DIRECTIONS.bvals)
    assert dwi.array[..., 0].sum() > 1.5 * dwi.array[..., count].sum()


def test_a_missing_image_is_converted_again(scanner: Path) -> None:
    convert(scanner)
    (scanner.parent / "bids" / IMAGE).unlink()
    assert convert(scanner).converted == [IMAGE]


def test_a_file_that_was_not_converted_here_is_never_replaced(scanner: Path) -> None:
    foreign = scanner.parent / "bids" / IMAGE
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    assert "move it to another folder" in convert(scanner).failed["5 ep2d_diff_AP"]
    assert foreign.read_bytes() == b"mine"
    foreign.unlink()
    assert convert(scanner).converted == [IMAGE]


def test_the_users_defaults_of_dcm2niix_are_ignored(
    scanner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(scanner)
    before = contents(scanner.parent / "bids")[IMAGE][0]
    (tmp_path / ".dcm2nii.ini").write_text("isMaximize16BitRange=1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    (scanner.parent / "bids" / IMAGE).unlink()
    convert(scanner)
    assert contents(scanner.parent / "bids")[IMAGE][0] == before


@pytest.mark.parametrize("moment", [0, 2, 3, 5, 6])  # of the renames: index, description, four files, outcomes
def test_a_conversion_killed_between_two_renames_continues_under_the_same_name(scanner: Path, moment: int) -> None:
    write_dicom_series(scanner, DIRECTIONS, number=9)
    for path in scanner.glob("*_05_*"):  # arrives later
        path.rename(path.with_name(f".{path.name}"))
    killed = multiprocessing.get_context("fork").Process(target=_convert_and_die, args=(scanner, moment))
    killed.start()
    killed.join()
    assert killed.exitcode == 9
    begun = any("sub-P01" in name for name in contents(scanner.parent / "bids"))
    assert begun == (moment > 2)
    for path in scanner.glob(".P*"):
        path.rename(path.with_name(path.name[1:]))
    repeated = [IMAGE] if moment < 6 else []  # in the last case only the journal is left to be merged
    assert sorted(convert(scanner).converted) == [*repeated, IMAGE.replace("_dwi.nii", "_run-2_dwi.nii")]
    if begun:
        outcomes = json.loads((scanner.parent / "bids" / HIDDEN / "dicom.json").read_text())
        first = pydicom.dcmread(next(scanner.glob("*_09_*"))).SeriesInstanceUID
        assert f"{outcomes['series'][first]['stem']}.nii.gz" == IMAGE
    assert {path.name for path in (scanner.parent / "bids" / HIDDEN).iterdir()} == {"dicom.json", "dicom_files.json"}


def test_an_incomplete_line_of_the_journal_has_no_effect(scanner: Path) -> None:
    convert(scanner)
    hidden = scanner.parent / "bids" / HIDDEN
    outcomes = json.loads((hidden / "dicom.json").read_text())["series"]
    ((uid, known),) = ((uid, known) for uid, known in outcomes.items() if "stem" in known)
    complete = json.dumps([uid, {**known, "at": 1.0}])
    (hidden / "dicom_changes.jsonl").write_text(f"{complete}\n{json.dumps([uid, {**known, 'at': 2.0}])[:-9]}")
    assert convert(scanner).unchanged == 1
    assert json.loads((hidden / "dicom.json").read_text())["series"][uid]["at"] == 1.0
    assert not (hidden / "dicom_changes.jsonl").exists()


def test_the_outcomes_are_written_once_and_not_once_per_series(scanner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6, 16):
        write_dicom_series(scanner, DIRECTIONS, number=number)
    write_json, written = dicom._write_json, list[str]()

    def counted(stage: Any, name: str, content: Any) -> None:
        written.append(name)
        write_json(stage, name, content)

    monkeypatch.setattr(dicom, "_write_json", counted)
    assert len(convert(scanner).converted) == 11
    assert written == ["dicom_files.json", "dicom.json"]


def test_a_program_that_hangs_is_ended_with_its_child_processes(
    scanner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, child = tmp_path / "dcm2niix", tmp_path / "child"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {child}\nwait\n")
    program.chmod(0o755)
    monkeypatch.setattr("dcm2niix.bin", str(program))
    monkeypatch.setattr(dcm2niix, "MIN_SECONDS", 1.0)
    monkeypatch.setattr(dcm2niix, "SECONDS_PER_MB", 0.0)
    report = convert(scanner)
    [why] = report.failed.values()
    assert why.startswith("dcm2niix did not end within 1 s and was stopped")
    ended = psutil.wait_procs([psutil.Process(pid) for pid in [int(child.read_text())] if psutil.pid_exists(pid)], 5)
    assert not ended[1]
    assert not [name for name in contents(scanner.parent / "bids") if "sub-" in name]


def _convert_and_die(scanner: Path, moment: int) -> None:
    replace, calls = os.replace, iter(range(99))
    os.replace = lambda *paths: os._exit(9) if next(calls) == moment else replace(*paths)  # type: ignore[assignment]
    convert(scanner)


def test_parallel_processes_convert_each_image_once(scanner: Path) -> None:
    for number in range(6, 10):
        write_dicom_series(scanner, DIRECTIONS, number=number)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        reports = pool.map(convert, [scanner] * 3)
    assert sum(len(report.converted) for report in reports) == 5
    assert all(not report.failed for report in reports)


def test_a_second_conversion_opens_no_unchanged_file(scanner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(scanner)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(pydicom, "dcmread", refuse)
    assert convert(scanner) == DicomReport(unchanged=1)


def test_a_folder_that_cannot_be_written_is_an_error(scanner: Path) -> None:
    (scanner.parent / "bids").write_text("a file")
    with pytest.raises(DicomError, match="Not a directory"):
        convert(scanner)


def correct(folder: Path, **fields: str) -> None:
    for path in folder.glob("*.IMA"):
        one = pydicom.dcmread(path)
        for name, value in fields.items():
            setattr(one, name, value)
        one.save_as(path)
