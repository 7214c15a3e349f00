"""The QC row of a subject: all metrics of the scan and of whatever derivatives of it there are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from kwneuro_assets.errors import ActionableError
from kwneuro_assets.imaging import Dwi, MapSet, NotApplicable, ResponseFunction, Table, TissueResponses, Volume
from kwneuro_assets.imaging.table import Cell, Kind
from kwneuro_assets.qc.acquisition import acquisition_metrics
from kwneuro_assets.qc.brain import mask_metrics
from kwneuro_assets.qc.brain_signal import brain_signal_metrics
from kwneuro_assets.qc.bundles import bundle_metrics
from kwneuro_assets.qc.catalog import CATALOG, FAILED, metric_of, ordered
from kwneuro_assets.qc.cells import number
from kwneuro_assets.qc.external import is_external
from kwneuro_assets.qc.inputs import volume_on
from kwneuro_assets.qc.microstructure import noddi_metrics
from kwneuro_assets.qc.peaks import peak_metrics
from kwneuro_assets.qc.response import response_metrics
from kwneuro_assets.qc.signal import signal_metrics
from kwneuro_assets.qc.summary import Row
from kwneuro_assets.qc.symmetry import reflected
from kwneuro_assets.qc.tensor_fit import tensor_metrics
from kwneuro_assets.qc.white_matter import white_matter, white_matter_metrics

Result = TypeVar("Result")

_PASSED_ON = (OSError, MemoryError, ActionableError)

log = logging.getLogger(__name__)


def qc_row(
    *,
    raw: Dwi,
    denoised: Dwi | NotApplicable | None = None,
    mean_b0: Volume | NotApplicable | None = None,
    brain_mask: Volume | NotApplicable | None = None,
    dti: MapSet | NotApplicable | None = None,
    noddi: MapSet | NotApplicable | None = None,
    fiber_response: ResponseFunction | TissueResponses | NotApplicable | None = None,
    csd_peaks: MapSet | NotApplicable | None = None,
    tract_masks: Volume | NotApplicable | None = None,
) -> Table:
    """A table of one row with the QC metrics of a subject, in the order of the catalog.

    The arguments are the raw DWI and its derivatives, each as the asset of that name. Metrics of a derivative that is
    missing (None), not applicable or on another grid are None. The columns are the same for every subject, except those
    per shell and per bundle. Numbers have five significant digits. The values in `raw.preprocessing` are columns, too,
    if they are numbers: a column has one kind for all subjects.

    An unexpected error in a group of metrics does not affect the others: it is logged, the columns of the group are
    None, and `metrics_failed` names it. Errors of the surroundings (OSError, MemoryError) and those with a remedy
    (ActionableError, such as InvalidData of a source that has changed) are raised: a row without these metrics would
    count as up to date.
    """
    groups = _Groups()
    mask = volume_on(raw.volume, brain_mask)
    white = groups.result("white matter", lambda: white_matter(mask, dti, csd_peaks))
    mirror = groups.result("mask", lambda: reflected(mask) if mask else None)
    inside = white.mask.array > 0 if white and white.mask.same_grid(raw.volume) else None
    clean = denoised if isinstance(denoised, Dwi) and _same_series(denoised, raw) else None
    groups.add("acquisition", lambda: acquisition_metrics(raw))
    groups.add("signal", lambda: signal_metrics(raw, clean, mask, inside))
    groups.add("mask", lambda: mask_metrics(mask, mirror))
    groups.add("b=0", lambda: brain_signal_metrics(mean_b0, mask, mirror))
    groups.add("white matter", lambda: white_matter_metrics(white))
    groups.add("tensor", lambda: tensor_metrics(dti, mask, white))
    groups.add("NODDI", lambda: noddi_metrics(noddi, white))
    groups.add("response", lambda: response_metrics(fiber_response))
    groups.add("peaks", lambda: peak_metrics(csd_peaks, white))
    groups.add("bundles", lambda: bundle_metrics(tract_masks, mask))
    numbers = {
        name: value for name, value in raw.preprocessing.items() if is_external(name) and not isinstance(value, str)
    }
    return _table(groups.row | numbers | {FAILED.name: ", ".join(dict.fromkeys(groups.failed)) or "none"})


class _Groups:
    """Groups of metrics that are computed one after another; those that fail are named in `failed`."""

    def __init__(self) -> None:
        self.row: Row = {metric.name: None for metric in CATALOG if "{" not in metric.name}
        self.failed: list[str] = []

    def add(self, group: str, metrics: Callable[[], Row]) -> None:
        self.row |= self.result(group, metrics) or {}

    def result(self, group: str, compute: Callable[[], Result]) -> Result | None:
        try:
            return compute()
        except _PASSED_ON:
            raise
        except Exception:
            log.exception("the QC metrics of the group %r could not be computed", group)
            self.failed.append(group)
            return None


def _same_series(denoised: Dwi, raw: Dwi) -> bool:
    return denoised.volume.same_grid(raw.volume) and len(denoised.gradients) == len(raw.gradients)


def _table(row: Row) -> Table:
    kinds: dict[str, Kind] = {column: metric_of(column).kind for column in ordered(row)}
    return Table.from_rows([{column: _cell(row[column], kind) for column, kind in kinds.items()}], kinds)


def _cell(value: Cell, kind: Kind) -> Cell:
    return number(float(value)) if kind == "number" and value is not None else value
