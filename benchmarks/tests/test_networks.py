"""The benchmark of the networks and of an entire subject, with small networks and small images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tables
from benchmarks.kwneuro_peer import _step
from benchmarks.network_differences import difference
from benchmarks.network_inputs import load, peaks_file, weights_folder, write_weights
from benchmarks.network_steps import RESULT, some_masks
from benchmarks.networks import Inputs, compared
from benchmarks.process import measure
from benchmarks.subject import REST, measured, with_rest
from kwneuro_assets_tests.testkit.small_networks import TRACTSEG_CLASSES, write_tractseg

FILTERS = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random networks in the form of TractSeg's."""
    return write_tractseg(tmp_path_factory.mktemp("weights"), filters=FILTERS)


@pytest.fixture
def inputs(tmp_path: Path, weights: Path) -> Inputs:
    """A block of 10 x 10 x 10 voxels with peaks in TractSeg's orientation."""
    peaks = np.zeros((14, 16, 14, 9), np.float32)
    peaks[2:12, 3:13, 2:12] = np.random.default_rng(0).normal(0, 0.3, (10, 10, 10, 9))
    np.savez(peaks_file(tmp_path), array=peaks, affine=np.diag([-2.0, 2, 2, 1]))
    write_weights(weights_folder(tmp_path), str(weights), None)
    return Inputs(tmp_path, 1)


def test_missing_weights_are_replaced_and_given_ones_are_linked(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = TRACTSEG_CLASSES
    given, cache = tmp_path / "given", tmp_path / "cache"
    given.mkdir()
    (given / first).write_bytes((weights / first).read_bytes())
    monkeypatch.setattr("benchmarks.network_inputs.TRACTSEG_FILTERS", FILTERS)
    assert write_weights(tmp_path / "linked", str(given), str(cache)) == f"1 given, {len(others)} random"
    assert (tmp_path / "linked" / first).resolve() == (given / first).resolve()
    assert all((tmp_path / "linked" / name).resolve().parent == cache.resolve() for name in others)


def test_the_peaks_are_written_in_tractsegs_orientation(tmp_path: Path, weights: Path) -> None:
    import nibabel as nib

    peaks = np.random.default_rng(0).normal(size=(4, 5, 6, 15)).astype(np.float32)
    peaks[0, 0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(peaks, np.diag([2.0, 2, 2, 1])), tmp_path / "peaks.nii.gz")
    names = {"source": None, "subject": "sub-01", "cache": None, "steps": ["masks"]}
    choice = {**names, "peaks": str(tmp_path / "peaks.nii.gz"), "weights": str(weights)}
    found = measure("benchmarks.network_inputs", [tmp_path, json.dumps(choice)], 1)
    assert not found.problem
    assert found.details == {"peaks": "4 x 5 x 6, 120 voxels with a peak", "weights": "6 given, 0 random"}
    written = load(peaks_file(tmp_path))
    assert written.affine[0, 0] == -2
    np.testing.assert_array_equal(written.array, np.nan_to_num(peaks[::-1, ..., :9]))


def test_differences_count_voxels_over_all_classes(tmp_path: Path) -> None:
    ours = np.zeros((2, 2, 2, 3), np.float32)
    theirs = ours.copy()
    theirs[0, 0, 0, 1], theirs[1, 1, 1, 2] = 0.5, -1.5
    for name, array in (("ours", ours), ("theirs", theirs)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / RESULT, array)
    found = difference(tmp_path / "ours", tmp_path / "theirs")
    assert found == {"quantity": "2 of 24 values differ", "mean": pytest.approx(2 / 24), "largest": 1.5}
    assert difference(tmp_path / "ours", tmp_path / "ours")["quantity"] == "identical"


def test_the_rest_of_the_time_is_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [{"step": "dti", "seconds": 2.0, "peak_mb": 300}, {"step": "tract_masks", "seconds": 5.0, "peak_mb": 900}]
    ours = {"seconds": 10.0, "peak_mb": 1000, **with_rest(10.0, {"steps": steps})}
    assert ours["steps"][-1] == {"step": REST, "seconds": 3.0}
    tables.print_subject(ours, {"seconds": 40.0, "peak_mb": 5000, "steps": [{"step": "dti", "seconds": 8.0}]})
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["dti"] == ["dti", "2.0", "20%", "300", "8.0", "4.0"]
    assert lines["tract_masks"] == ["tract_masks", "5.0", "50%", "900"]
    assert lines["total"] == ["total", "10.0", "100%", "1000", "40.0", "5000", "4.0"]


def test_the_memory_of_kwneuros_steps_is_that_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> None:
        raise ImportError("TractSeg is required")

    steps: list[dict[str, object]] = []
    assert _step(steps, "large", lambda: np.ones(25_000_000).sum()) == 25_000_000
    assert _step(steps, "small", lambda: 7) == 7
    assert _step(steps, "tract_masks", missing) is None
    large, small, problem = steps
    assert problem == {"step": "tract_masks", "problem": "TractSeg is required"}
    if Path("/proc/self/clear_refs").exists():
        assert large["peak_mb"] > small["peak_mb"] + 150  # type: ignore[operator]
    tables.print_subject(
        {"seconds": 1.0, "steps": [{"step": "small", "seconds": 1.0}]}, {"seconds": 9.0, "steps": steps}
    )
    assert "kwneuro, tract_masks: TractSeg is required" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("step", ["masks", "orientations"])
def test_results_of_small_networks_are_those_of_run_tractseg(step: str, inputs: Inputs) -> None:
    row = compared(step, inputs)
    assert "problem" not in row
    (peer,) = row["peers"]
    assert "problem" not in peer
    assert peer["differences"] == [{"quantity": "identical", "mean": 0.0, "largest": 0.0}]
    assert peer["ratio"] == pytest.approx(peer["seconds"] / row["seconds"], rel=0.01)
    assert row["peak_mb"] > 0


def test_masks_for_the_orientation_maps_cover_all_peaks(inputs: Inputs) -> None:
    peaks = load(peaks_file(inputs.folder))
    masks = some_masks(peaks)
    assert masks.shape == (*peaks.grid, 72)
    assert (masks.array > 0).all(axis=-1).sum() == masks.array[..., 0].sum() == 10**3


def test_a_run_that_fails_is_a_problem(tmp_path: Path) -> None:
    from benchmarks.dataset import Dataset

    (tmp_path / "source").mkdir()
    found = measured(tmp_path, Dataset(tmp_path / "source", "sub-01"), 1)
    assert found.problem
