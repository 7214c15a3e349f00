"""QC metrics of the response function."""

from __future__ import annotations

from kwneuro_assets.derivations.response import along_and_across
from kwneuro_assets.imaging import NotApplicable, ResponseFunction, TissueResponses
from kwneuro_assets.qc.metrics import Metric
from kwneuro_assets.qc.summary import Row, fraction

_JEURISSEN = "https://doi.org/10.1016/j.neuroimage.2014.07.061"

RESPONSE_METRICS = (
    Metric(
        name="response_ratio",
        label="Response ratio",
        description="Signal of the single-fiber response function along the fiber divided by that across it, at its "
        "highest b-value. A ratio of 1 has no contrast; it rises if the response is estimated outside of single-fiber "
        "voxels or with wrong gradients.",
        unit="1",
        better="lower",
        check="model",
        reference="https://doi.org/10.1016/j.neuroimage.2007.02.016",
    ),
    Metric(
        name="response_voxels",
        label="Voxels of the response",
        description="Voxels that the single-fiber response function is the mean of. n/a for one from a file.",
        unit="voxels",
        better="higher",
        check="model",
        reference="https://doi.org/10.1016/j.neuroimage.2007.02.016",
        kind="integer",
    ),
    Metric(
        name="response_gm_voxels",
        label="Voxels of the GM response",
        description="Voxels that the response function of gray matter is the mean of. n/a for one from a file, and for "
        "single-tissue deconvolution.",
        unit="voxels",
        better="higher",
        check="model",
        reference=_JEURISSEN,
        kind="integer",
    ),
    Metric(
        name="response_csf_voxels",
        label="Voxels of the CSF response",
        description="Voxels that the response function of CSF is the mean of. n/a for one from a file, and for "
        "single-tissue deconvolution.",
        unit="voxels",
        better="higher",
        check="model",
        reference=_JEURISSEN,
        kind="integer",
    ),
)


def response_metrics(response: ResponseFunction | TissueResponses | NotApplicable | None) -> Row:
    """The columns of `RESPONSE_METRICS`; of three tissues, the ratio is that of white matter."""
    row: Row = dict.fromkeys((metric.name for metric in RESPONSE_METRICS), None)
    if isinstance(response, TissueResponses):
        row["response_ratio"] = fraction(*along_and_across(response.wm[-1]))
        row["response_voxels"] = response.wm_voxels or None
        row["response_gm_voxels"] = response.gm_voxels or None
        row["response_csf_voxels"] = response.csf_voxels or None
    elif isinstance(response, ResponseFunction):
        row["response_ratio"] = fraction(*along_and_across(response.coefficients))
        row["response_voxels"] = response.voxels or None
    return row
