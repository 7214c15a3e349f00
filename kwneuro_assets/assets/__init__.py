"""All derivatives: those of a subject, in the order in which they follow from one another, and that of the group."""

from kwneuro_assets.assets.brain_mask import brain_mask
from kwneuro_assets.assets.csd_peaks import csd_peaks
from kwneuro_assets.assets.denoised_dwi import denoised_dwi
from kwneuro_assets.assets.derivative import Derivative
from kwneuro_assets.assets.dti import dti
from kwneuro_assets.assets.fiber_response import fiber_response
from kwneuro_assets.assets.group_response import group_response
from kwneuro_assets.assets.mean_b0 import mean_b0
from kwneuro_assets.assets.noddi import noddi
from kwneuro_assets.assets.tract_endings import tract_endings
from kwneuro_assets.assets.tract_masks import tract_masks
from kwneuro_assets.assets.tract_orientations import tract_orientations

DERIVATIVES: tuple[Derivative, ...] = (
    denoised_dwi,
    mean_b0,
    brain_mask,
    dti,
    noddi,
    fiber_response,
    csd_peaks,
    tract_masks,
    tract_endings,
    tract_orientations,
)

GROUP_DERIVATIVE = group_response
