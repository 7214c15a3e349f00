"""DICOM series on their way into the source dataset, as far as the settings name any."""

from __future__ import annotations

from pathlib import Path

from kwneuro_assets.ingestion.background import BACKGROUND
from kwneuro_assets.ingestion.dicom import DicomError, DicomReport, convert_new
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.location import is_local, location


def convert_dicom(settings: PipelineSettings, *, seconds: float | None = None) -> list[str]:
    """Convert what is new in the folder `dicom.folder`, and say so, in sentences; none where the settings name none.

    With `seconds`, what takes longer goes on in the background and is told by a later call. Raises DicomError where
    the folder or the program is not there, and where the source is no local folder.
    """
    if settings.dicom.folder is None:
        return []
    target = location(settings.source.url)
    if not is_local(target):
        raise DicomError(f"source.url {target}: expected a local folder, into which DICOM series are converted")

    def work() -> DicomReport:
        return convert_new(settings.dicom, Path(str(target)), settings.ingestion.settle_seconds)

    if seconds is None:
        return _sentences(work())
    name = settings.model_dump_json(include={"source", "dicom"})
    report = BACKGROUND.within(seconds, "dicom", name, work)
    return ["DICOM series are being converted"] if report is None else _sentences(report)


def _sentences(report: DicomReport) -> list[str]:
    told = [f"converted {image}" for image in report.converted]
    told += [f"DICOM series {name} waits: {why}" for name, why in report.waiting.items()]
    return told + [f"DICOM series {name} cannot be converted: {why}" for name, why in report.failed.items()]
