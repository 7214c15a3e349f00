"""Reading of the files of a subject: frames, runs, subsampling, masks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.derivations.tensor import fit_tensor
from kwneuro_assets.imaging import Dwi, InvalidData, MapSet, StreamedVolume, Volume, streamed
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.read_mask import read_mask, scan_mask
from kwneuro_assets.ingestion.read_source import ScannedDwi, read_dwi, scan_dwi
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.small_dataset import (
    AFFINES,
    FA,
    FIBER,
    GRID,
    Table,
    head,
    signal,
    table,
    write_gradients,
    write_mask,
    write_series,
)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read(root: Path, **source: object) -> Dwi:
    dataset = SourceDataset(SourceSettings(url=str(root), **source))
    return read_dwi(dataset, dataset.series(SubjectKey("01")))[0]


def scan(root: Path, **source: object) -> ScannedDwi:
    dataset = SourceDataset(SourceSettings(url=str(root), **source))
    return scan_dwi(dataset, dataset.series(SubjectKey("01")))


def mask_of(root: Path, **source: object) -> Volume:
    dataset = SourceDataset(SourceSettings(url=str(root), **source))
    return read_mask(dataset, dataset.mask(SubjectKey("01")))[0]


@pytest.mark.parametrize("affine", AFFINES.values(), ids=list(AFFINES))
def test_a_fiber_has_its_world_direction_whatever_the_voxel_axes_are(
    tmp_path: Path, affine: NDArray[np.float64]
) -> None:
    write_series(tmp_path, affine=affine)
    write_mask(tmp_path, affine=affine)
    dwi, mask = read(tmp_path), mask_of(tmp_path)
    maps = fit_tensor(dwi, mask, max_bvalue=3000)
    assert isinstance(maps, MapSet)
    first = maps["evecs"].array[head()][:, :3]
    # One tensor without noise: the difference is the rounding of float32 voxels and of eight digits in the bvec.
    np.testing.assert_allclose(np.abs(first @ FIBER), 1, atol=1e-6)
    np.testing.assert_allclose(maps["fa"].array[head()], FA, atol=1e-5)


def test_a_dwi_has_the_values_of_its_files(tmp_path: Path) -> None:
    write_series(tmp_path)
    dwi = read(tmp_path)
    np.testing.assert_array_equal(dwi.array, signal(table()))
    np.testing.assert_array_equal(dwi.bvals, table().bvals)
    assert not dwi.interpolated
    write_series(tmp_path, entities="desc-preproc")
    assert read(tmp_path).interpolated


def test_runs_are_joined_by_number_with_their_own_gradient_tables(tmp_path: Path) -> None:
    shells = {"run-10": (3000.0,), "run-2": (2000.0,), "run-1": (1000.0,)}
    for number, (entities, one) in enumerate(shells.items()):
        write_series(tmp_path, entities=entities, directions=table(one), brightness=number + 1)
    dwi = read(tmp_path)
    np.testing.assert_array_equal(
        dwi.bvals, np.concatenate([table((1000,)).bvals, table((2000,)).bvals, table((3000,)).bvals])
    )
    of_first = signal(table((1000,))) * 3
    np.testing.assert_array_equal(dwi.array[..., 0], of_first[..., 0])
    for start, other in ((10, 2000.0), (20, 3000.0)):  # on the scale of the first
        np.testing.assert_allclose(dwi.array[..., start : start + 10], signal(table((other,))) * 3, rtol=1e-6)
    np.testing.assert_allclose(dwi.world_bvecs[12:20], table((2000,)).world[2:], atol=1e-6)


@pytest.mark.parametrize(("long", "single"), [("run-1", "run-2"), ("run-2", "run-1")], ids=["last", "first"])
def test_a_run_of_a_single_volume_is_joined_like_any_other(tmp_path: Path, long: str, single: str) -> None:
    """Many protocols begin or end with a separate b=0 volume."""
    write_series(tmp_path, entities=long)
    write_series(tmp_path, entities=single, directions=table((), directions=0, b0=1))
    dwi = read(tmp_path)
    assert dwi.volume.shape == (*GRID, len(table().bvals) + 1)
    assert np.count_nonzero(dwi.b0_mask) == 3


@pytest.mark.parametrize("shape", [GRID, (*GRID, 1), (*GRID, 1, 1)])
def test_a_run_without_a_fourth_axis_is_one_volume(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_series(tmp_path, entities="run-1")
    image = write_series(tmp_path, entities="run-2", directions=table((), directions=0, b0=1))
    nibabel.save(nibabel.Nifti1Image(signal(table())[..., 0].reshape(shape), AFFINES["right-handed"]), image)
    dwi = read(tmp_path)
    np.testing.assert_array_equal(dwi.array[..., -1], signal(table())[..., 0])
    assert dwi.volume.shape == (*GRID, len(table().bvals) + 1)


def test_a_run_without_a_fourth_axis_and_with_two_b_values_is_refused(tmp_path: Path) -> None:
    image = write_series(tmp_path)
    nibabel.save(nibabel.Nifti1Image(signal(table())[..., 0], AFFINES["right-handed"]), image)
    with pytest.raises(InvalidData, match=r"sub-01_dwi.bval: gradient table: expected 1 b-values.*found 26"):
        read(tmp_path)


def test_volume_counts_that_agree_only_in_sum_are_refused(tmp_path: Path) -> None:
    """One b-value too few in one run and one too many in the next would shift all gradients between them."""
    directions = table()
    for entities, count in (("run-1", 25), ("run-2", 27)):
        image = write_series(tmp_path, entities=entities)
        part = Table(np.resize(directions.bvals, count), np.resize(directions.world, (count, 3)))
        write_gradients(image.parent / f"sub-01_{entities}_dwi", part, AFFINES["right-handed"])
    with pytest.raises(InvalidData, match=r"sub-01_run-1_dwi.bval: .*expected 26 b-values.*found 25"):
        read(tmp_path)


def test_runs_on_different_grids_are_refused_by_name(tmp_path: Path) -> None:
    write_series(tmp_path, entities="run-1")
    image = write_series(tmp_path, entities="run-2", affine=AFFINES["oblique"])
    with pytest.raises(InvalidData) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{image}: grid of this run: expected that of sub-01_run-1_dwi.nii.gz, 8 x 7 x")
    assert caught.value.found.startswith("8 x 7 x 6 voxels of 2 x 2.5 x 3 mm")


@pytest.mark.parametrize("step", [2, 3])
def test_subsampling_takes_every_nth_voxel_at_its_position(tmp_path: Path, step: int) -> None:
    write_series(tmp_path, affine=AFFINES["oblique"])
    write_mask(tmp_path, affine=AFFINES["oblique"])
    complete, part = read(tmp_path), read(tmp_path, subsample=step)
    np.testing.assert_array_equal(part.array, complete.array[::step, ::step, ::step])
    np.testing.assert_allclose(part.affine @ [1, 1, 1, 1], complete.affine @ [step, step, step, 1], atol=1e-5)
    np.testing.assert_allclose(part.world_bvecs, complete.world_bvecs, atol=1e-6)
    mask = mask_of(tmp_path, subsample=step)
    assert mask.same_grid(part.volume)
    np.testing.assert_array_equal(mask.array, head()[::step, ::step, ::step])


def test_the_b0_threshold_comes_from_the_settings(tmp_path: Path) -> None:
    write_series(tmp_path, directions=table((100.0, 1000.0)))
    assert np.count_nonzero(read(tmp_path).b0_mask) == 2
    assert np.count_nonzero(read(tmp_path, b0_threshold=100).b0_mask) == 10


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("shape", [GRID, (*GRID, 1)])
def test_a_mask_of_any_type_is_a_mask(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    write_series(tmp_path)
    path = write_mask(tmp_path)
    nibabel.save(nibabel.Nifti1Image(head().reshape(shape).astype(dtype), AFFINES["right-handed"]), path)
    mask = mask_of(tmp_path)
    assert mask.array.dtype == np.uint8
    np.testing.assert_array_equal(mask.array, head())


@pytest.mark.parametrize(
    ("values", "expected"),
    [(np.zeros(GRID), "at least one voxel inside"), (head() + np.arange(6.0), "0 and 1")],
)
def test_an_invalid_mask_is_refused_by_name(tmp_path: Path, values: NDArray[np.float64], expected: str) -> None:
    write_series(tmp_path)
    path = write_mask(tmp_path)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), AFFINES["right-handed"]), path)
    with pytest.raises(InvalidData) as caught:
        mask_of(tmp_path)
    assert str(caught.value).startswith(f"{path}: brain mask: expected ")
    assert expected in caught.value.expected


def test_the_data_version_of_a_dwi_covers_its_files_and_the_settings_that_they_are_read_under(
    tmp_path: Path,
) -> None:
    """It is written out here because it is in every event log: a change makes all derivatives of all studies stale."""
    write_series(tmp_path, entities="run-1")
    write_series(tmp_path, entities="run-2", extension=".nii", brightness=2)
    folder = tmp_path / "sub-01" / "dwi"
    names = [f"sub-01_{run}_dwi{end}" for run, image in (("run-1", ".nii.gz"), ("run-2", ".nii"))
             for end in (image, ".bval", ".bvec")]  # fmt: skip
    listed = ",".join(f'"{sha256((folder / name).read_bytes())}"' for name in names)
    content = f'{{"b0_threshold":50.0,"factors":[1.0,0.5],"files":[{listed}],"interpolated":false,"subsample":3}}'
    dataset = SourceDataset(SourceSettings(url=str(tmp_path), subsample=3))
    series = dataset.series(SubjectKey("01"))
    assert read_dwi(dataset, series)[1] == scan_dwi(dataset, series).version == sha256(content.encode())


def test_the_data_version_of_a_mask_covers_its_file_and_the_subsampling(tmp_path: Path) -> None:
    write_series(tmp_path)
    path = write_mask(tmp_path)
    dataset = SourceDataset(SourceSettings(url=str(tmp_path), subsample=3))
    content = f'{{"file":"{sha256(path.read_bytes())}","subsample":3}}'
    found = dataset.mask(SubjectKey("01"))
    assert read_mask(dataset, found)[1] == scan_mask(dataset, found).version == sha256(content.encode())


def test_the_data_version_covers_bytes_behind_the_voxels(tmp_path: Path) -> None:
    for extension in (".nii", ".nii.gz"):
        root = tmp_path / extension
        image = write_series(root, extension=extension)
        before = read(root)
        dataset = SourceDataset(SourceSettings(url=str(root)))
        version = read_dwi(dataset, dataset.series(SubjectKey("01")))[1]
        with image.open("ab") as file:
            file.write(bytes(1000))  # zeros may follow a gzip stream
        np.testing.assert_array_equal(read(root).array, before.array)
        series = dataset.series(SubjectKey("01"))
        assert read_dwi(dataset, series)[1] == scan_dwi(dataset, series).version != version


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every DWI series counts as too large for memory."""
    monkeypatch.setattr(streamed, "LARGE", 0)


