"""A subject's files as values: frames, runs, subsampling, masks."""

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
from kwneuro_assets.ingestion.read import look_at_dwi, look_at_mask, read_dwi, read_mask
from kwneuro_assets.ingestion.tree import SourceError
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.small_dataset import (
    AFFINES,
    FA,
    FIBRE,
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


def mask_of(root: Path, **source: object) -> Volume:
    dataset = SourceDataset(SourceSettings(url=str(root), **source))
    return read_mask(dataset, dataset.mask(SubjectKey("01")))[0]


@pytest.mark.parametrize("affine", AFFINES.values(), ids=list(AFFINES))
def test_a_fibre_is_found_along_its_world_direction_however_the_voxels_lie(
    tmp_path: Path, affine: NDArray[np.float64]
) -> None:
    write_series(tmp_path, affine=affine)
    write_mask(tmp_path, affine=affine)
    dwi, mask = read(tmp_path), mask_of(tmp_path)
    maps = fit_tensor(dwi, mask, max_bvalue=3000)
    assert isinstance(maps, MapSet)
    first = maps["evecs"].array[head()][:, :3]
    # Noise-free, one tensor: what is left is the rounding of float32 voxels and of eight digits in the bvec.
    np.testing.assert_allclose(np.abs(first @ FIBRE), 1, atol=1e-6)
    np.testing.assert_allclose(maps["fa"].array[head()], FA, atol=1e-5)


def test_a_series_is_what_lies_in_its_files(tmp_path: Path) -> None:
    write_series(tmp_path)
    dwi = read(tmp_path)
    np.testing.assert_array_equal(dwi.array, signal(table()))
    np.testing.assert_array_equal(dwi.bvals, table().bvals)
    assert not dwi.interpolated
    write_series(tmp_path, entities="desc-preproc")
    assert read(tmp_path).interpolated


def test_runs_are_joined_by_number_with_their_own_gradients(tmp_path: Path) -> None:
    shells = {"run-10": (3000.0,), "run-2": (2000.0,), "run-1": (1000.0,)}
    for number, (entities, one) in enumerate(shells.items()):
        write_series(tmp_path, entities=entities, directions=table(one), brightness=number + 1)
    dwi = read(tmp_path)
    np.testing.assert_array_equal(
        dwi.bvals, np.concatenate([table((1000,)).bvals, table((2000,)).bvals, table((3000,)).bvals])
    )
    np.testing.assert_array_equal(dwi.array[..., 0], signal(table((1000,)))[..., 0] * 3)
    np.testing.assert_array_equal(dwi.array[..., 10], signal(table((1000,)))[..., 0] * 2)
    np.testing.assert_allclose(dwi.world_bvecs[12:20], table((2000,)).world[2:], atol=1e-6)


@pytest.mark.parametrize(("whole", "single"), [("run-1", "run-2"), ("run-2", "run-1")], ids=["last", "first"])
def test_a_run_of_a_single_volume_is_joined_like_any_other(tmp_path: Path, whole: str, single: str) -> None:
    """The separate b=0 that many protocols begin or end with."""
    write_series(tmp_path, entities=whole)
    write_series(tmp_path, entities=single, directions=table((), directions=0, b0=1))
    dwi = read(tmp_path)
    assert dwi.volume.shape == (*GRID, len(table().bvals) + 1)
    assert np.count_nonzero(dwi.b0_mask) == 3


def test_a_run_without_a_fourth_axis_is_refused_by_name(tmp_path: Path) -> None:
    write_series(tmp_path, entities="run-1")
    image = write_series(tmp_path, entities="run-2", directions=table((), directions=0, b0=1))
    nibabel.save(nibabel.Nifti1Image(signal(table())[..., 0], AFFINES["right-handed"]), image)
    with pytest.raises(InvalidData, match=r"sub-01_run-2_dwi.nii.gz: .*expected 4 dimensions, found shape \(8, 7, 6\)"):
        read(tmp_path)


def test_counts_that_agree_only_in_sum_are_refused(tmp_path: Path) -> None:
    """One b-value too few in one run and one too many in the next would shift every gradient between them."""
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
def test_subsampling_keeps_every_nth_voxel_in_its_place(tmp_path: Path, step: int) -> None:
    write_series(tmp_path, affine=AFFINES["oblique"])
    write_mask(tmp_path, affine=AFFINES["oblique"])
    whole, part = read(tmp_path), read(tmp_path, subsample=step)
    np.testing.assert_array_equal(part.array, whole.array[::step, ::step, ::step])
    np.testing.assert_allclose(part.affine @ [1, 1, 1, 1], whole.affine @ [step, step, step, 1], atol=1e-5)
    np.testing.assert_allclose(part.world_bvecs, whole.world_bvecs, atol=1e-6)
    mask = mask_of(tmp_path, subsample=step)
    assert mask.same_grid(part.volume)
    np.testing.assert_array_equal(mask.array, head()[::step, ::step, ::step])


def test_the_threshold_of_b0_is_that_of_the_settings(tmp_path: Path) -> None:
    write_series(tmp_path, directions=table((100.0, 1000.0)))
    assert np.count_nonzero(read(tmp_path).b0_mask) == 2
    assert np.count_nonzero(read(tmp_path, b0_threshold=100).b0_mask) == 10


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("shape", [GRID, (*GRID, 1)])
def test_a_mask_of_any_type_is_a_mask(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    path = write_mask(tmp_path)
    nibabel.save(nibabel.Nifti1Image(head().reshape(shape).astype(dtype), AFFINES["right-handed"]), path)
    mask = mask_of(tmp_path)
    assert mask.array.dtype == np.uint8
    np.testing.assert_array_equal(mask.array, head())


@pytest.mark.parametrize(
    ("values", "expected"),
    [(np.zeros(GRID), "at least one voxel inside"), (head() * 2.0, "the values 0 and 1"), (head() * 0.5, "0 and 1")],
)
def test_a_mask_that_is_none_is_refused_by_name(tmp_path: Path, values: NDArray[np.float64], expected: str) -> None:
    path = write_mask(tmp_path)
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), AFFINES["right-handed"]), path)
    with pytest.raises(InvalidData) as caught:
        mask_of(tmp_path)
    assert str(caught.value).startswith(f"{path}: brain mask: expected ")
    assert expected in caught.value.expected


