"""Limits of the QC metrics: of a subject by itself, and within its cohort."""

from __future__ import annotations

from pydantic import Field

from kwneuro_assets.settings.section import Section
from kwneuro_assets.settings.source import SourceCheckSettings


class QualityLimitSettings(Section):
    """Limits of the checks of a subject, beyond which a metric is a warning."""

    max_gradient_rotation: float = Field(
        5,
        ge=0,
        le=180,
        description="Maximum rotation of all b-vectors, degrees, that would make the fibers most continuous.",
    )
    max_csf_diffusivity: float = Field(
        3.3,
        ge=1,
        le=10,
        description="Maximum diffusivity of CSF, 1e-3 mm^2/s. That of free water at 37 degrees C is 3.0 (Mills 1973); "
        "10 % are for flow and temperature.",
    )
    min_diffusivity_ratio: float = Field(
        0.72,
        ge=0,
        le=1,
        description="Minimum apparent diffusivity of white matter in a shell relative to the shell below, per 1000 "
        "s/mm^2. About 0.83 in an adult; 20 % less if a b-value is wrong by 20 %.",
    )
    max_diffusivity_ratio: float = Field(
        0.95,
        ge=0,
        le=2,
        description="Maximum of the same ratio. It is 1 without kurtosis, as in fluid (Jensen 2005).",
    )
    min_ndc: float = Field(
        0.4,
        ge=-1,
        le=1,
        description="Minimum neighboring DWI correlation of the raw DWI (0.4: Yeh 2019, by DIPY).",
    )
    max_dropout_slices: int = Field(0, ge=0, le=100000, description="Maximum number of slices with signal dropout.")
    max_outlier_volumes: int = Field(0, ge=0, le=10000, description="Maximum number of outlier volumes.")
    max_outlier_slices: int = Field(0, ge=0, le=100000, description="Maximum number of outlier slices.")
    max_residual_to_noise: float = Field(
        1.5,
        ge=1,
        le=100,
        description="Maximum residual of a shell in units of the noise of the b=0 volumes; 1 if noise is all there is.",
    )
    max_mask_pieces: int = Field(1, ge=1, le=100000, description="Maximum number of pieces of the brain mask.")
    max_mask_flat_face: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Maximum area of a flat face of the brain mask, relative to its largest cross section; near 1 "
        "where a mask was cut.",
    )
    max_mask_edge_area: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Maximum area of the brain mask at the edge of the field of view, relative to its largest cross "
        "section.",
    )
    max_dark_fraction: float = Field(
        0.02, ge=0, le=1, description="Maximum fraction of the brain mask with hardly any signal at b=0."
    )
    max_one_sided_fraction: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Maximum fraction of the brain mask with less than half of the signal of the other hemisphere.",
    )
    max_response_ratio: float = Field(
        1, gt=0, le=1, description="Maximum ratio of the response function along and across the fiber."
    )
    max_bundles_outside_brain: int = Field(
        0, ge=0, le=1000, description="Maximum number of bundles with more than 10 % of their volume outside the brain."
    )


class CheckSettings(SourceCheckSettings, QualityLimitSettings):
    """The section `checks`: sanity checks of scans, and limits of QC metrics."""


class OutlierSettings(Section):
    """When a metric is an outlier within the cohort."""

    max_robust_z: float = Field(
        3.5,
        gt=0,
        le=1000,
        description="Robust z-score beyond which a metric is an outlier on the cohort page (3.5: Iglewicz and Hoaglin "
        "1993).",
    )
    min_group_size: int = Field(
        10,
        ge=3,
        le=100000,
        description="Minimum number of subjects of a scanner or site with a value of a metric; in smaller groups, no "
        "outliers are sought.",
    )