def as_int16(image: Path, slope: float) -> None:
    stored = nibabel.Nifti1Image(np.rint(signal(table())).astype(np.int16), AFFINES["right-handed"])
    stored.header.set_slope_inter(slope, 0)
    nibabel.save(stored, image)


@pytest.mark.parametrize("step", [1, 2])
def test_a_large_dwi_gives_the_same_values_from_its_files_as_in_memory(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, entities="run-1")
    as_int16(write_series(tmp_path, entities="run-2"), 0.5)
    write_series(tmp_path, entities="run-3", extension=".nii", brightness=2)
    dataset = SourceDataset(SourceSettings(url=str(tmp_path), subsample=step))
    series = dataset.series(SubjectKey("01"))
    in_memory, version = read_dwi(dataset, series)
    monkeypatch.setattr(streamed, "LARGE", 0)
    from_files, same = read_dwi(dataset, series)
    assert isinstance(from_files.volume, StreamedVolume)
    assert same == version
    assert from_files.volume.shape == in_memory.volume.shape
    np.testing.assert_array_equal(from_files.affine, in_memory.affine)
    np.testing.assert_array_equal(from_files.array, in_memory.array)
    np.testing.assert_array_equal(from_files.world_bvecs, in_memory.world_bvecs)
    some = [1, 25, 26, 60, 77]
    for one, other in zip(from_files.images(some), in_memory.images(some), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_dwi_in_memory_is_one_array_in_the_order_of_its_files(tmp_path: Path) -> None:
    for entities in ("run-1", "run-2"):
        write_series(tmp_path, entities=entities)
    dwi = read(tmp_path)
    assert dwi.array.flags.f_contiguous
    assert dwi.array.dtype == np.float32


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("change", ["other values", "truncated", "removed"])
def test_a_large_dwi_that_changes_while_it_is_used_is_an_error(tmp_path: Path, change: str) -> None:
    write_series(tmp_path, entities="run-1")
    image = write_series(tmp_path, entities="run-2")
    dwi = read(tmp_path)
    volumes = dwi.images()
    next(volumes)
    if change == "other values":
        write_series(tmp_path, entities="run-2", brightness=3)
    elif change == "truncated":
        image.write_bytes(image.read_bytes()[:-300])
    else:
        image.unlink()
    for use in (lambda: list(volumes), lambda: dwi.image(40), lambda: dwi.array):
        with pytest.raises(SourceError, match=r"run-2_dwi.nii.gz: was changed or removed after"):
            use()
    np.testing.assert_array_equal(dwi.image(20), signal(table())[..., 20])  # of the run that did not change


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_large_dwi_is_checked_like_any_other(tmp_path: Path, value: float) -> None:
    image = write_series(tmp_path)
    values = signal(table())
    values[3, 3, 3, 20] = value
    nibabel.save(nibabel.Nifti1Image(values, AFFINES["right-handed"]), image)
    with pytest.raises(InvalidData, match=r"sub-01_dwi.nii.gz: .*1 NaN or infinite of"):
        scan(tmp_path)