def test_the_data_version_of_a_series_is_that_of_its_files_bytes_and_of_what_decides_what_is_read(
    tmp_path: Path,
) -> None:
    """Written out, for it is in every event log: made otherwise, every derivative of every study would be stale."""
    write_series(tmp_path, entities="run-1")
    write_series(tmp_path, entities="run-2", extension=".nii", brightness=2)
    folder = tmp_path / "sub-01" / "dwi"
    names = [f"sub-01_{run}_dwi{end}" for run, image in (("run-1", ".nii.gz"), ("run-2", ".nii"))
             for end in (image, ".bval", ".bvec")]  # fmt: skip
    listed = ",".join(f'"{sha256((folder / name).read_bytes())}"' for name in names)
    told = f'{{"b0_threshold":50.0,"files":[{listed}],"interpolated":false,"subsample":3}}'
    dataset = SourceDataset(SourceSettings(url=str(tmp_path), subsample=3))
    series = dataset.series(SubjectKey("01"))
    assert read_dwi(dataset, series)[1] == look_at_dwi(dataset, series).version == sha256(told.encode())


def test_the_data_version_of_a_mask_is_that_of_its_bytes_and_of_the_subsampling(tmp_path: Path) -> None:
    path = write_mask(tmp_path)
    dataset = SourceDataset(SourceSettings(url=str(tmp_path), subsample=3))
    told = f'{{"file":"{sha256(path.read_bytes())}","subsample":3}}'
    found = dataset.mask(SubjectKey("01"))
    assert read_mask(dataset, found)[1] == look_at_mask(dataset, found)[1] == sha256(told.encode())


def test_bytes_behind_the_image_count_though_no_voxel_is_made_of_them(tmp_path: Path) -> None:
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
        assert read_dwi(dataset, series)[1] == look_at_dwi(dataset, series).version != version


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read counts as too large for memory."""
    monkeypatch.setattr(streamed, "LARGE", 0)


def as_int16(image: Path, slope: float) -> None:
    held = nibabel.Nifti1Image(np.rint(signal(table())).astype(np.int16), AFFINES["right-handed"])
    held.header.set_slope_inter(slope, 0)
    nibabel.save(held, image)


@pytest.mark.parametrize("step", [1, 2])
def test_a_large_series_gives_the_same_from_its_files_as_in_memory(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, entities="run-1")
    as_int16(write_series(tmp_path, entities="run-2"), 0.5)
    write_series(tmp_path, entities="run-3", extension=".nii", brightness=2)
    dataset = SourceDataset(SourceSettings(url=str(tmp_path), subsample=step))
    series = dataset.series(SubjectKey("01"))
    whole, version = read_dwi(dataset, series)
    monkeypatch.setattr(streamed, "LARGE", 0)
    apart, same = read_dwi(dataset, series)
    assert isinstance(apart.volume, StreamedVolume)
    assert same == version
    assert apart.volume.shape == whole.volume.shape
    np.testing.assert_array_equal(apart.affine, whole.affine)
    np.testing.assert_array_equal(apart.array, whole.array)
    np.testing.assert_array_equal(apart.world_bvecs, whole.world_bvecs)
    some = [1, 25, 26, 60, 77]
    for one, other in zip(apart.images(some), whole.images(some), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_series_in_memory_lies_there_once_and_in_the_order_of_its_files(tmp_path: Path) -> None:
    for entities in ("run-1", "run-2"):
        write_series(tmp_path, entities=entities)
    dwi = read(tmp_path)
    assert dwi.array.flags.f_contiguous
    assert dwi.array.dtype == np.float32


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("spoil", ["other values", "cut short", "gone"])
def test_a_large_series_that_changes_while_it_is_used_says_so(tmp_path: Path, spoil: str) -> None:
    write_series(tmp_path, entities="run-1")
    image = write_series(tmp_path, entities="run-2")
    dwi = read(tmp_path)
    taken = dwi.images()
    next(taken)
    if spoil == "other values":
        write_series(tmp_path, entities="run-2", brightness=3)
    elif spoil == "cut short":
        image.write_bytes(image.read_bytes()[:-300])
    else:
        image.unlink()
    for use in (lambda: list(taken), lambda: dwi.image(40), lambda: dwi.array):
        with pytest.raises(SourceError, match=r"run-2_dwi.nii.gz: has changed, or is gone, since"):
            use()
    np.testing.assert_array_equal(dwi.image(20), signal(table())[..., 20])  # of the run that is as it was


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("worst", [np.nan, np.inf])
def test_a_large_series_is_checked_as_any_other(tmp_path: Path, worst: float) -> None:
    image = write_series(tmp_path)
    values = signal(table())
    values[3, 3, 3, 20] = worst
    nibabel.save(nibabel.Nifti1Image(values, AFFINES["right-handed"]), image)
    with pytest.raises(InvalidData, match=r"sub-01_dwi.nii.gz: .*1 NaN or infinite of"):
        read(tmp_path)
