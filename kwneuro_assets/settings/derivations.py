"""Parameters of the derivations.

Where a section has parameters of several derivations (`csd`, `tracts`), each derivation has a class with its own fields
and the section inherits from them: a changed field makes stale only what uses it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kwneuro_assets.settings.bundles import Bundle, Probability
from kwneuro_assets.settings.section import Section


class DenoisingSettings(Section):
    """Settings of `denoised_dwi`."""

    method: Literal["auto", "patch2self", "none"] = Field(
        "auto",
        description="auto: patch2self on raw data, none on interpolated data, because Patch2Self needs independent "
        "noise.",
    )
    min_ratio: float = Field(
        20,
        ge=1,
        le=1000,
        description="Minimum ratio of foreground voxels to volumes for Patch2Self; its regressions need many more "
        "voxels than volumes.",
    )


class BrainMaskSettings(Section):
    """Settings of `brain_mask`."""

    method: Literal["hd-bet", "hd-bet-v1", "median-otsu", "provided"] = Field(
        "hd-bet", description="Brain extraction method; provided: a mask that comes with the source dataset."
    )
    ensemble: Literal[1, 5] = Field(
        1,
        description="Networks of HD-BET 1 (hd-bet-v1) whose mean decides: the first alone, or all five in five times "
        "the time, as in HD-BET's accurate mode.",
    )


class DtiSettings(Section):
    """Settings of `dti`."""

    max_bvalue: float = Field(
        1500,
        ge=100,
        le=20000,
        description="Highest b-value of the fit, s/mm^2. With fewer than six independent directions up to it, the next "
        "shell is used, too.",
    )


class NoddiSettings(Section):
    """Settings of `noddi`."""

    dpar: float = Field(1.7e-3, gt=0, le=5e-3, description="Diffusivity along neurites, mm^2/s (Zhang 2012).")
    diso: float = Field(3.0e-3, gt=0, le=5e-3, description="Diffusivity of free water, mm^2/s (Zhang 2012).")
    directions: Literal[500, 1000, 2000, 4000, 8000] = Field(
        500, description="Number of orientations in AMICO's dictionary (500 is AMICO's default)."
    )
    rmse: bool = Field(
        False, description="Also store the root-mean-square error of the fit, as a fraction of the b=0 signal."
    )
    tissue_weighted: bool = Field(
        False,
        description="Also store NDI and ODI times 1 - FWF, for tissue-weighted averages (Parker 2021).",
    )


class DeconvolutionSettings(Section):
    """Settings that `fiber_response` and `csd_peaks` share."""

    series: Literal["auto", "denoised", "source"] = Field(
        "auto",
        description="The DWI for deconvolution; auto: the source DWI for multi-tissue, the denoised DWI for "
        "single-tissue. On a phantom, these gave the smallest angles to the true fibers.",
    )
    lmax: Literal[2, 4, 6, 8, 10, 12] = Field(
        10,
        description="Highest spherical harmonic order of the FODs. It is lowered to what the number of directions "
        "supports.",
    )


class ResponseSettings(DeconvolutionSettings):
    """Settings of `fiber_response`."""

    method: Literal["auto", "single-tissue", "multi-tissue"] = Field(
        "auto",
        description="single-tissue: deconvolution of one shell; multi-tissue: of all shells, for WM, GM and CSF; auto: "
        "multi-tissue with two or more shells besides b=0, unless csd.shell selects one.",
    )
    shell: Literal["auto"] | float = Field(
        "auto",
        description="b-value of the shell for single-tissue deconvolution, s/mm^2; auto: the highest that supports "
        "the full order.",
    )
    wm_response: str | None = Field(
        None,
        description="File of a WM response function in MRtrix3's text format, used instead of an estimate.",
        json_schema_extra={"format": "file"},
    )
    gm_response: str | None = Field(
        None,
        description="File of a GM response function; with csd.wm_response and csd.csf_response: multi-tissue.",
        json_schema_extra={"format": "file"},
    )
    csf_response: str | None = Field(
        None,
        description="File of a CSF response function; with csd.wm_response and csd.gm_response: multi-tissue.",
        json_schema_extra={"format": "file"},
    )
    fa_threshold: float = Field(
        0.7,
        ge=0.1,
        le=1,
        description="FA above which a voxel counts as a single-fiber voxel (single-tissue; 0.7 as in DIPY).",
    )
    min_voxels: int = Field(
        300,
        ge=10,
        le=100000,
        description="Minimum number of single-fiber voxels. If fewer pass the threshold, and always for multi-tissue, "
        "this many voxels of highest FA are used (300 as in MRtrix3's dwi2response tournier).",
    )

    @model_validator(mode="after")
    def _files_go_together(self) -> ResponseSettings:
        isotropic = [self.gm_response, self.csf_response]
        if any(isotropic) and not all([self.wm_response, *isotropic]):
            raise PydanticCustomError(
                "responses", "expected all three of wm_response, gm_response and csf_response, or wm_response alone"
            )
        if all(isotropic) and self.method == "single-tissue":
            raise PydanticCustomError("responses", "expected wm_response alone where method is single-tissue")
        if self.wm_response and not any(isotropic) and self.method == "multi-tissue":
            raise PydanticCustomError(
                "responses", "expected gm_response and csf_response, too, where method is multi-tissue"
            )
        return self


class PeakSettings(DeconvolutionSettings):
    """Settings of `csd_peaks`."""

    group_response: bool = Field(
        False,
        description="Deconvolve with the group's mean response, scaled to each subject's own, so that amplitudes "
        "are comparable across subjects.",
    )
    max_peaks: int = Field(5, ge=1, le=10, description="Maximum number of peaks per voxel.")
    relative_threshold: float = Field(
        0.1, ge=0, lt=1, description="Minimum amplitude of a peak, as a fraction of the voxel's highest."
    )
    min_separation_angle: float = Field(
        25, ge=0, le=90, description="Minimum angle between two peaks, degrees (25 as in DIPY)."
    )
    save_fod: bool = Field(False, description="Also store the FOD coefficients, in MRtrix3's basis.")


class GroupResponseSettings(Section):
    """Settings of `group_response`."""

    group_subjects: str | None = Field(
        None,
        description="Subjects whose responses are averaged into the group response, as comma-separated patterns "
        "(sub-ctrl*); all by default.",
    )


class CsdSettings(ResponseSettings, PeakSettings, GroupResponseSettings):
    """The section `csd`: response functions, deconvolution and peaks."""


class TractMaskSettings(Section):
    """Settings of `tract_masks`."""

    mask_threshold: float = Field(
        0.5, gt=0, lt=1, description="Probability above which a voxel belongs to a bundle (0.5 as in TractSeg)."
    )
    bundle_thresholds: dict[Bundle, Probability] = Field(
        {},
        description="Thresholds of single bundles instead of mask_threshold, such as {CA: 0.3, UF_left: 0.4}. For a "
        "bundle that is incomplete, TractSeg advises a lower one.",
        json_schema_extra={"key": "bundle"},
    )
    probabilities: bool = Field(False, description="Also store the probabilities from which the masks are made.")


class TractEndingSettings(Section):
    """Settings of `tract_endings`."""

    ending_threshold: float = Field(
        0.5, gt=0, lt=1, description="Probability above which a voxel belongs to a tract ending (0.5 as in TractSeg)."
    )


class TractOrientationSettings(Section):
    """Settings of `tract_orientations`."""

    dilation: int = Field(
        1, ge=0, le=10, description="Voxels by which a tract mask is dilated before it limits its orientation map."
    )


class TractAlignmentSettings(Section):
    """Whether there is an `mni_alignment`, from which all derivatives of tracts are then computed."""

    align: Literal["none", "mni"] = Field(
        "none",
        description="mni: rotate and move the head to MNI space for TractSeg, whose networks expect it there, and "
        "bring the results back. For heads that lie tilted in the scanner.",
    )


class TractSettings(TractMaskSettings, TractEndingSettings, TractOrientationSettings, TractAlignmentSettings):
    """The section `tracts`: masks, endings and orientation maps."""
