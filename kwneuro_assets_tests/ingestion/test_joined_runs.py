"""Joined runs: rescaled to the first, acquired in the same way, without excluded volumes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dagster import DagsterInstance

from kwneuro_assets.cohort.run import run_subject
from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, InvalidData, MapSet, Volume, streamed
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.read_source import ScannedDwi, read_dwi, scan_dwi
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.records import recorded
from kwneuro_assets_tests.testkit.small_dataset import (
    AFFINES,
    EIGENVALUES,
    Table,
    dwi_folder,
    head,
    settings_for,
    table,
    write_gradients,
    write_mask,
    write_series,
)

SUBJECT = SubjectKey("01")
MD = float(np.mean(EIGENVALUES))


def scan(root: Path, **source: object) -> ScannedDwi:
    dataset = SourceDataset(SourceSettings(url=str(root), **source))
    return scan_dwi(dataset, dataset.series(SUBJECT))


def read(root: Path, **source: object) -> Dwi:
    dataset = SourceDataset(SourceSettings(url=str(root), **source))
    dwi, version = read_dwi(dataset, dataset.series(SUBJECT))
    assert scan(root, **source).version == version
    return dwi


def write_runs(root: Path, factors: Sequence[float], tables: Sequence[Table] | None = None) -> None:
    for number, factor in enumerate(factors, start=1):
        directions = tables[number - 1] if tables else table()
        write_series(root, entities=f"run-{number}", brightness=factor, directions=directions)


def write_sidecar(root: Path, name: str, **values: Any) -> None:
    (root / f"{name}.json").write_text(json.dumps(values))


def mean_diffusivity(dwi: Dwi) -> float:
    maps = fit_tensor(dwi, Volume(head(), dwi.affine), max_bvalue=3000)
    assert isinstance(maps, MapSet)
    return float(maps["md"].array[head()].mean())


@pytest.mark.parametrize(
    "factors",
    [
        *[(1.0, factor) for factor in (0.5, 0.94, 1.06, 1.3, 3.0)],
        *set(itertools.permutations((1.0, 0.5, 3.0))),
        (1.3, 1.0, 1.0),
    ],
)
def test_runs_of_any_gain_in_any_order_give_the_true_diffusivity(tmp_path: Path, factors: tuple[float, ...]) -> None:
    # One shell in each run, so that a wrong scale has its full effect.
    shells = (700.0, 1000.0, 2000.0)
    write_runs(tmp_path, factors, [table((shells[number],), b0=2) for number in range(len(factors))])
    dwi = read(tmp_path)
    assert mean_diffusivity(dwi) == pytest.approx(MD, rel=1e-5)
    assert dwi.array[..., 0].max() == pytest.approx(1200 * factors[0], rel=0.05)  # the scale is that of the first run
    rescaled = [warning for warning in scan(tmp_path).warnings if "rescaled" in warning]
    assert len(rescaled) == sum(factor != factors[0] for factor in factors)


def test_noise_and_the_number_of_b0_volumes_do_not_change_the_factor(tmp_path: Path) -> None:
    import nibabel

    rng = np.random.default_rng(0)
    grid = (24, 24, 8)
    for number, (factor, b0) in enumerate([(1.0, 6), (2.5, 1)], start=1):
        directions = table((1000.0,), directions=12, b0=b0)
        image = write_series(tmp_path, entities=f"run-{number}", directions=directions)
        bright = 1000.0 * head(grid)[..., None] * np.exp(-directions.bvals * MD)
        noisy = np.hypot(bright + rng.normal(0, 50, bright.shape), rng.normal(0, 50, bright.shape)) * factor
        nibabel.save(nibabel.Nifti1Image(noisy.astype(np.float32), AFFINES["right-handed"]), image)
    [message] = [warning for warning in scan(tmp_path).warnings if "rescaled by" in warning]
    # The noise of 5 % per voxel averages out over a thousand voxels.
    assert float(message.rpartition(" ")[2]) == pytest.approx(0.4, rel=0.01)


def test_runs_within_five_percent_are_not_rescaled(tmp_path: Path) -> None:
    write_runs(tmp_path, (1.0, 1.04))
    found = scan(tmp_path)
    assert not found.warnings
    assert not found.joining
    assert read(tmp_path).array[..., 26].max() == pytest.approx(1.04 * read(tmp_path).array[..., 0].max())


def test_rescaling_can_be_switched_off_and_the_warning_stays(tmp_path: Path) -> None:
    write_runs(tmp_path, (1.0, 1.3))
    dwi = read(tmp_path, scale_runs="none")
    assert dwi.array[..., 26].max() == pytest.approx(1.3 * dwi.array[..., 0].max())
    [warning] = scan(tmp_path, scale_runs="none").warnings
    assert "run-2_dwi.nii.gz: its mean b=0 is 1.3 times that of the first run: not rescaled" in warning
    assert scan(tmp_path).version != scan(tmp_path, scale_runs="none").version


def test_a_run_without_b0_cannot_be_checked_and_gives_a_warning(tmp_path: Path) -> None:
    write_runs(tmp_path, (1.0, 1.0), [table(), table((1000.0,), b0=0)])
    [warning] = scan(tmp_path).warnings
    assert warning.startswith(
        "sub-01_run-2_dwi.nii.gz: its scale relative to sub-01_run-1_dwi.nii.gz cannot be checked"
    )


@pytest.mark.parametrize("step", [1, 2])
def test_a_streamed_dwi_is_rescaled_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    write_runs(tmp_path, (1.0, 1.7, 0.6))
    in_memory = read(tmp_path, subsample=step)
    monkeypatch.setattr(streamed, "LARGE", 0)
    from_files = read(tmp_path, subsample=step)
    np.testing.assert_array_equal(from_files.array, in_memory.array)
    np.testing.assert_array_equal(from_files.image(40), in_memory.image(40))


def test_the_factors_are_in_the_observation_and_in_the_sidecars(tmp_path: Path, instance: DagsterInstance) -> None:
    write_runs(tmp_path / "source", (1.0, 2.0))
    write_mask(tmp_path / "source")
    settings = settings_for(tmp_path / "source")
    report = ingest(instance, settings)
    assert "rescaled by 0.5" in "".join(report.warnings["sub-01"])
    known = recorded(instance, "dwi", "sub-01", observed=True)
    assert known is not None
    factors = "1 for sub-01_run-1_dwi.nii.gz, 0.5 for sub-01_run-2_dwi.nii.gz"
    assert known.values["run_scale_factors"] == factors
    assert "rescaled by 0.5" in known.values["warnings"]
    [result] = run_subject(instance, settings, "sub-01", ["denoised_dwi"])
    assert result.outcome == "materialized"
    sidecar = DerivativeStore(tmp_path / "store").sidecar("denoised_dwi", SUBJECT)
    assert sidecar is not None
    assert json.loads(sidecar.to_json())["RunScaleFactors"] == factors


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ({"PhaseEncodingDirection": "j"}, {"PhaseEncodingDirection": "j-"}, "phase encoding of the runs"),
        ({"PhaseEncodingDirection": "j"}, {"PhaseEncodingDirection": "i"}, "phase encoding of the runs"),
        ({"PhaseEncodingAxis": "j"}, {"PhaseEncodingDirection": "i-"}, "phase encoding of the runs"),
        ({"EchoTime": 0.08}, {"EchoTime": 0.1}, "echo time of the runs"),
    ],
)
def test_runs_that_were_acquired_differently_are_refused_with_the_setting_to_change(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], problem: str
) -> None:
    write_runs(tmp_path, (1.0, 1.0))
    folder = dwi_folder(tmp_path, "sub-01")
    write_sidecar(folder, "sub-01_run-1_dwi", **first)
    write_sidecar(folder, "sub-01_run-2_dwi", **second)
    with pytest.raises(InvalidData) as caught:
        scan(tmp_path)
    assert caught.value.problem == problem
    assert "run-1_dwi.nii.gz" in caught.value.found
    assert "source.run" in caught.value.remedy
    assert len(scan(tmp_path, run="2").gradients) == len(table().bvals)


def test_a_json_file_of_a_parent_folder_applies_until_a_nearer_one_overrides_it(tmp_path: Path) -> None:
    write_runs(tmp_path, (1.0, 1.0))
    write_sidecar(tmp_path, "dwi", PhaseEncodingDirection="j", EchoTime=0.08)
    assert not scan(tmp_path).warnings
    write_sidecar(dwi_folder(tmp_path, "sub-01"), "sub-01_run-2_dwi", EchoTime=0.08)
    assert not scan(tmp_path).warnings
    write_sidecar(tmp_path / "sub-01", "sub-01_run-2_dwi", PhaseEncodingDirection="j-")
    with pytest.raises(InvalidData, match=r"phase encoding .*: expected the same .* found j in .*run-1.*, j- in"):
        scan(tmp_path)
    write_sidecar(dwi_folder(tmp_path, "sub-01"), "sub-01_run-2_dwi", PhaseEncodingDirection="j")
    assert not scan(tmp_path).warnings


def test_without_json_the_dir_label_gives_the_phase_encoding(tmp_path: Path) -> None:
    for entities in ("dir-AP", "dir-PA"):
        write_series(tmp_path, entities=entities)
    with pytest.raises(InvalidData, match=r"phase encoding .* found dir-AP in .*, dir-PA in .* source\.dir or"):
        scan(tmp_path, select="*")
    for entities in ("dir-AP", "dir-PA"):  # overridden by the JSON
        write_sidecar(dwi_folder(tmp_path, "sub-01"), f"sub-01_{entities}_dwi", PhaseEncodingDirection="j")
    assert not scan(tmp_path, select="*").warnings


def test_runs_corrected_for_distortions_may_differ_in_phase_encoding(tmp_path: Path) -> None:
    for run, direction in (("run-1", "j"), ("run-2", "j-")):
        write_series(tmp_path, entities=f"{run}_desc-preproc")
        write_sidecar(
            dwi_folder(tmp_path, "sub-01"), f"sub-01_{run}_desc-preproc_dwi", PhaseEncodingDirection=direction
        )
    [warning] = scan(tmp_path).warnings
    assert warning.startswith("phase encoding differs between the runs: j in sub-01_run-1_")


@pytest.mark.parametrize("key", ["RepetitionTime", "TotalReadoutTime", "MultipartID"])
def test_differences_that_need_not_harm_a_fit_are_warnings(tmp_path: Path, key: str) -> None:
    write_runs(tmp_path, (1.0, 1.0))
    for run, value in ((1, 3.0), (2, 6.0)):
        write_sidecar(dwi_folder(tmp_path, "sub-01"), f"sub-01_run-{run}_dwi", **{key: value, "EchoTime": 0.0801})
    [warning] = scan(tmp_path).warnings
    assert key in warning
    assert "run-2_dwi.nii.gz" in warning


def test_times_that_differ_by_rounding_are_equal(tmp_path: Path) -> None:
    write_runs(tmp_path, (1.0, 1.0))
    for run, value in ((1, 0.0895), (2, 0.09)):
        write_sidecar(dwi_folder(tmp_path, "sub-01"), f"sub-01_run-{run}_dwi", EchoTime=value)
    assert not scan(tmp_path).warnings


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'"text"'])
def test_an_invalid_json_file_is_a_warning(tmp_path: Path, content: bytes) -> None:
    write_series(tmp_path)
    (tmp_path / "dwi.json").write_bytes(content)
    [warning] = scan(tmp_path).warnings
    assert warning.startswith("dwi.json contains no JSON object")


def test_a_changed_json_file_is_read_again(tmp_path: Path, instance: DagsterInstance) -> None:
    write_runs(tmp_path / "source", (1.0, 1.0))
    write_mask(tmp_path / "source")
    settings = settings_for(tmp_path / "source")
    assert ingest(instance, settings).added == ["sub-01"]
    write_sidecar(tmp_path / "source", "run-2_dwi", EchoTime=0.1)
    assert ingest(instance, settings).unchanged == ["sub-01"]
    write_sidecar(tmp_path / "source", "run-1_dwi", EchoTime=0.08)
    report = ingest(instance, settings)
    assert "echo time" in report.quarantined["sub-01"]
    write_sidecar(tmp_path / "source", "run-1_dwi", EchoTime=0.1, RepetitionTime=3)
    write_sidecar(tmp_path / "source", "run-2_dwi", EchoTime=0.1, RepetitionTime=9)
    assert "RepetitionTime" in ingest(instance, settings).warnings["sub-01"][0]
    known = recorded(instance, "dwi", "sub-01", observed=True)
    assert known is not None
    assert "RepetitionTime" in known.values["warnings"]


def trace_table() -> Table:
    """Two b=0 volumes, eight directions, and a trace image of the same shell."""
    directions = table((1000.0,))
    return Table(np.append(directions.bvals, 1000), np.vstack([directions.world, np.zeros(3)]))


def test_a_trace_image_is_refused_or_excluded_by_the_settings(tmp_path: Path) -> None:
    directions = trace_table()
    write_series(tmp_path, directions=directions)
    with pytest.raises(InvalidData, match=r"sub-01_dwi.bvec: .* found zero at volume 10\. .*exclude_volumes: trace"):
        scan(tmp_path)
    dwi = read(tmp_path, exclude_volumes="trace")
    assert dwi.volume.shape[3] == 10
    assert mean_diffusivity(dwi) == pytest.approx(MD, rel=1e-5)
    assert scan(tmp_path, exclude_volumes="trace").joining == {"excluded_volumes": "10"}
    np.testing.assert_array_equal(read(tmp_path, exclude_volumes="10").array, dwi.array)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("step", [1, 2])
def test_volumes_are_excluded_by_their_index_in_the_joined_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool, step: int
) -> None:
    write_runs(tmp_path, (1.0, 1.02))
    complete = read(tmp_path, subsample=step)
    if large:
        monkeypatch.setattr(streamed, "LARGE", 0)
    part = read(tmp_path, exclude_volumes="3, 25-27, 51", subsample=step)
    remaining = np.setdiff1d(np.arange(52), [3, 25, 26, 27, 51])
    np.testing.assert_array_equal(part.array, complete.array[..., remaining])
    np.testing.assert_array_equal(part.bvals, complete.bvals[remaining])
    np.testing.assert_array_equal(part.world_bvecs, complete.world_bvecs[remaining])
    for one, other in zip(part.images([0, 24, 46]), complete.images(remaining[[0, 24, 46]].tolist()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_excluded_volume_may_have_any_values(tmp_path: Path) -> None:
    import nibabel

    image = write_series(tmp_path)
    values = np.array(nibabel.load(image).dataobj)  # type: ignore[attr-defined]
    values[..., 5] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, AFFINES["right-handed"]), image)
    directions = table()
    bvals = directions.bvals.copy()
    bvals[5] = 9e9
    write_gradients(image.parent / "sub-01_dwi", Table(bvals, directions.world), AFFINES["right-handed"])
    found = scan(tmp_path, exclude_volumes="5")
    assert not found.warnings
    assert len(found.gradients) == 25


def test_excluding_an_unknown_volume_is_a_warning_and_all_volumes_an_error(tmp_path: Path) -> None:
    write_series(tmp_path)
    [warning] = scan(tmp_path, exclude_volumes="26, 70-71").warnings
    assert warning == "source.exclude_volumes names 26, 70, 71, but there are 26 volumes"
    with pytest.raises(InvalidData, match="expected some volumes, found all volumes excluded"):
        scan(tmp_path, exclude_volumes="0-25")
