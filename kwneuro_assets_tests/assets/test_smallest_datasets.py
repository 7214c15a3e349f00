"""The smallest usable datasets can be processed: a single slice, one voxel in the mask, fifteen volumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dagster import DagsterInstance

from kwneuro_assets.imaging import Dwi, MapSet, Volume
from kwneuro_assets.imaging.streamed import LARGE
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, Table, dwi_folder, table, to_fsl, write_dataset
from kwneuro_assets_tests.versioning.lab import CHEAP, Lab

KEY = "sub-01"
AFFINE = AFFINES["right-handed"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    write_dataset(tmp_path / "source", [KEY])
    with DagsterInstance.ephemeral() as instance:
        yield Lab(tmp_path, instance, KEY, {"denoising": {"method": "patch2self", "min_ratio": 1}})


def write_noisy_head(
    lab: Lab, shape: tuple[int, int, int], directions: Table, inside: tuple[slice, slice, slice]
) -> None:
    """A DWI of a head with isotropic decay and noise, surrounded by air, and a mask of the voxels `inside`."""
    rng = np.random.default_rng(0)
    head = np.zeros(shape, np.float32)
    head[tuple(slice(1, -1) if size > 2 else slice(None) for size in shape)] = 1000
    decay = np.exp(-directions.bvals * 0.8e-3) * rng.uniform(0.8, 1.2, (*shape, 1))
    values = np.abs(head[..., None] * decay + rng.normal(0, 10, (*shape, len(directions.bvals)))).astype(np.float32)
    mask = np.zeros(shape, np.uint8)
    mask[inside] = 1
    folder = dwi_folder(lab.root / "source", KEY)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), folder / f"{KEY}_dwi.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask, AFFINE), folder / f"{KEY}_desc-brain_mask.nii.gz")
    np.savetxt(folder / f"{KEY}_dwi.bval", directions.bvals[None], fmt="%g")
    np.savetxt(folder / f"{KEY}_dwi.bvec", to_fsl(directions.world, AFFINE).T, fmt="%.8f")


INTERIOR = (slice(1, -1), slice(1, -1), slice(None))
ONE_VOXEL = (slice(3, 4), slice(3, 4), slice(2, 3))
SMALLEST: dict[str, tuple[tuple[int, int, int], Table, tuple[slice, slice, slice]]] = {
    "a single slice": ((20, 18, 1), table(), INTERIOR),
    "one voxel in the mask": ((8, 7, 6), table(), ONE_VOXEL),
    "fifteen volumes": ((8, 7, 6), table((1000.0,), directions=14, b0=1), INTERIOR),
}


@pytest.mark.parametrize("is_streamed", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize(("shape", "directions", "inside"), SMALLEST.values(), ids=list(SMALLEST))
def test_all_derivatives_of_a_minimal_dataset_are_finite(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    directions: Table,
    inside: tuple[slice, slice, slice],
    is_streamed: bool,
) -> None:
    monkeypatch.setattr("kwneuro_assets.imaging.streamed.LARGE", 0 if is_streamed else LARGE)
    write_noisy_head(lab, shape, directions, inside)
    assert {asset: result.outcome for asset, result in lab.run().items()} == dict.fromkeys(CHEAP, "materialized")
    denoised, mask, maps = (
        lab.store.read(asset, SubjectKey.parse(KEY))[0] for asset in ("denoised_dwi", "brain_mask", "dti")
    )
    assert isinstance(denoised, Dwi)
    assert isinstance(mask, Volume)
    assert isinstance(maps, MapSet)
    assert np.isfinite(denoised.array).all()
    within = mask.array > 0
    assert (maps["md"].array[within] > 0).all()
    np.testing.assert_allclose(np.median(maps["md"].array[within]), 0.8e-3, rtol=0.25)
    assert not maps["md"].array[~within].any()
