"""A DWI series in a scratch file reads back bit for bit, and leaves no file behind."""

from __future__ import annotations

import gc
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kwneuro_assets.imaging import StreamedVolume
from kwneuro_assets.imaging.scratch import ScratchError, ScratchSeries

GRID = (9, 8, 7)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def noise(volumes: int = 5) -> NDArray[np.float32]:
    return np.asfortranarray(np.random.default_rng(1).normal(size=(*GRID, volumes)).astype(np.float32))


def written(array: NDArray[np.float32], *cuts: int) -> StreamedVolume:
    scratch = ScratchSeries()
    for slab in np.split(array, cuts, axis=2):
        scratch.add(slab)
    return scratch.volume(GRID, np.eye(4))


@pytest.mark.parametrize("cuts", [(), (3,), (1, 2, 6)])
@pytest.mark.parametrize("threads", ["1", "3"])
def test_slabs_read_back_as_volumes(
    folder: Path, cuts: tuple[int, ...], threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", threads)
    array = noise()
    volume = written(array, *cuts)
    assert volume.shape == array.shape
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_array_equal(next(volume.volumes([3])), array[..., 3])
    # Two concurrent readers are independent.
    for one, two, index in zip(volume.volumes(), volume.volumes(), range(5), strict=True):
        np.testing.assert_array_equal(one, array[..., index])
        np.testing.assert_array_equal(two, array[..., index])


def test_volumes_written_one_by_one_read_back(folder: Path) -> None:
    scratch = ScratchSeries()
    for index in range(5):
        scratch.append(noise()[..., index])
    np.testing.assert_array_equal(scratch.volume(GRID, np.eye(4)).array, noise())


def descriptors() -> set[str]:
    return {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc")
def test_the_file_is_unnamed_and_deleted_with_the_volume(folder: Path) -> None:
    volume = written(noise())
    assert list(folder.iterdir()) == []
    assert any(str(folder) in one for one in descriptors())
    reader = volume.volumes()
    next(reader)
    del volume, reader
    gc.collect()
    assert not any(str(folder) in one for one in descriptors())


@contextmanager
def full_disk() -> Iterator[None]:
    """Limits the size of files, which has the effect of a full disk.

    The limit holds for everything that the process writes, including the report of the test: use it around one
    statement only.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_error_of_a_full_disk_names_the_folder_and_the_remedy(folder: Path) -> None:
    message = rf"{folder}: .*set the environment variable TMPDIR to a folder with space"
    with pytest.raises(ScratchError, match=message), full_disk():
        written(noise(50))
