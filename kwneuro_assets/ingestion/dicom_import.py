"""Import of DICOM series into the source dataset, if the settings name a DICOM folder."""

from __future__ import annotations

from pathlib import Path

from kwneuro_assets.ingestion.background import BACKGROUND
from kwneuro_assets.ingestion.dicom import DicomError, DicomReport, convert_new
from kwneuro_assets.settings import PipelineSettings
from kwneuro_assets.storage.location import is_local, location


def convert_dicom(settings: PipelineSettings, *, seconds: float | None = None) -> list[str]:
    """Convert new DICOM series of `dicom.folder` and return a message for each; nothing if the settings name no folder.

    `seconds` limits the wait: a longer conversion goes on in the background, and a later call returns its messages.
    Raises DicomError if the folder or the program is missing, or if the source is no local folder.
    """
    if settings.dicom.folder is None:
        return []
    target = location(settings.source.url)
    if not is_local(target):
        raise DicomError(f"source.url {target}: expected a local folder, because DICOM series are converted into it")

    def work() -> DicomReport:
        return convert_new(settings.dicom, Path(str(target)), settings.ingestion.settle_seconds)

    if seconds is None:
        return _messages(work())
    name = settings.model_dump_json(include={"source", "dicom"})
    report = BACKGROUND.result_within(seconds, "dicom", name, work)
    return ["DICOM series are being converted"] if report is None else _messages(report)


def _messages(report: DicomReport) -> list[str]:
    messages = [f"converted {image}" for image in report.converted]
    messages += [f"DICOM series {name} waits: {why}" for name, why in report.waiting.items()]
    return messages + [f"DICOM series {name} cannot be converted: {why}" for name, why in report.failed.items()]
