"""Alignment of a subject with MNI space."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import derivative
from kwneuro_assets.derivations.alignment import register_to_mni
from kwneuro_assets.figures.alignment import alignment_figure, alignment_summary
from kwneuro_assets.imaging import MapSet, RigidTransform, Volume
from kwneuro_assets.progress import Progress
from kwneuro_assets.settings import PipelineSettings


def aligns_to_mni(settings: PipelineSettings) -> bool:
    """Whether TractSeg gets heads that are aligned with MNI space."""
    return settings.tracts.align == "mni"


@derivative(
    group="tracts",
    version=1,
    figure=alignment_figure,
    summary=alignment_summary,
    kinds={"text", "dipy"},
    libraries=("dipy", "scipy", "tractseg"),
    bids={
        "Units": "mm",
        "Transformation": "rigid; from points of MNI152NLin6Asym to points of the DWI; ITK's frame, LPS",
    },
    only_if=aligns_to_mni,
)
def mni_alignment(dti: MapSet, brain_mask: Volume, progress: Progress) -> RigidTransform:
    """Rotation and translation that bring the head to MNI space, by registration of its FA with an FA template.

    An asset only with `tracts.align: mni`. TractSeg then gets the peaks of the rotated head, and its results are
    rotated back: all other derivatives stay in the space of the DWI. The template is TractSeg's own; DIPY registers by
    mutual information, without scaling or shear.

    | content | unit |
    |---|---|
    | text file of ITK: resamples images of the DWI to MNI space (ANTs, 3D Slicer; MRtrix3: `transformconvert`) | mm |

    **References**: [Mattes 2003](https://doi.org/10.1109/TMI.2003.809072) (mutual information),
    [Garyfallidis 2014](https://doi.org/10.3389/fninf.2014.00008) (DIPY).
    """
    return register_to_mni(dti["fa"], brain_mask, progress=progress)
