"""The cohort of synthetic heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kwneuro_assets.demo.heads import write_heads
from kwneuro_assets_tests.demo.conftest import read_dwi, read_truth

VOXEL = 8.0  # mm


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    assert write_heads(folder, 3, VOXEL) == ["sub-01", "sub-02", "sub-03"]
    return folder


def test_the_heads_differ_in_size_shape_and_pose(cohort: Path) -> None:
    sizes = []
    for subject in ("sub-01", "sub-02", "sub-03"):
        mask = read_truth(cohort, "mask", subject)
        assert mask.same_grid(read_dwi(cohort, subject).volume)
        sizes.append(np.count_nonzero(mask.array) * mask.voxel_volume_ml)
    assert len({round(size / 10) for size in sizes}) == 3
    assert 700 < min(sizes) < max(sizes) < 1500  # ml, from a child to an adult


def test_a_subject_is_the_same_in_every_cohort_and_is_not_written_again(cohort: Path, tmp_path: Path) -> None:
    write_heads(tmp_path, 1, VOXEL)
    first = tmp_path / "sub-01/dwi/sub-01_dwi.bval"
    first.write_text("changed by the user")
    write_heads(tmp_path, 2, VOXEL)
    assert first.read_text() == "changed by the user"
    for file in cohort.rglob("*"):
        other = tmp_path / file.relative_to(cohort)
        if file.is_file() and "sub-03" not in file.parts and other != first:
            assert other.read_bytes() == file.read_bytes(), other


def test_a_subject_that_was_interrupted_is_written_again(tmp_path: Path) -> None:
    write_heads(tmp_path, 1, VOXEL)
    last = tmp_path / "truth/sub-01/tract_orientations.json"
    image = tmp_path / "sub-01/dwi/sub-01_dwi.nii.gz"
    before = image.read_bytes()
    last.unlink()
    image.write_bytes(before[:1000])
    write_heads(tmp_path, 1, VOXEL)
    assert image.read_bytes() == before
    assert last.is_file()
