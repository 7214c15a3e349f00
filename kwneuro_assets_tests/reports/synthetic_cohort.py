"""Cohorts of any size for the cohort page, with values, outliers, groups, states and ratings as real ones have."""

from __future__ import annotations

from typing import Any

import numpy as np

from kwneuro_assets.imaging import Table
from kwneuro_assets.imaging.table import Cell, Kind
from kwneuro_assets.qc.metrics import Better, CheckName, Metric
from kwneuro_assets.qc.outliers import Outliers, robust_z
from kwneuro_assets.qc.ratings import Rating
from kwneuro_assets.reports.cohort_content import CohortContent, Failure

MAX_Z = 3.5
SHELLS = (1000, 2000, 3000)
BUNDLES = ("AF_left", "AF_right", "CST_left", "CST_right", "CA", "CC_1", "CC_2", "CC_3", "CG_left", "CG_right",
           "FX_left", "FX_right", "ILF_left", "ILF_right", "MCP", "OR_left", "OR_right", "SLF_I_left", "SLF_I_right",
           "UF_left", "UF_right")  # fmt: skip

Columns = dict[str, tuple[Metric, float, float]]  # the metric, median and spread of each column


def _metric(name: str, label: str, unit: str, better: Better, check: CheckName | None, kind: Kind = "number") -> Metric:
    return Metric(name, label, f"{label}, as this test makes it up.", unit, better, check, kind=kind)


def columns(count: int) -> Columns:
    """The first `count` of 60 and more columns that are numbers."""
    found: Columns = {}

    def add(median: float, spread: float, *described: Any) -> None:
        metric = _metric(*described)
        found[metric.name] = metric, median, spread

    add(0.82, 0.02, "ndc", "Neighboring DWI correlation", "1", "higher", "artifacts")
    add(7, 3, "dropout_slices", "Slices with dropout", "slices", "lower", "artifacts", "integer")
    add(1450, 60, "mask_volume_ml", "Volume of the brain mask", "ml", "neither", "mask")
    add(0.00071, 0.00002, "md_wm_median", "Median MD in white matter", "mm²/s", "neither", "model")
    add(24, 3, "snr_b0", "SNR of the b=0 volumes", "1", "higher", "acquisition")
    add(12, 5, "spikes_ppm", "Spikes", "ppm", "lower", "artifacts")
    for shell in SHELLS:
        add(
            0.85 - shell / 2e4,
            0.02,
            f"ndc_b{shell}",
            f"Neighboring DWI correlation, b={shell}",
            "1",
            "higher",
            "artifacts",
        )
        add(1.6 - shell / 3e3, 0.1, f"cnr_b{shell}", f"CNR, b={shell}", "1", "higher", "acquisition")
        add(0.03, 0.01, f"residual_b{shell}", f"Residual correlation, b={shell}", "1", "lower", "artifacts")
    for number in range(14):
        add(
            0.4 + number / 40,
            0.03,
            f"model_{number}",
            f"Median of parameter map {number} in white matter",
            "1",
            "neither",
            "model",
        )
    for number in range(10):
        add(
            10.0 ** (number - 4),
            10.0 ** (number - 5),
            f"mask_{number}",
            f"Mask measure {number}",
            "mm",
            "lower",
            "mask",
        )
    for bundle in BUNDLES:
        add(12, 2, f"bundle_volume_ml_{bundle}", f"Volume of {bundle}", "ml", "neither", None)
    return dict(list(found.items())[:count])


def synthetic_cohort(
    subjects: int, metrics: int = 60, *, groups: int = 0, sessions: bool = False, seed: int = 0, **fields: Any
) -> CohortContent:
    """A cohort with about one outlier in 300 values, and text columns beside `metrics` columns of numbers."""
    rng = np.random.default_rng(seed)
    described = columns(metrics)
    participants = [f"sub-{number:05d}" for number in range(1, subjects + 1)]
    cells: dict[str, list[Cell]] = {"participant_id": list(participants)}
    kinds: dict[str, Kind] = {"participant_id": "text"}
    if sessions:
        cells["session_id"], kinds["session_id"] = ["ses-01"] * subjects, "text"
    for name, (metric, median, spread) in described.items():
        cells[name], kinds[name] = _cells(rng, metric.kind, subjects, median, spread), metric.kind
    shells = _metric("shells", "Shells", "s/mm²", "neither", "acquisition", "text")
    cells["shells"], kinds["shells"] = (
        ["0, 1000, 2000, 3000" if at % 7 else "0, 1000" for at in range(subjects)],
        "text",
    )
    table = Table(cells, kinds)
    keys = [f"{one}_ses-01" if sessions else one for one in participants]
    defaults: dict[str, Any] = {
        "dataset": "synthetic",
        "version": "0.1.0",
        "outliers": outliers_of(table),
        "max_z": MAX_Z,
        "failed_checks": dict.fromkeys(keys[::23], ("artifacts",)) | dict.fromkeys(keys[5::97], ("mask", "model")),
        "group_name": "scanner",
        "groups": {key: f"scanner {at % groups + 1}" for at, key in enumerate(keys)} if groups else {},
        "states": {
            asset: {
                "fresh": subjects - 2,
                "stale": 1,
                "failed": int(asset == "noddi"),
                "missing": int(asset != "noddi"),
            }
            for asset in ("dwi_qc", "denoised_dwi", "brain_mask", "dti", "noddi", "fiber_response", "csd_peaks")
        },
        "failures": [Failure(keys[0], "noddi", "InvalidData: b-values: expected two shells, found 1.")],
        "quarantined": {"sub-99999": "sub-99999.bval: b-values: expected 193 numbers, found 192. Export again."},
        "ratings": {keys[1]: Rating("doubtful", "motion in the last volumes", "AB", "2026-11-01")},
        "reports": frozenset(keys),
        "images": frozenset(keys),
    }
    texts = {"shells": shells} | {name: metric for name, (metric, _, _) in described.items()}
    return CohortContent(**{"table": table, "metrics": texts, **defaults, **fields})


def outliers_of(table: Table) -> Outliers:
    """The outliers of a table whose columns are not in the catalog: beyond the limit on either side."""
    names = tuple(name for name, kind in table.kinds.items() if kind != "text")
    values = np.array([table.columns[name] for name in names], np.float64).reshape(len(names), table.row_count)
    z = np.asarray(robust_z(values.T), np.float64)
    if table.row_count < 10:  # too few to judge, as `outliers` has it
        z[:] = np.nan
    with np.errstate(invalid="ignore"):
        return Outliers(names, z, np.abs(z) > MAX_Z)


def with_outliers(content: CohortContent) -> set[str]:
    """The subjects that are an outlier in some metric."""
    return {content.keys[row] for row in np.flatnonzero(np.any(content.outliers.beyond, axis=1)).tolist()}


def _cells(rng: np.random.Generator, kind: Kind, count: int, median: float, spread: float) -> list[Cell]:
    values = rng.normal(median, spread, count)
    values[rng.random(count) < 1 / 300] += spread * 12
    absent = rng.random(count) < 0.002
    if kind == "integer":
        return [None if no else max(0, round(value)) for value, no in zip(values.tolist(), absent, strict=True)]
    return [None if no else float(f"{value:.5g}") for value, no in zip(values.tolist(), absent, strict=True)]
