"""A series that is too large for memory: stored and read as a stream, and the whole chain made of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dagster import DagsterInstance

import kwneuro_assets
from kwneuro_assets.imaging import Dwi, GradientTable, StreamedVolume, Volume, streamed
from kwneuro_assets.storage.codecs import Part
from kwneuro_assets.storage.io_manager import DerivativeIOManager
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import Damaged, DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.content import data_version
from kwneuro_assets_tests.s3_server import S3Bucket
from kwneuro_assets_tests.small_dataset import AFFINES, signal, table, write_dataset
from kwneuro_assets_tests.versioning.lab import Lab

SUBJECT = SubjectKey("01")
IMAGE = "sub-01/dwi/sub-01_desc-denoised_dwi.nii.gz"


def series(brightness: float = 1) -> Dwi:
    array = signal(table()) * np.float32(brightness) + np.random.default_rng(0).random((8, 7, 6, 26), np.float32)
    return Dwi(Volume(array, AFFINES["oblique"]), GradientTable(table().bvals, table().world, "world"))


def put(store: DerivativeStore, value: Dwi) -> None:
    store.write("denoised_dwi", SUBJECT, value, Provenance("a test's", "1-00000000", data_version(value)))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> DerivativeStore:
    """With a series in it."""
    if request.param == "local":
        store = DerivativeStore(tmp_path / "store")
    else:
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        store = DerivativeStore(f"{bucket.url}/study")
    put(store, series())
    return store


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "LARGE", 0)


def read(store: DerivativeStore) -> Dwi:
    value, _ = store.read("denoised_dwi", SUBJECT)
    assert isinstance(value, Dwi)
    return value


@pytest.mark.usefixtures("large")
def test_a_large_series_comes_as_a_stream_of_the_same_volumes(store: DerivativeStore) -> None:
    found = read(store)
    assert isinstance(found.volume, StreamedVolume)
    assert data_version(found) == data_version(series())
    np.testing.assert_array_equal(found.array, series().array)
    np.testing.assert_array_equal(found.image(9), series().array[..., 9])
    part, _ = store.read("denoised_dwi", SUBJECT, Part(volumes=range(3, 5)))
    assert isinstance(part, Volume)


def test_streamed_and_in_memory_a_series_becomes_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = DerivativeStore(tmp_path / "one"), DerivativeStore(tmp_path / "other")
    put(one, series())
    with monkeypatch.context() as patch:
        patch.setattr(streamed, "LARGE", 0)
        put(other, read(one))
    assert (other.root / IMAGE).read_bytes() == (one.root / IMAGE).read_bytes()


@pytest.mark.usefixtures("large")
def test_a_large_series_that_is_damaged_is_refused_before_it_is_used(store: DerivativeStore) -> None:
    path = store.root / IMAGE
    content = bytearray(path.fs.cat_file(path.path))
    content[-6] ^= 1
    path.fs.pipe_file(path.path, bytes(content))
    with pytest.raises(Damaged, match="with sha256"):
        read(store)


@pytest.mark.usefixtures("large")
def test_a_large_series_that_is_replaced_while_it_is_used_says_so(store: DerivativeStore) -> None:
    found = read(store)
    put(store, series(2))
    with pytest.raises(Damaged, match=r"has changed, or is gone, .* Make it with: kwneuro-assets run"):
        list(found.images())
    found = read(store)
    store.remove("denoised_dwi", SUBJECT)
    with pytest.raises(Damaged, match="denoised_dwi"):
        found.image(0)


@pytest.mark.usefixtures("large")
def test_python_gets_the_array_of_a_large_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(DerivativeStore(tmp_path), series())
    monkeypatch.setenv("KWNEURO_STORE", str(tmp_path))
    monkeypatch.delenv("KWNEURO_SETTINGS", raising=False)
    loaded = kwneuro_assets.load("denoised_dwi", "sub-01")
    assert isinstance(loaded, Dwi)
    np.testing.assert_array_equal(loaded.array, series().array)


def test_a_stream_is_kept_for_later_steps_whatever_the_cache_holds() -> None:
    whole = series()
    apart = Dwi(
        StreamedVolume(whole.volume.shape, whole.affine, lambda _: iter([whole.array[..., 0]])), whole.gradients
    )
    manager = DerivativeIOManager(url="unused", cache_gb=1.5 * whole.array.nbytes / 1e9)
    manager._keep("denoised_dwi", SUBJECT, "streamed", apart)
    for version in ("first", "second", "third"):
        manager._keep("denoised_dwi", SUBJECT, version, whole)
    assert [version for *_, version in manager._kept] == ["streamed", "third"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    write_dataset(tmp_path / "source")
    with DagsterInstance.ephemeral() as instance:
        yield Lab(tmp_path, instance, "sub-01", {"denoising": {"method": "patch2self", "minimum_ratio": 1}})


ALL = ("denoised_dwi", "mean_b0", "brain_mask", "dti", "noddi", "fiber_response", "csd_peaks")


@pytest.mark.slow
def test_the_whole_chain_gives_the_same_of_a_stream_to_the_byte(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {asset: result.outcome for asset, result in lab.run(ALL).items()}
    files = lab.files()
    shutil.rmtree(lab.store.root)
    # Two slices of the six at a time.
    monkeypatch.setattr(streamed, "LARGE", 2 * 8 * 7 * 26 * 4)
    monkeypatch.setattr(Dwi, "array", property(lambda self: pytest.fail("the series was read whole")))
    after = {asset: result.outcome for asset, result in lab.run(ALL, force=True).items()}
    assert after == before
    assert before["denoised_dwi"] == before["dti"] == "made"
    again = lab.files()
    assert again.keys() == files.keys()
    assert [name for name in files if again[name] != files[name]] == []
    # In a run of its own each step reads the store.
    assert {result.outcome for result in lab.run(("dti", "mean_b0"), force=True).values()} == {"made"}
    assert [name for name in files if lab.files()[name] != files[name]] == []
