"""QC metrics of a subject, and its asset checks."""

from __future__ import annotations

from kwneuro_assets.assets.derivative import Checks, derivative
from kwneuro_assets.derivations.group_response import Response
from kwneuro_assets.figures.quality import quality_figure, quality_summary
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, Segmentation, Table, Volume
from kwneuro_assets.qc.catalog import data_dictionary
from kwneuro_assets.qc.checks import DESCRIPTIONS, Check, evaluate
from kwneuro_assets.qc.row import qc_row
from kwneuro_assets.settings import QualityLimitSettings

OPTIONAL = ("denoised_dwi", "mean_b0", "brain_mask", "dti", "noddi", "fiber_response", "csd_peaks", "tract_masks")


def checks_of(table: Table, limits: QualityLimitSettings) -> tuple[Check, ...]:
    """The checks of a subject, from its row of QC metrics."""
    return evaluate(next(table.rows()), limits)


@derivative(
    group="quality",
    version=1,
    figure=quality_figure,
    summary=quality_summary,
    kinds={"tsv", "numpy"},
    libraries=("dipy", "scipy"),
    dictionary=data_dictionary,
    may_be_missing=OPTIONAL,
    accepts_not_applicable=OPTIONAL,
    checks=Checks(DESCRIPTIONS, lambda table, settings: checks_of(table, settings.checks)),
)
def dwi_qc(
    dwi: Dwi,
    denoised_dwi: Dwi | NotApplicable | None = None,
    mean_b0: Volume | NotApplicable | None = None,
    brain_mask: Volume | NotApplicable | None = None,
    dti: MapSet | NotApplicable | None = None,
    noddi: MapSet | NotApplicable | None = None,
    fiber_response: Response | NotApplicable | None = None,
    csd_peaks: MapSet | NotApplicable | None = None,
    tract_masks: Volume | Segmentation | NotApplicable | None = None,
) -> Table:
    """QC metrics of the scan and of its derivatives: one row, with a data dictionary in the sidecar.

    Computed from whatever exists: metrics of a derivative that is missing or not applicable are `n/a`. Four asset
    checks compare them with the limits of the settings section `checks`; a check that fails is a warning. What
    preprocessing left beside the source (QSIPrep, eddy QUAD) is taken in.

    | content | unit |
    |---|---|
    | table with one row; the sidecar has formula, unit and reference of each column | see the sidecar |

    **References**: [Yeh 2019](https://doi.org/10.1016/j.neuroimage.2019.116131) (neighboring DWI correlation),
    [Esteban 2017](https://doi.org/10.1371/journal.pone.0184661) (MRIQC).
    """
    return qc_row(
        raw=dwi,
        denoised=denoised_dwi,
        mean_b0=mean_b0,
        brain_mask=brain_mask,
        dti=dti,
        noddi=noddi,
        fiber_response=fiber_response,
        csd_peaks=csd_peaks,
        tract_masks=tract_masks,
    )
