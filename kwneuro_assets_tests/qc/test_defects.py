"""Defects made on purpose: each is named by the check that should, and a clean scan by none.

The measured values for a full-size phantom are in docs/quality.md, written by `qc/defect_table.py`. What no metric of a
single subject shows is tested here, too: whether the cohort's robust z does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from kwneuro_assets.imaging.table import Cell
from kwneuro_assets.qc.catalog import metric_of
from kwneuro_assets.qc.checks import evaluate
from kwneuro_assets.qc.cohort_table import cohort_table
from kwneuro_assets.qc.limits import RULES
from kwneuro_assets.qc.outliers import outliers
from kwneuro_assets.settings.quality import QualityLimitSettings
from kwneuro_assets_tests.qc.defect_table import cohort_of, in_cohort
from kwneuro_assets_tests.testkit.defects import DEFECTS, Defect, Scan, demo_scan, dimmed, quality_of, read_scan

VOXEL = 5.0  # mm, of the head of the fast tests
FAST = ("another order", "moved", "second piece", "half of a hemisphere", "too high")
SLOW = ("3 slices", "spikes", "cut", "too low")
NEEDS_FIBERS = ("rotated", "flipped", "swapped")  # more than a small head of large voxels has
IN_COHORT = {  # metrics that are outliers among clean heads
    "noise doubled": {"sigma", "snr_b0", "ndc"},
    "20 % too high": {"wm_md_median", "csf_diffusivity"},
}


def chosen(words: Iterable[str]) -> list[Defect]:
    return [one for one in DEFECTS if any(word in one.name for word in words)]


def by_name(defect: Defect) -> str:
    return defect.name


def warnings(row: dict[str, Cell]) -> dict[str, Cell]:
    """The metrics beyond their limits, with their values."""
    return {one.metric: one.value for check in evaluate(row, QualityLimitSettings()) for one in check.warnings}


def assert_named(defect: Defect, scan: Scan) -> None:
    found = warnings(quality_of(defect.make(scan)))
    assert found.keys() & set(defect.beyond), f"expected one of {defect.beyond}, found {found}"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return demo_scan(tmp_path_factory.mktemp("head"), VOXEL)


@pytest.fixture(scope="module")
def clean(head: Scan) -> dict[str, Cell]:
    return quality_of(head)


def test_a_clean_scan_has_no_warning(clean: dict[str, Cell]) -> None:
    assert warnings(clean) == {}


@pytest.mark.parametrize("defect", chosen(FAST), ids=by_name)
def test_a_defect_is_named_by_its_check(defect: Defect, head: Scan) -> None:
    assert_named(defect, head)


@pytest.mark.slow
@pytest.mark.parametrize("defect", chosen(SLOW), ids=by_name)
def test_a_further_defect_is_named_by_its_check(defect: Defect, head: Scan) -> None:
    assert_named(defect, head)


@pytest.mark.slow
@pytest.mark.parametrize("defect", chosen(NEEDS_FIBERS), ids=by_name)
def test_wrong_bvectors_are_named_where_the_fibers_of_a_brain_determine_them(defect: Defect, brain: Scan) -> None:
    assert_named(defect, brain)


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory, phantom_tool: Path) -> Scan:
    """A slab of the phantom with the fibers of a real brain, 40 mm thick."""
    folder = tmp_path_factory.mktemp("brain")
    arguments = [sys.executable, str(phantom_tool), str(folder), "--slices", "20", "--b0s", "3"]
    subprocess.run(arguments, check=True, capture_output=True)
    return read_scan(folder)


@pytest.mark.slow
def test_the_cohort_shows_what_a_subject_alone_does_not(tmp_path: Path) -> None:
    scans = cohort_of(tmp_path)
    rows = [quality_of(scan) for scan in scans]
    found = outliers(cohort_table({f"sub-{number:02d}": row for number, row in enumerate(rows)}))
    # By chance, 1 % of normal values are beyond the limit in a group of 14; metrics of one subject are correlated.
    assert np.mean(found.beyond[np.isfinite(found.z)]) < 0.04
    for defect in chosen(IN_COHORT):
        (expected,) = [metrics for words, metrics in IN_COHORT.items() if words in defect.name]
        beyond = in_cohort(rows, quality_of(defect.make(scans[-1])))
        assert beyond.keys() >= expected, (defect.name, beyond)


def test_slices_without_most_of_their_signal_are_counted(head: Scan) -> None:
    (defect,) = chosen(["3 slices"])
    row = quality_of(defect.make(head))
    # With 20 directions, the prediction of a slice is too uncertain to find the one that has nine tenths.
    assert row["dropout_slices"] == sum(factor < 0.5 for factor, _, _ in dimmed(head)) == 3


@pytest.mark.slow
def test_with_64_directions_a_slice_with_nine_tenths_of_its_signal_is_counted_too(brain: Scan) -> None:
    (defect,) = chosen(["3 slices"])
    assert quality_of(defect.make(brain))["dropout_slices"] == len(dimmed(brain)) == 4


def test_every_defect_is_tested_once_and_the_metrics_that_name_it_have_a_limit() -> None:
    names = [one.name for one in chosen((*FAST, *SLOW, *NEEDS_FIBERS))]
    assert names == [one.name for one in DEFECTS if one.beyond]
    with_limit = {rule.metric for rule in RULES}
    assert {metric_of(name).name for one in DEFECTS for name in one.beyond} <= with_limit
