"""Every parameter of every derivation, with its unit, default and source: one place, one YAML file.

A section of the file is one class here. Where a section feeds several derivations (`csd`, `tracts`), each of
them has a class of its own fields and the section inherits from them, so that changing a field makes stale
exactly what uses it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.storage.location import refuse_credentials

ENVIRONMENT_PREFIX = "KWNEURO_"
_URL_VARIABLES = {"KWNEURO_SOURCE": "source", "KWNEURO_STORE": "store"}
_KINDS = {
    "integer": "whole number", "number": "number", "string": "text", "boolean": "true or false",
    "object": "pattern: text",
}  # fmt: skip


class SettingsError(ActionableError, ValueError):
    """A settings file or variable that cannot be used: says which key, what was expected and what was found."""


class Section(BaseModel):
    """Base of all sections: frozen, and refusing what it does not know."""

    # Defaults are validated too: 50 and 50.0 must give one code version.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class SourceSettings(Section):
    url: str = Field(
        "data/source",
        description="Folder or URL (s3://bucket/prefix) of the BIDS dataset that is read, never written.",
    )
    anonymous: bool = Field(False, description="Read S3 without credentials, as public datasets ask for.")
    layout: str = Field(
        "bids",
        description="bids, or for a dataset of other names the pattern of its images below the folder, such as "
        "{subject}/dwi.nii.gz or {subject}/{session}/*.nii.gz; the tables lie beside each image.",
    )
    select: str | None = Field(
        None,
        description="Pattern of image names that count (*dir-AP*); needed where series of several kinds lie together.",
    )
    acq: str | None = Field(None, description="Only images with one of these acq labels, comma-separated.")
    dir: str | None = Field(None, description="Only images with one of these dir labels, comma-separated.")
    run: str | None = Field(None, description="Only images with one of these run numbers, comma-separated.")
    subsample: int = Field(1, ge=1, le=16, description="Keep every n-th voxel along each axis: a quick try.")
    b0_threshold: float = Field(50, ge=0, le=200, description="Volumes with b at or below it, s/mm^2, count as b=0.")

    @field_validator("layout")
    @classmethod
    def _is_bids_or_a_pattern(cls, layout: str) -> str:
        once = layout.count("{subject}") == 1 and layout.count("{session}") <= 1
        if layout != "bids" and not (once and layout.endswith((".nii", ".nii.gz"))):
            raise PydanticCustomError(
                "layout", "expected bids, or a pattern with {subject} once that ends in .nii or .nii.gz"
            )
        return layout


class StoreSettings(Section):
    url: str = Field(
        "data/store", description="Folder or URL (s3://bucket/prefix) of the derivatives dataset that is written."
    )
    verify: Literal["always", "first", "never"] = Field(
        "always",
        description="When a file that is read is compared with its checksum; first: once in each process.",
    )
    cache_gb: float = Field(
        2.0, ge=0, le=64, description="Values that one run keeps in memory for its later steps, in GB."
    )


class DenoisingSettings(Section):
    method: Literal["auto", "patch2self", "none"] = Field(
        "auto", description="auto: patch2self on raw data, none on data that were interpolated."
    )
    minimum_ratio: float = Field(
        20, ge=1, le=1000, description="Patch2Self is left out below this ratio of foreground voxels to volumes."
    )


class BrainMaskSettings(Section):
    method: Literal["hd-bet", "hd-bet-v1", "median-otsu", "provided"] = Field(
        "hd-bet", description="How the brain is found; provided: a mask that comes with the dataset."
    )


class DtiSettings(Section):
    max_bvalue: float = Field(1500, ge=100, le=20000, description="Highest b-value of the fit, s/mm^2.")


class NoddiSettings(Section):
    dpar: float = Field(1.7e-3, gt=0, le=5e-3, description="Diffusivity along neurites, mm^2/s (Zhang 2012).")
    diso: float = Field(3.0e-3, gt=0, le=5e-3, description="Diffusivity of free water, mm^2/s (Zhang 2012).")
    directions: Literal[500, 1000, 2000, 4000, 8000] = Field(500, description="Orientations of AMICO's dictionary.")
    rmse: bool = Field(False, description="Store the error of the fit (root mean square, share of b=0), too.")
    tissue_weighted: bool = Field(
        False,
        description="Store NDI and ODI times 1 - FWF, too, for averages by tissue (Parker 2021).",
    )


class DeconvolutionSettings(Section):
    series: Literal["auto", "denoised", "source"] = Field(
        "auto",
        description="The series that is deconvolved; auto: as it came for multi-tissue, denoised for single-tissue, as "
        "the angles to known fibres are smaller then.",
    )
    max_order: Literal[2, 4, 6, 8, 10, 12] = Field(
        10, description="Highest spherical harmonic order of the FODs; lower where directions are few."
    )


class ResponseSettings(DeconvolutionSettings):
    method: Literal["auto", "single-tissue", "multi-tissue"] = Field(
        "auto",
        description="Deconvolution of one shell, or of all for white matter, grey matter and free water; auto: "
        "multi-tissue where there are two shells or more besides b=0, unless csd.shell names one.",
    )
    shell: Literal["auto"] | float = Field(
        "auto",
        description="b-value of the shell that is deconvolved, s/mm^2; auto: the highest that allows the full order.",
    )
    response: str | None = Field(
        None,
        description="File of a response function of fibres in MRtrix3's text form, used in place of an estimate.",
        json_schema_extra={"format": "file"},
    )
    grey_response: str | None = Field(
        None,
        description="File of the response of grey matter; with csd.response and csd.water_response: multi-tissue.",
        json_schema_extra={"format": "file"},
    )
    water_response: str | None = Field(
        None, description="File of the response of free water, in the same way.", json_schema_extra={"format": "file"}
    )
    fa_threshold: float = Field(
        0.7, ge=0.1, le=1, description="FA above which a voxel counts as one fibre (single-tissue)."
    )
    minimum_voxels: int = Field(
        300,
        ge=10,
        le=100000,
        description="Where fewer pass the threshold, as in multi-tissue always, this many of the highest FA are taken.",
    )

    @model_validator(mode="after")
    def _files_go_together(self) -> ResponseSettings:
        isotropic = [self.grey_response, self.water_response]
        if any(isotropic) and not all([self.response, *isotropic]):
            raise PydanticCustomError(
                "responses", "expected all three of response, grey_response and water_response, or response alone"
            )
        if all(isotropic) and self.method == "single-tissue":
            raise PydanticCustomError("responses", "expected response alone where method is single-tissue")
        if self.response and not any(isotropic) and self.method == "multi-tissue":
            raise PydanticCustomError(
                "responses", "expected grey_response and water_response, too, where method is multi-tissue"
            )
        return self


class PeakSettings(DeconvolutionSettings):
    group_response: bool = Field(
        False,
        description="Deconvolve with the mean response of the group, scaled to each subject's own, so that amplitudes "
        "compare across subjects.",
    )
    peaks: int = Field(5, ge=1, le=10, description="Most peaks stored in a voxel.")
    relative_threshold: float = Field(0.1, ge=0, lt=1, description="Lowest peak, as a share of the voxel's largest.")
    minimum_angle: float = Field(25, ge=0, le=90, description="Least angle between two peaks, degrees.")
    fod: bool = Field(False, description="Store the coefficients of the FODs, too, as MRtrix3's tools take them.")


class GroupResponseSettings(Section):
    group_subjects: str | None = Field(
        None,
        description="Subjects whose responses the group's is the mean of, comma-separated patterns (sub-ctrl*); all "
        "by default.",
    )


class CsdSettings(ResponseSettings, PeakSettings, GroupResponseSettings):
    pass


class TractMaskSettings(Section):
    mask_threshold: float = Field(0.5, gt=0, lt=1, description="Probability above which a voxel is in a bundle.")


class TractEndingSettings(Section):
    ending_threshold: float = Field(0.5, gt=0, lt=1, description="Probability above which a voxel is in an ending.")


class TractOrientationSettings(Section):
    dilation: int = Field(1, ge=0, le=10, description="Voxels by which a bundle's mask is widened for its map.")


class TractSettings(TractMaskSettings, TractEndingSettings, TractOrientationSettings):
    pass


class IngestionSettings(Section):
    interval_seconds: int = Field(30, ge=5, le=86400, description="From one look at the source to the next.")
    settle_seconds: float = Field(
        30, ge=0, le=86400, description="Files that changed within this time are still being copied, and wait."
    )
    tick_seconds: float = Field(
        25, ge=1, le=35, description="Time that one look of the sensor takes at most; the next goes on from there."
    )
    reconcile_cron: str = Field(
        "0 3 * * *", description="When the schedule looks at everything anew (cron, UTC by default)."
    )
    reconcile_timezone: str = Field("UTC", description="The time zone of that schedule, such as Europe/Berlin.")
    reconcile_contents: bool = Field(
        True,
        description="Whether that look reads every file again; false: only those whose size, date or ETag changed.",
    )


class DicomSettings(Section):
    folder: str | None = Field(
        None,
        description="Folder of DICOM series that are converted into the source dataset; read, never written.",
    )
    subject: str = Field(
        "{PatientID}", description="The subject's label, made of DICOM fields; only its letters and digits are kept."
    )
    session: str | None = Field(None, description="The session's label in the same way, such as {StudyDate}.")
    series: dict[str, str] = Field(
        {"*": ""},
        description="Which series are taken, and the BIDS entities of their names (acq-98dir_dir-AP), by pattern of "
        "their SeriesDescription; the first that fits counts.",
    )


class CheckSettings(Section):
    minimum_directions: int = Field(
        6, ge=0, le=1000, description="Fewer distinct gradient directions in all shells put a subject into quarantine."
    )
    minimum_b0: int = Field(1, ge=1, le=100, description="Fewer volumes of b=0 put a subject into quarantine.")
    minimum_voxel_mm: float = Field(
        0.05, gt=0, le=10, description="A smaller voxel edge, mm, puts a subject into quarantine."
    )
    maximum_voxel_mm: float = Field(
        10, ge=0.1, le=100, description="A larger voxel edge, mm, puts a subject into quarantine."
    )
    gradients: bool = Field(
        True, description="Whether flipped or swapped axes of the b-vectors are looked for in the images (a warning)."
    )


class AutomationSettings(Section):
    mode: Literal["data", "all", "off"] = Field(
        "data",
        description="What the sensor makes by itself: what new or changed data ask for; all that is stale, after a "
        "change of settings or code too; or nothing.",
    )
    select: str | None = Field(
        None, description="Derivatives that it makes, comma-separated or in Dagster's selection syntax; all by default."
    )
    max_runs: int = Field(50, ge=1, le=10000, description="Most runs (subjects) that wait or work for it at once.")
    attempts: int = Field(3, ge=1, le=100, description="Attempts at what fails; then it waits for a person.")
    retry_minutes: float = Field(
        5, ge=0, le=10080, description="Minutes before a second attempt; doubled before each further one."
    )
    interval_seconds: int = Field(30, ge=5, le=86400, description="From one look at the cohort to the next.")


class WeightSettings(Section):
    folder: str = Field(
        "~/.kwneuro/weights", description="Where network weights are kept and fetched to, one folder per network."
    )


class PipelineSettings(Section):
    """All sections, each of which may be left out."""

    source: SourceSettings = SourceSettings()
    store: StoreSettings = StoreSettings()
    denoising: DenoisingSettings = DenoisingSettings()
    brain_mask: BrainMaskSettings = BrainMaskSettings()
    dti: DtiSettings = DtiSettings()
    noddi: NoddiSettings = NoddiSettings()
    csd: CsdSettings = CsdSettings()
    tracts: TractSettings = TractSettings()
    checks: CheckSettings = CheckSettings()
    ingestion: IngestionSettings = IngestionSettings()
    dicom: DicomSettings = DicomSettings()
    automation: AutomationSettings = AutomationSettings()
    weights: WeightSettings = WeightSettings()

    def view(self, kind: type[SectionT]) -> SectionT:
        """The parameters of one derivation: the fields of `kind`, taken from the section that has them."""
        section = getattr(self, self.section_of(kind))
        return kind(**{field: getattr(section, field) for field in kind.model_fields})

    def section_of(self, kind: type[Section]) -> str:
        """The name of the section that has the fields of `kind`."""
        for name in type(self).model_fields:
            if isinstance(getattr(self, name), kind):
                return name
        raise TypeError(f"no section of the settings is a {kind.__name__}")


SectionT = TypeVar("SectionT", bound=Section)


def load_settings(file: Path | None = None, environment: Mapping[str, str] | None = None) -> PipelineSettings:
    """The settings of a YAML file and of the environment, the latter winning.

    `file` defaults to `KWNEURO_SETTINGS`; without either, all defaults hold. `KWNEURO_SOURCE` and
    `KWNEURO_STORE` set the two URLs, `KWNEURO_<SECTION>__<KEY>` any other key.

    Raises StorageError for a URL with credentials in it, and SettingsError for a file that is missing or is not a
    mapping, an unknown key (it names the nearest valid one) and a value out of its range.
    """
    variables = os.environ if environment is None else environment
    if file is None and variables.get("KWNEURO_SETTINGS"):
        file = Path(variables["KWNEURO_SETTINGS"]).expanduser()
    tree = _read_yaml(file) if file else {}
    origin = f"settings file {file}" if file else "settings"
    _check_keys(tree, origin)
    origins: dict[tuple[str, ...], str] = {}
    for variable, section, key in _overrides(variables):
        origins[section, key] = f"environment variable {variable}"
        _check_keys({section: {key: None}}, origins[section, key])
        plain = variable in _URL_VARIABLES
        tree.setdefault(section, {})[key] = variables[variable] if plain else _value(variables[variable])
    for section in ("source", "store"):  # before any of it can be shown
        refuse_credentials(str(tree.get(section, {}).get("url", "")))
    try:
        return PipelineSettings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        # The parts of the location that are keys; the rest are pydantic's names for the members of a union.
        keys = tuple(str(part) for part in first["loc"][:2])
        default = PipelineSettings.model_fields[keys[0]].annotation
        field = default.model_fields[keys[1]] if default and len(keys) > 1 else None
        known = f" ({field.description})" if field else ""
        told = [one["msg"] for one in error.errors() if one["loc"][:2] == first["loc"][:2]]
        expected = "; ".join(dict.fromkeys(f"{message[0].lower()}{message[1:]}" for message in told))
        raise SettingsError(
            f"{origins.get(keys, origin)}: {'.'.join(keys)}: {expected}, found {first['input']!r}{known}"
        ) from None


def _read_yaml(file: Path) -> dict[str, dict[str, Any]]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {file}: is not YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"settings file {file}: expected sections with keys, found {type(tree).__name__}")
    # An empty section reads as None.
    return {section: {} if keys is None else keys for section, keys in tree.items()}


def _check_keys(tree: Mapping[str, Any], origin: str) -> None:
    for section, keys in tree.items():
        field = PipelineSettings.model_fields.get(section)
        if field is None:
            raise SettingsError(_unknown(str(section), list(PipelineSettings.model_fields), origin))
        if not isinstance(keys, Mapping):
            raise SettingsError(f"{origin}: {section}: expected keys with values, found {keys!r}")
        kind = field.annotation
        assert kind is not None
        for key in keys:
            if key not in kind.model_fields:
                known = [f"{section}.{name}" for name in kind.model_fields]
                raise SettingsError(_unknown(f"{section}.{key}", known, origin))


def _unknown(key: str, known: list[str], origin: str) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)
    return f"{origin}: unknown key {key!r}; the nearest valid one is {nearest[0]!r}"


def _value(text: str) -> Any:
    """A variable's value as the file would hold it; what is no YAML, such as the pattern `*dir-AP*`, is text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _overrides(variables: Mapping[str, str]) -> list[tuple[str, str, str]]:
    found = [(variable, section, "url") for variable, section in _URL_VARIABLES.items() if variables.get(variable)]
    for variable in sorted(variables):
        if variable.startswith(ENVIRONMENT_PREFIX) and "__" in variable:
            section, key = variable[len(ENVIRONMENT_PREFIX) :].lower().split("__", 1)
            found.append((variable, section, key))
    return found


def settings_table() -> str:
    """All settings as a Markdown document: key, default, range and meaning."""
    lines = ["# Settings", "", "| key | default | allowed | meaning |", "|---|---|---|---|"]
    for section, field in PipelineSettings.model_fields.items():
        kind = field.annotation
        assert kind is not None
        for key, schema in kind.model_json_schema()["properties"].items():
            default = "" if schema.get("default") is None else f"`{schema['default']}`"
            lines.append(f"| `{section}.{key}` | {default} | {_allowed(schema)} | {schema['description']} |")
    return "\n".join(lines) + "\n"


def _allowed(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(part for part in map(_allowed, schema["anyOf"]) if part)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    bounds = [
        f"{sign} {schema[name]:g}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in schema
    ]
    return " ".join([_KINDS.get(schema.get("type", ""), ""), ", ".join(bounds)]).strip()
