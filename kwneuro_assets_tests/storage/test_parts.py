"""Reading only what is asked: some maps, some volumes, the header alone; and checked as `verify` says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kwneuro_assets
from kwneuro_assets.imaging import Dwi, GradientTable, InvalidData, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.imaging.gradients import format_bvals
from kwneuro_assets.storage import files
from kwneuro_assets.storage import store as store_module
from kwneuro_assets.storage.codecs import Part
from kwneuro_assets.storage.files import Opened
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import Damaged, DerivativeStore, Verify
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets.versioning.content import Value, data_version
from kwneuro_assets_tests.s3_server import S3Bucket
from kwneuro_assets_tests.small_dataset import AFFINES, signal, table

SUBJECT = SubjectKey("01")
FOLDER = "sub-01/dwi/sub-01"
AFFINE = AFFINES["oblique"]
BUNDLES = ("AF_left", "AF_right", "CA", "CST_left")
RANGES = [range(1), range(3, 9), range(2, 11, 4), range(25, 26), range(26)]


def noise(*shape: int) -> Volume:
    return Volume(np.random.default_rng(sum(shape)).random(shape, np.float32), AFFINE)


def values() -> dict[str, Value]:
    directions = table()
    table_ = GradientTable(directions.bvals, directions.world, "world")
    return {
        "denoised_dwi": Dwi(Volume(signal(directions) + 1, AFFINE), table_),
        "brain_mask": noise(5, 6, 7),
        "dti": MapSet({"fa": noise(5, 6, 7), "md": noise(5, 6, 7), "evecs": noise(5, 6, 7, 9)}),
        "tract_masks": Volume((noise(5, 6, 7, 4).array > 0.5), AFFINE, BUNDLES),
        "fiber_response": ResponseFunction(np.array([900.0, -300.0]), 3000.0),
        "noddi": NotApplicable("one shell"),
    }


def put(store: DerivativeStore, asset: str, value: Value) -> None:
    store.write(asset, SUBJECT, value, Provenance("a test's", "1-00000000", data_version(value)))


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts") / "store"
    for asset, value in values().items():
        put(DerivativeStore(root), asset, value)
    return root


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, whole_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of every kind of value, which the environment names."""
    if request.param == "local":
        url = str(shutil.copytree(whole_store, tmp_path / "store"))
    else:
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        url = f"{bucket.url}/study"
        for path in whole_store.rglob("*.*"):
            key = f"study/{path.relative_to(whole_store).as_posix()}"
            bucket.server.client.put_object(Bucket=bucket.name, Key=key, Body=path.read_bytes())
    monkeypatch.setenv("KWNEURO_STORE", url)
    monkeypatch.delenv("KWNEURO_SETTINGS", raising=False)
    return url


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that the store opens from here on."""
    names: list[str] = []

    @contextmanager
    def noted(path: Any) -> Iterator[Opened]:
        names.append(path.name)
        with files.opened(path) as file:
            yield file

    monkeypatch.setattr(store_module, "opened", noted)
    return names


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The key and the range of bytes of every request for an object's content from here on."""
    client = pytest.importorskip("aiobotocore.client").AioBaseClient
    ask, seen = client._make_api_call, []

    async def noted(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        if operation == "GetObject":
            start, _, end = arguments.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            seen.append((arguments["Key"], int(start), int(end or -1) + 1))
        return await ask(self, operation, arguments)

    monkeypatch.setattr(client, "_make_api_call", noted)
    return seen


def test_one_map_is_read_from_its_own_file_and_no_other(url: str, opened: list[str]) -> None:
    whole = values()["dti"]
    assert isinstance(whole, MapSet)
    found = kwneuro_assets.load("dti", "sub-01", maps=["md"])
    assert opened == ["sub-01_model-tensor_param-md_dwimap.nii.gz"]
    assert data_version(found) == data_version(MapSet({"md": whole["md"]}))
    found = kwneuro_assets.load("dti", "sub-01", maps=("evecs", "fa"))
    assert data_version(found) == data_version(MapSet({"evecs": whole["evecs"], "fa": whole["fa"]}))


def test_one_map_of_a_store_on_s3_is_one_request_for_bytes(
    s3_bucket: S3Bucket, fetched: list[tuple[str, int, int]]
) -> None:
    store = DerivativeStore(s3_bucket.url)
    put(store, "dti", values()["dti"])
    fetched.clear()
    store.read("dti", SUBJECT, Part(maps=("md",)))
    images = [key for key, _, _ in fetched if key.endswith(".nii.gz")]
    assert images == [f"{FOLDER}_model-tensor_param-md_dwimap.nii.gz"]


def test_some_volumes_are_the_slice_of_all(url: str) -> None:
    whole = values()["denoised_dwi"]
    assert isinstance(whole, Dwi)
    for volumes in RANGES:
        found = kwneuro_assets.load("denoised_dwi", "sub-01", volumes=volumes)
        assert isinstance(found, Volume)
        assert found.array.dtype == np.float32
        assert np.array_equal(found.array, whole.array[..., volumes.start : volumes.stop : volumes.step])
        assert np.array_equal(found.affine, whole.affine)


def test_some_bundles_keep_their_names(url: str) -> None:
    whole = values()["tract_masks"]
    assert isinstance(whole, Volume)
    found = kwneuro_assets.load("tract_masks", "sub-01", volumes=range(1, 4, 2))
    assert isinstance(found, Volume)
    assert found.names == ("AF_right", "CST_left")
    assert np.array_equal(found.array, whole.array[..., 1:4:2])


WRONG_CHOICES: list[tuple[str, dict[str, Any], str]] = [
    ("dti", {"maps": ["fa", "kurtosis"]}, r"expected some of fa, md, evecs, found kurtosis"),
    ("dti", {"maps": []}, r"expected some of fa, md, evecs, found none"),
    ("dti", {"volumes": range(1)}, r"choice of volumes: expected a 4-D image, found a MapSet"),
    ("brain_mask", {"maps": ["fa"]}, r"choice of maps: expected a set of maps, found a Volume"),
    (
        "brain_mask",
        {"volumes": range(1)},
        r"expected some of a 4-D image, found range\(0, 1\) of shape \(5, 6, 7\)",
    ),
    ("denoised_dwi", {"volumes": range(0)}, r"expected some of a 4-D image, found range\(0, 0\)"),
    ("denoised_dwi", {"volumes": range(25, 27)}, r"found range\(25, 27\) of shape \(8, 7, 6, 26\)"),
    ("denoised_dwi", {"volumes": range(-1, 2)}, r"found range\(-1, 2\)"),
    ("fiber_response", {"volumes": range(1)}, r"expected a 4-D image, found a ResponseFunction"),
]


def test_a_part_that_there_is_not_is_told_with_what_there_is(url: str) -> None:
    for asset, choice, message in WRONG_CHOICES:
        with pytest.raises(InvalidData, match=message):
            kwneuro_assets.load(asset, "sub-01", **choice)


def test_a_part_of_what_does_not_exist_for_a_subject_is_the_reason(url: str) -> None:
    """A loop over subjects meets it as it would with the whole."""
    assert kwneuro_assets.load("noddi", "sub-01", maps=["ndi"]) == NotApplicable("one shell")
    assert kwneuro_assets.load("noddi", "sub-01", volumes=range(1)) == NotApplicable("one shell")


def test_the_grid_is_that_of_the_image(url: str) -> None:
    for asset in ("denoised_dwi", "brain_mask", "dti", "tract_masks"):
        shape, affine = kwneuro_assets.grid(asset, "sub-01")
        whole = values()[asset]
        image = whole["fa"] if isinstance(whole, MapSet) else whole
        assert isinstance(image, Dwi | Volume)
        assert shape == image.array.shape
        assert np.array_equal(affine, image.affine)
    for asset in ("fiber_response", "noddi"):
        with pytest.raises(InvalidData, match="grid: expected an image, found a"):
            kwneuro_assets.grid(asset, "sub-01")


def test_the_grid_of_a_large_object_costs_its_first_bytes(
    s3_bucket: S3Bucket, fetched: list[tuple[str, int, int]]
) -> None:
    """16 MB of numbers that do not compress; the header is in the first few hundred bytes."""
    image = noise(100, 100, 100, 4)
    store = DerivativeStore(s3_bucket.url)
    put(store, "tract_orientations", image)
    fetched.clear()
    assert store.grid("tract_orientations", SUBJECT)[0] == image.shape
    spans = [end - start for key, start, end in fetched if key.endswith(".nii.gz")]
    assert sum(spans) <= files.FIRST_BLOCK


@pytest.fixture
def spoiled(url: str, request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Turns over one bit of a file: of the byte at this place, from the end where it is negative."""

    def spoil(name: str, at: int) -> None:
        if not url.startswith("s3"):
            path = Path(url, f"{FOLDER}{name}")
            path.write_bytes(changed(path.read_bytes(), at))
            return
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        key = f"study/{FOLDER}{name}"
        bucket.server.client.put_object(Bucket=bucket.name, Key=key, Body=changed(bucket.contents()[key], at))

    return spoil


def changed(content: bytes, at: int) -> bytes:
    whole = bytearray(content)
    whole[at] ^= 1
    return bytes(whole)


IMAGE = "_desc-denoised_dwi.nii.gz"
BVAL = format_bvals(GradientTable(table().bvals, table().world, "world")).encode()
FIRST = Part(volumes=range(1))


def test_a_flip_behind_the_volumes_that_are_asked_for_is_found(url: str, spoiled: Callable[[str, int], None]) -> None:
    store = DerivativeStore(url)
    store.read("denoised_dwi", SUBJECT, FIRST)
    spoiled(IMAGE, -100)
    with pytest.raises(Damaged, match=f"{FOLDER}{IMAGE}: expected .* with sha256"):
        store.read("denoised_dwi", SUBJECT, FIRST)


def test_maps_that_are_not_asked_for_may_be_damaged(url: str, spoiled: Callable[[str, int], None]) -> None:
    spoiled("_model-tensor_param-fa_dwimap.nii.gz", 50)
    store = DerivativeStore(url)
    assert isinstance(store.read("dti", SUBJECT, Part(maps=("md",)))[0], MapSet)
    with pytest.raises(Damaged, match="param-fa_dwimap"):
        store.read("dti", SUBJECT)


@pytest.mark.parametrize("verify", ["always", "first", "never"])
def test_a_file_is_compared_with_its_checksum_as_often_as_is_said(
    url: str, spoiled: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    """A digit of a b-value is changed, which nothing but a checksum can tell."""
    monkeypatch.setattr(store_module, "_verified", set())
    store = DerivativeStore(url, verify=verify)
    if verify == "first":  # by another store of the same process: what it has verified counts
        DerivativeStore(url, verify=verify).read("denoised_dwi", SUBJECT)
    spoiled("_desc-denoised_dwi.bval", BVAL.index(b"700") + 2)
    if verify == "always":
        with pytest.raises(Damaged, match=r"dwi\.bval: expected"):
            store.read("denoised_dwi", SUBJECT)
    else:
        found, _ = store.read("denoised_dwi", SUBJECT)
        assert isinstance(found, Dwi)
        assert found.bvals[2] == 701
    with pytest.raises(Damaged, match=r"dwi\.bval: expected"):
        store.check("denoised_dwi", SUBJECT)


def test_first_means_that_the_first_reading_compares(
    url: str, spoiled: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_verified", set())
    spoiled(IMAGE, -100)
    for _ in range(2):  # what was found damaged is looked at again
        with pytest.raises(Damaged):
            DerivativeStore(url, verify="first").read("denoised_dwi", SUBJECT, FIRST)


def test_first_compares_a_file_anew_when_another_was_stored(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_verified", set())
    store = DerivativeStore(url, verify="first")
    store.read("brain_mask", SUBJECT)
    put(store, "brain_mask", noise(5, 6, 8))
    known = len(store_module._verified)
    assert data_version(store.read("brain_mask", SUBJECT)[0]) == data_version(noise(5, 6, 8))
    assert len(store_module._verified) == known + 1


@pytest.mark.parametrize("verify", ["always", "first", "never"])
def test_a_file_of_another_size_is_found_whatever_is_said(
    url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    monkeypatch.setattr(store_module, "_verified", set())
    store = DerivativeStore(url, verify=verify)
    store.read("brain_mask", SUBJECT)
    name = f"{FOLDER}_desc-brain_mask.nii.gz"
    path = store.root / name
    path.fs.pipe_file(path.path, path.fs.cat_file(path.path) + b"\0")
    with pytest.raises(Damaged, match=rf"{name}: expected \d+ bytes with sha256 \w+\.\.\., found \d+ bytes\. Make"):
        store.read("brain_mask", SUBJECT)
    with pytest.raises(Damaged, match=name):
        store.grid("brain_mask", SUBJECT)
