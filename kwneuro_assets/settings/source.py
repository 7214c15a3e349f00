"""Settings of the source dataset: where it is, what is read, and how it is ingested and checked."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from kwneuro_assets.settings.section import Section


class SourceSettings(Section):
    """The source dataset, and what of it is read."""

    url: str = Field(
        "data/source",
        description="Folder or URL (s3://bucket/prefix) of the source dataset. It is read, never written.",
    )
    anonymous: bool = Field(False, description="Read S3 without credentials, as for public datasets.")
    layout: str = Field(
        "bids",
        description="bids, or for a dataset with other file names the pattern of its DWI images below the source, such "
        "as {subject}/dwi.nii.gz or {subject}/{session}/*.nii.gz; gradient tables are located beside each image.",
    )
    select: str | None = Field(
        None,
        description="Only images whose file name matches this pattern (*dir-AP*); needed if a subject has several "
        "kinds of DWI.",
    )
    acq: str | None = Field(None, description="Only images with one of these acq labels, comma-separated.")
    dir: str | None = Field(None, description="Only images with one of these dir labels, comma-separated.")
    run: str | None = Field(None, description="Only images with one of these run numbers, comma-separated.")
    part: str | None = Field(None, description="Only images with one of these part labels (mag), comma-separated.")
    space: str | None = Field(None, description="Only images with one of these space labels, comma-separated.")
    desc: str | None = Field(
        None,
        description="Only images with one of these desc labels, comma-separated. By default, desc-preproc if there is "
        "one, otherwise images without desc.",
    )
    exclude_volumes: str | None = Field(
        None,
        description="Volumes to exclude, comma-separated: indices from 0 in a subject's concatenated runs, ranges "
        "(70-72), and trace for diffusion-weighted volumes whose b-vector is zero.",
    )
    scale_runs: Literal["auto", "none"] = Field(
        "auto",
        description="auto: a run whose mean b=0 differs from that of the first run by more than 5 % is scaled to it.",
    )
    mask: str | None = Field(
        None,
        description="For brain_mask.method: provided. The pattern of the mask files below the source, such as "
        "{subject}/{session}/nodif_brain_mask.nii.gz, if their names are not among those found automatically.",
    )
    mask_threshold: float | None = Field(
        None,
        ge=0,
        description="For provided masks that are probability maps: voxels above this value are brain.",
    )
    subsample: int = Field(
        1, ge=1, le=16, description="Read only every n-th voxel along each axis, for a quick test of the pipeline."
    )
    b0_threshold: float = Field(
        50,
        ge=0,
        le=200,
        description="Highest b-value, s/mm^2, at which a volume counts as b=0 in averages and counts; scanners "
        "write b=5 to 50 for such volumes. Fits use the real b-value.",
    )

    @field_validator("layout")
    @classmethod
    def _is_bids_or_a_pattern(cls, layout: str) -> str:
        valid = layout.count("{subject}") == 1 and layout.count("{session}") <= 1
        if layout != "bids" and not (valid and layout.endswith((".nii", ".nii.gz"))):
            raise PydanticCustomError(
                "layout", "expected bids, or a pattern with {subject} once that ends in .nii or .nii.gz"
            )
        return layout

    @field_validator("mask")
    @classmethod
    def _is_a_pattern(cls, mask: str | None) -> str | None:
        if mask is not None and not ("{subject}" in mask and mask.endswith((".nii", ".nii.gz"))):
            raise PydanticCustomError("mask", "expected a pattern with {subject} that ends in .nii or .nii.gz")
        return mask

    @field_validator("exclude_volumes")
    @classmethod
    def _is_a_list_of_volumes(cls, text: str | None) -> str | None:
        if text is not None:
            parse_volumes(text)
        return text


TRACE = "trace"


def parse_volumes(text: str) -> tuple[frozenset[int], bool]:
    """The volume indices in a value of `source.exclude_volumes`, and whether it contains `trace`.

    >>> indices, trace = parse_volumes("0, 70-72, trace")
    >>> sorted(indices), trace
    ([0, 70, 71, 72], True)

    Raises PydanticCustomError, a ValueError, if `text` contains anything else.
    """
    indices: set[int] = set()
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word == TRACE:
            continue
        match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", word, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise PydanticCustomError("volumes", "expected indices (0, 70), ranges (70-72) and trace, comma-separated")
        indices.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(indices), TRACE in words


class IngestionSettings(Section):
    """When the source is scanned, and how."""

    interval_seconds: int = Field(
        30, ge=5, le=86400, description="Interval between two ticks of the ingestion sensor, seconds."
    )
    settle_seconds: float = Field(
        30,
        ge=0,
        le=86400,
        description="Time without a change of its files, seconds, after which a subject is read: until then, files "
        "may still be copied.",
    )
    tick_seconds: float = Field(
        25,
        ge=1,
        le=35,
        description="Maximum duration of a tick of the ingestion sensor, seconds; the next tick continues from there. "
        "Dagster ends a tick after 60 seconds.",
    )
    rescan_cron: str = Field("0 3 * * *", description="When the rescan_source schedule runs, as a cron expression.")
    rescan_timezone: str = Field("UTC", description="Time zone of that schedule, such as Europe/Berlin.")
    rescan_contents: bool = Field(
        True,
        description="Whether the scheduled rescan reads every local file; false: only files whose size, date or ETag "
        "changed.",
    )


class DicomSettings(Section):
    """DICOM series that are converted into the source dataset."""

    folder: str | None = Field(
        None,
        description="Folder of DICOM series to convert into the source dataset. It is read, never written.",
    )
    subject: str = Field(
        "{PatientID}", description="Pattern of the subject label, from DICOM keywords; only letters and digits remain."
    )
    session: str | None = Field(
        None, description="Pattern of the session label, from DICOM keywords, such as {StudyDate}; none by default."
    )
    series: dict[str, str] = Field(
        {"*": ""},
        description="Which DICOM series are converted, as a mapping from patterns of SeriesDescription to BIDS "
        "entities of the file name (acq-98dir_dir-AP). The first pattern that matches applies.",
    )


class SourceCheckSettings(Section):
    """Sanity checks of scans: a subject that fails one is quarantined."""

    min_directions: int = Field(
        6,
        ge=0,
        le=1000,
        description="Minimum number of distinct gradient directions over all shells; a subject with fewer is "
        "quarantined. A tensor needs 6.",
    )
    min_b0: int = Field(
        1, ge=1, le=100, description="Minimum number of b=0 volumes; a subject with fewer is quarantined."
    )
    min_voxel_mm: float = Field(
        0.05, gt=0, le=10, description="Minimum voxel edge length, mm; a subject with smaller voxels is quarantined."
    )
    max_voxel_mm: float = Field(
        10, ge=0.1, le=100, description="Maximum voxel edge length, mm; a subject with larger voxels is quarantined."
    )
    gradients: bool = Field(
        True, description="Check the images for flipped or swapped axes of the b-vectors; the result is a warning."
    )
