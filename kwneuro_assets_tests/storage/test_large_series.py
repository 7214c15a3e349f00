"""A DWI series that is too large for memory: stored and read as a stream, and all derivatives computed from it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dagster import DagsterInstance

import kwneuro_assets
from kwneuro_assets.imaging import Dwi, GradientTable, StreamedVolume, Volume, streamed
from kwneuro_assets.imaging.content_hash import data_version
from kwneuro_assets.resources.derivative_io_manager import DerivativeIOManager
from kwneuro_assets.storage.codecs import Part
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import Damaged, DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.s3_server import S3Bucket
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, signal, table, write_dataset
from kwneuro_assets_tests.versioning.lab import Lab

SUBJECT = SubjectKey("01")
IMAGE = "sub-01/dwi/sub-01_desc-denoised_dwi.nii.gz"


def dwi(brightness: float = 1) -> Dwi:
    array = signal(table()) * np.float32(brightness) + np.random.default_rng(0).random((8, 7, 6, 26), np.float32)
    return Dwi(Volume(array, AFFINES["oblique"]), GradientTable(table().bvals, table().world, "world"))


def put(store: DerivativeStore, value: Dwi) -> None:
    store.write("denoised_dwi", SUBJECT, value, Provenance("a test's", "1-00000000", data_version(value)))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> DerivativeStore:
    """A store with a DWI series."""
    if request.param == "local":
        store = DerivativeStore(tmp_path / "store")
    else:
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        store = DerivativeStore(f"{bucket.url}/study")
    put(store, dwi())
    return store


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "LARGE", 0)


def read(store: DerivativeStore) -> Dwi:
    value, _ = store.read("denoised_dwi", SUBJECT)
    assert isinstance(value, Dwi)
    return value


@pytest.mark.usefixtures("large")
def test_a_large_series_is_read_as_a_stream_of_the_same_volumes(store: DerivativeStore) -> None:
    found = read(store)
    assert isinstance(found.volume, StreamedVolume)
    assert data_version(found) == data_version(dwi())
    np.testing.assert_array_equal(found.array, dwi().array)
    np.testing.assert_array_equal(found.image(9), dwi().array[..., 9])
    part, _ = store.read("denoised_dwi", SUBJECT, Part(volumes=range(3, 5)))
    assert isinstance(part, Volume)


def test_a_series_gives_the_same_file_streamed_or_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = DerivativeStore(tmp_path / "one"), DerivativeStore(tmp_path / "other")
    put(one, dwi())
    with monkeypatch.context() as patch:
        patch.setattr(streamed, "LARGE", 0)
        put(other, read(one))
    assert (other.root / IMAGE).read_bytes() == (one.root / IMAGE).read_bytes()


@pytest.mark.usefixtures("large")
def test_a_damaged_large_series_is_refused_before_it_is_used(store: DerivativeStore) -> None:
    path = store.root / IMAGE
    content = bytearray(path.fs.cat_file(path.path))
    content[-6] ^= 1
    path.fs.pipe_file(path.path, bytes(content))
    with pytest.raises(Damaged, match="with sha256"):
        read(store)


@pytest.mark.usefixtures("large")
def test_a_large_series_that_is_replaced_while_it_is_used_is_an_error(store: DerivativeStore) -> None:
    found = read(store)
    put(store, dwi(2))
    with pytest.raises(Damaged, match=r"was changed or removed .* Materialize it with: kwneuro-assets run"):
        list(found.images())
    found = read(store)
    store.remove("denoised_dwi", SUBJECT)
    with pytest.raises(Damaged, match="denoised_dwi"):
        found.image(0)


@pytest.mark.usefixtures("large")
def test_the_python_api_gives_the_array_of_a_large_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(DerivativeStore(tmp_path), dwi())
    monkeypatch.setenv("KWNEURO_STORE", str(tmp_path))
    monkeypatch.delenv("KWNEURO_SETTINGS", raising=False)
    loaded = kwneuro_assets.load("denoised_dwi", "sub-01")
    assert isinstance(loaded, Dwi)
    np.testing.assert_array_equal(loaded.array, dwi().array)


def test_a_stream_is_cached_for_later_steps_regardless_of_the_cache_size() -> None:
    in_memory = dwi()
    streaming = Dwi(
        StreamedVolume(in_memory.volume.shape, in_memory.affine, lambda _: iter([in_memory.array[..., 0]])),
        in_memory.gradients,
    )
    manager = DerivativeIOManager(url="unused", cache_gb=1.5 * in_memory.array.nbytes / 1e9)
    manager._add_to_cache("denoised_dwi", SUBJECT, "streamed", streaming)
    for version in ("first", "second", "third"):
        manager._add_to_cache("denoised_dwi", SUBJECT, version, in_memory)
    assert [version for *_, version in manager._cache] == ["streamed", "third"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    write_dataset(tmp_path / "source")
    with DagsterInstance.ephemeral() as instance:
        yield Lab(tmp_path, instance, "sub-01", {"denoising": {"method": "patch2self", "min_ratio": 1}})


ALL = ("denoised_dwi", "mean_b0", "brain_mask", "dti", "noddi", "fiber_response", "csd_peaks")


@pytest.mark.slow
def test_a_streamed_series_gives_the_same_derivatives_to_the_byte(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {asset: result.outcome for asset, result in lab.run(ALL).items()}
    files = lab.files()
    shutil.rmtree(lab.store.root)
    # Two of the six slices at a time.
    monkeypatch.setattr(streamed, "LARGE", 2 * 8 * 7 * 26 * 4)
    monkeypatch.setattr(Dwi, "array", property(lambda self: pytest.fail("the complete series was read into memory")))
    after = {asset: result.outcome for asset, result in lab.run(ALL, force=True).items()}
    assert after == before
    assert before["denoised_dwi"] == before["dti"] == "materialized"
    streamed_files = lab.files()
    assert streamed_files.keys() == files.keys()
    assert [name for name in files if streamed_files[name] != files[name]] == []
    # In a separate run, the steps read their inputs from the store.
    assert {result.outcome for result in lab.run(("dti", "mean_b0"), force=True).values()} == {"materialized"}
    assert [name for name in files if lab.files()[name] != files[name]] == []
