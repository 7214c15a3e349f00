"""DICOM series become a BIDS dataset of our own: real dcm2niix on series of a known tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("dcm2niix", reason="dcm2niix is not installed (the extra dicom)")
pytest.importorskip("pydicom", reason="pydicom is not installed (the extra dicom)")

from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.dicom import HIDDEN, DicomError, DicomReport, convert_new
from kwneuro_assets.ingestion.read import read_dwi
from kwneuro_assets.ingestion.scanner import convert_dicom
from kwneuro_assets.settings import DicomSettings, PipelineSettings, SourceSettings
from kwneuro_assets_tests.dicom_files import GRID, write_dicom_series
from kwneuro_assets_tests.small_dataset import signal, table

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
        ({"series": {"*": "task-rest"}}, "expected entities of acq"),
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
