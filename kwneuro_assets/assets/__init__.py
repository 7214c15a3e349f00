"""All assets: source assets, the derivatives of a subject in the order of their dependencies, and that of the group."""

from __future__ import annotations

from dagster import AssetsDefinition

from kwneuro_assets.assets.brain_mask import brain_mask
from kwneuro_assets.assets.cohort_qc import cohort_qc
from kwneuro_assets.assets.cohort_report import cohort_report
from kwneuro_assets.assets.csd_peaks import csd_peaks
from kwneuro_assets.assets.denoised_dwi import denoised_dwi
from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.assets.dti import dti
from kwneuro_assets.assets.dwi_qc import dwi_qc
from kwneuro_assets.assets.fiber_response import fiber_response
from kwneuro_assets.assets.group_response import group_response
from kwneuro_assets.assets.mean_b0 import mean_b0
from kwneuro_assets.assets.mechanism.building import build_asset
from kwneuro_assets.assets.mni_alignment import mni_alignment
from kwneuro_assets.assets.noddi import noddi
from kwneuro_assets.assets.source import build_source_assets
from kwneuro_assets.assets.subject_report import subject_report
from kwneuro_assets.assets.tract_endings import tract_endings
from kwneuro_assets.assets.tract_masks import tract_masks
from kwneuro_assets.assets.tract_orientations import tract_orientations
from kwneuro_assets.settings import PipelineSettings

# Of a subject, under any settings, in topological order.
ALL_DERIVATIVES: tuple[Derivative, ...] = (
    denoised_dwi,
    mean_b0,
    brain_mask,
    dti,
    noddi,
    mni_alignment,
    fiber_response,
    csd_peaks,
    tract_masks,
    tract_endings,
    tract_orientations,
    dwi_qc,
    subject_report,
)

GROUP_DERIVATIVE = group_response  # the one on which derivatives of subjects may depend
COHORT_DERIVATIVES = (cohort_qc, cohort_report)  # in topological order; nothing of a subject depends on them
GROUP_DERIVATIVES = (GROUP_DERIVATIVE, *COHORT_DERIVATIVES)


def derivatives(settings: PipelineSettings) -> tuple[Derivative, ...]:
    """The derivatives of a subject that exist under these settings, in topological order."""
    return tuple(derivative for derivative in ALL_DERIVATIVES if derivative.exists(settings))


DERIVATIVES = derivatives(PipelineSettings())  # under the default settings


def build_assets(settings: PipelineSettings) -> list[AssetsDefinition]:
    """The Dagster assets for one snapshot of the settings."""
    existing = (*derivatives(settings), *GROUP_DERIVATIVES)
    return [*build_source_assets(settings), *(build_asset(derivative, settings) for derivative in existing)]
