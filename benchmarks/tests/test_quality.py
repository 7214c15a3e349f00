"""The benchmark of quality control measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.process import ROOT
from benchmarks.quality_cohort import row
from kwneuro_assets.qc.catalog import CATALOG, metric_of
from kwneuro_assets.settings.bundles import BUNDLES


def test_a_row_has_every_metric_of_the_catalog() -> None:
    table = row("sub-01")
    assert {metric_of(column).name for column in table.columns} == {metric.name for metric in CATALOG}
    assert sum(column.startswith("bundle_volume") for column in table.columns) >= len(BUNDLES)
    assert row("sub-01") == table
    assert row("sub-02") != table


@pytest.mark.parametrize("left_out", [True, False])
def test_the_pipeline_without_quality_control_has_the_other_derivatives(left_out: bool) -> None:
    code = f"""
import json
from benchmarks.quality_log import leave_out_quality
if {left_out}:
    leave_out_quality()
from kwneuro_assets.assets import GROUP_DERIVATIVES, derivatives
from kwneuro_assets.settings import PipelineSettings
print(json.dumps([one.name for one in (*derivatives(PipelineSettings()), *GROUP_DERIVATIVES)]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    names = json.loads(done.stdout)
    assert {"dti", "csd_peaks", "group_response"} < set(names)
    quality = {"dwi_qc", "subject_report", "cohort_qc", "cohort_report"}
    assert quality.intersection(names) == (set() if left_out else quality)
