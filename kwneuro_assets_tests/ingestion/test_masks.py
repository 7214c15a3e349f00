"""Provided brain masks with any values, in any place."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dagster import DagsterInstance
from numpy.typing import NDArray

from kwneuro_assets.cohort.run import run_subject
from kwneuro_assets.imaging import InvalidData, MapSet, Volume
from kwneuro_assets.ingestion.custom_layout import open_dataset
from kwneuro_assets.ingestion.dataset import SourceDataset
from kwneuro_assets.ingestion.ingest import ingest
from kwneuro_assets.ingestion.masks import brain_of
from kwneuro_assets.ingestion.read_mask import read_mask, scan_mask
from kwneuro_assets.settings import SourceSettings
from kwneuro_assets.storage.store import DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.small_dataset import (
    AFFINES,
    GRID,
    dwi_folder,
    head,
    settings_for,
    write_mask,
    write_series,
)

SUBJECT = SubjectKey("01")
INSIDE = head()


def two(background: float, brain: float) -> NDArray[np.float64]:
    return np.where(INSIDE, float(brain), float(background))


def rounded(background: float, brain: float) -> NDArray[np.float64]:
    """With rounding errors, as from interpolation or a scaled header."""
    return two(background, brain) + np.random.default_rng(0).uniform(0, 1e-6, GRID) * (brain - background)


@pytest.mark.parametrize(
    "values",
    [
        two(0, 255), two(0, 1000), two(1, 2), two(-1, 1), two(-32768, 0), two(-1, 0), two(0, 0.5), two(0.25, 0.75),
        two(np.nan, 1), two(np.nan, 255), two(-np.inf, 1), rounded(0, 1), rounded(0, 255),
    ],
)  # fmt: skip
def test_the_higher_of_two_values_is_brain_and_a_warning_says_so(values: NDArray[np.float64]) -> None:
    brain, warnings = brain_of(values)
    np.testing.assert_array_equal(brain, INSIDE)
    assert brain.dtype == np.uint8
    assert warnings


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_zero_and_one_give_no_warning(dtype: str) -> None:
    brain, warnings = brain_of(INSIDE.astype(dtype))
    np.testing.assert_array_equal(brain, INSIDE)
    assert not warnings


def test_undefined_background_beside_zeros_is_background() -> None:
    values = two(0, 1)
    values[0] = np.nan
    brain, [warning] = brain_of(values)
    np.testing.assert_array_equal(brain, INSIDE)
    assert "42 voxels of the mask are NaN" in warning


def test_a_mask_that_is_brain_everywhere_is_one() -> None:
    for value in (1, 255, 0.5):
        assert brain_of(np.full(GRID, value))[0].all()


@pytest.mark.parametrize("values", [np.zeros(GRID), np.full(GRID, np.nan), np.full(GRID, -1.0), two(np.nan, 0)])
def test_a_mask_without_a_brain_is_refused(values: NDArray[np.float64]) -> None:
    with pytest.raises(InvalidData, match="brain mask: expected at least one voxel inside"):
        brain_of(values)


def test_labels_and_probabilities_are_refused_with_the_setting_to_change() -> None:
    labels = INSIDE * (1.0 + np.arange(GRID[0]) % 6)[:, None, None]
    with pytest.raises(InvalidData, match=r"expected two values.* found 7 values, 0, 1, .* \(source.mask_threshold\)"):
        brain_of(labels)
    with pytest.raises(InvalidData, match=r"probability above which .* \(source.mask_threshold: 0.5\)"):
        brain_of(labels / 6)
    brain, warnings = brain_of(labels / 6, threshold=0.5)
    np.testing.assert_array_equal(brain, labels > 3)
    assert not warnings
    np.testing.assert_array_equal(brain_of(labels, threshold=0)[0], INSIDE)
    with pytest.raises(InvalidData, match=r"none above source.mask_threshold 0.5, the highest is 0.4"):
        brain_of(two(0, 0.4), threshold=0.5)


def write(path: Path, values: NDArray[np.float64] | None = None, affine: NDArray[np.float64] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = INSIDE.astype(float) if values is None else values
    affine = AFFINES["right-handed"] if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_desc-brain_mask.nii.gz", "sub-01_desc-brain_mask.nii", "sub-01_space-T1w_desc-brain_mask.nii.gz",
        "sub-01_acq-64_desc-brain_mask.nii.gz", "sub-01_acq-64_run-01_space-dwi_desc-brain_mask.nii",
        "sub-01_label-brain_mask.nii.gz",
    ],
)  # fmt: skip
def test_a_mask_is_found_whatever_entities_its_name_has(tmp_path: Path, name: str) -> None:
    folder = write_series(tmp_path, entities="acq-64_run-1").parent
    path = write(folder / name)
    assert SourceDataset(SourceSettings(url=str(tmp_path))).mask(SUBJECT) == path


def test_of_several_masks_the_one_that_matches_the_dwi_is_used(tmp_path: Path) -> None:
    folder = write_series(tmp_path, entities="acq-a").parent
    write_series(tmp_path, entities="acq-b")
    paths = {acq: write(folder / f"sub-01_acq-{acq}_desc-brain_mask.nii.gz") for acq in "ab"}
    write(folder / "sub-01_desc-brain_mask.nii.gz")
    write(folder / "sub-01_acq-a_desc-tumor_mask.nii.gz")
    for acq, path in paths.items():
        assert SourceDataset(SourceSettings(url=str(tmp_path), acq=acq)).mask(SUBJECT) == path
    paths["a"].with_name("sub-01_acq-a_space-x_desc-brain_mask.nii.gz").write_bytes(paths["a"].read_bytes())
    with pytest.raises(InvalidData, match=r"found .*acq-a_desc.*, .*acq-a_space-x_desc.*\(source.mask\)"):
        SourceDataset(SourceSettings(url=str(tmp_path), acq="a")).mask(SUBJECT)


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("masks/{subject}.nii.gz", "masks/01.nii.gz"),
        ("masks/sub-{subject}_brain.nii", "masks/sub-01_brain.nii"),
        ("{subject}/anat/*_mask.nii.gz", "sub-01/anat/any_mask.nii.gz"),
        ("derivatives/bet/{subject}/{subject}_m?sk.nii.gz", "derivatives/bet/sub-01/01_mask.nii.gz"),
    ],
)
def test_a_pattern_names_masks_of_any_name(tmp_path: Path, pattern: str, place: str) -> None:
    write_series(tmp_path)
    write_mask(tmp_path)  # overridden by the pattern
    path = write(tmp_path / place)
    write(tmp_path / place.replace("01", "02"))
    dataset = SourceDataset(SourceSettings(url=str(tmp_path), mask=pattern))
    assert dataset.mask(SUBJECT) == path
    with pytest.raises(InvalidData, match=r"brain mask: expected one file .*, found none"):
        dataset.mask(SubjectKey("03"))


def test_the_layout_of_the_uk_biobank_is_read(tmp_path: Path, instance: DagsterInstance) -> None:
    source = tmp_path / "source"
    bids = write_series(tmp_path / "bids").parent
    for place in ("1000015_20250_2_0", "1000015_20250_3_0", "1000027_20250_2_0"):
        folder = source / place / "dMRI" / "dMRI"
        folder.mkdir(parents=True)
        for name, other in (("data_ud.nii.gz", ".nii.gz"), ("bvals", ".bval"), ("bvecs", ".bvec")):
            shutil.copy(bids / f"sub-01_dwi{other}", folder / name)
        write(source / place / "dMRI" / "dMRI.bedpostX" / "nodif_brain_mask.nii.gz", two(0, 255))
    settings = settings_for(
        source,
        source={
            "layout": "{subject}_20250_{session}_0/dMRI/dMRI/data_ud.nii.gz",
            "mask": "{subject}_20250_{session}_0/dMRI/dMRI.bedpostX/nodif_brain_mask.nii.gz",
        },
    )
    report = ingest(instance, settings)
    assert report.added == ["sub-1000015_ses-2", "sub-1000015_ses-3", "sub-1000027_ses-2"]
    assert "not 0 and 1: voxels above 127.5 are brain" in report.warnings["sub-1000027_ses-2"][0]
    results = run_subject(instance, settings, "sub-1000015_ses-3", ["denoised_dwi", "mean_b0", "brain_mask"])
    assert [result.outcome for result in results] == ["materialized"] * 3
    mask, _ = DerivativeStore(tmp_path / "store").read("brain_mask", SubjectKey("1000015", "3"))
    assert isinstance(mask, Volume)
    np.testing.assert_array_equal(mask.array, INSIDE)


def test_a_mask_beside_a_custom_image_may_be_uncompressed_and_its_name_may_have_dots(tmp_path: Path) -> None:
    bids = write_series(tmp_path / "bids").parent
    for name, other in (("a.b.nii.gz", ".nii.gz"), ("a.b.bval", ".bval"), ("a.b.bvec", ".bvec")):
        (tmp_path / "source" / "01").mkdir(parents=True, exist_ok=True)
        shutil.copy(bids / f"sub-01_dwi{other}", tmp_path / "source" / "01" / name)
    path = write(tmp_path / "source" / "01" / "a.b_mask.nii")
    dataset = open_dataset(SourceSettings(url=str(tmp_path / "source"), layout="{subject}/*.*.nii.gz", select="a*"))
    assert dataset.mask(SUBJECT) == path
    assert dataset.series(SUBJECT).runs[0].bval.name == "a.b.bval"


def test_the_threshold_is_part_of_the_data_version(tmp_path: Path) -> None:
    write_series(tmp_path)
    path = write_mask(tmp_path)
    plain = SourceDataset(SourceSettings(url=str(tmp_path)))
    cut = SourceDataset(SourceSettings(url=str(tmp_path), mask_threshold=0.5))
    found = plain.mask(SUBJECT)
    assert found == path
    assert read_mask(plain, found)[1] != read_mask(cut, found)[1] == scan_mask(cut, found).version


def test_a_mask_on_a_rounded_grid_gives_maps_on_the_grid_of_the_dwi(tmp_path: Path, instance: DagsterInstance) -> None:
    source = tmp_path / "source"
    write_series(source, affine=AFFINES["oblique"])
    write(dwi_folder(source, "sub-01") / "sub-01_desc-brain_mask.nii.gz", affine=np.round(AFFINES["oblique"], 2))
    settings = settings_for(source)
    assert ingest(instance, settings).added == ["sub-01"]
    results = run_subject(instance, settings, "sub-01", ["denoised_dwi", "mean_b0", "brain_mask", "dti"])
    assert {result.outcome for result in results} == {"materialized"}
    store = DerivativeStore(tmp_path / "store")
    maps, _ = store.read("dti", SUBJECT)
    mask, _ = store.read("brain_mask", SUBJECT)
    assert isinstance(maps, MapSet)
    assert isinstance(mask, Volume)
    for affine in (maps.affine, mask.affine):
        np.testing.assert_allclose(affine, AFFINES["oblique"], atol=1e-6)
