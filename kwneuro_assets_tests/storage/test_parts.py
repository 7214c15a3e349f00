"""Read parts of a value: some maps, some volumes, the header alone; verified as `verify` says."""

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
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.imaging.gradients import format_bvals
from kwneuro_assets.storage import checked_files, files
from kwneuro_assets.storage.codecs import Part
from kwneuro_assets.storage.files import Opened
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import Damaged, DerivativeStore, Verify
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.s3_server import S3Bucket
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, signal, table

SUBJECT = SubjectKey("01")
FOLDER = "sub-01/dwi/sub-01"
AFFINE = AFFINES["oblique"]
BUNDLES = ("AF_left", "AF_right", "CA", "CST_left")
RANGES = [range(1), range(3, 9), range(2, 11, 4), range(25, 26), range(26), range(2, -1, -1), range(20, 3, -5)]


def noise(*shape: int) -> Volume:
    return Volume(np.random.default_rng(sum(shape)).random(shape, np.float32), AFFINE)


def values() -> dict[str, Value]:
    directions = table()
    gradients = GradientTable(directions.bvals, directions.world, "world")
    return {
        "denoised_dwi": Dwi(Volume(signal(directions) + 1, AFFINE), gradients),
        "brain_mask": noise(5, 6, 7),
        "dti": MapSet({"fa": noise(5, 6, 7), "md": noise(5, 6, 7), "evecs": noise(5, 6, 7, 9)}),
        "tract_masks": Volume((noise(5, 6, 7, 4).array > 0.5), AFFINE, BUNDLES),
        "fiber_response": ResponseFunction(np.array([900.0, -300.0]), 3000.0),
        "noddi": NotApplicable("one shell"),
    }


def put(store: DerivativeStore, asset: str, value: Value) -> None:
    store.write(asset, SUBJECT, value, Provenance("a test's", "1-00000000", data_version(value)))


@pytest.fixture(scope="module")
def full_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts") / "store"
    for asset, value in values().items():
        put(DerivativeStore(root), asset, value)
    return root


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, full_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with a value of each type; KWNEURO_STORE names it."""
    if request.param == "local":
        url = str(shutil.copytree(full_store, tmp_path / "store"))
    else:
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        url = f"{bucket.url}/study"
        for path in full_store.rglob("*.*"):
            key = f"study/{path.relative_to(full_store).as_posix()}"
            bucket.server.client.put_object(Bucket=bucket.name, Key=key, Body=path.read_bytes())
    monkeypatch.setenv("KWNEURO_STORE", url)
    monkeypatch.delenv("KWNEURO_SETTINGS", raising=False)
    return url


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that the store opens from now on."""
    names: list[str] = []

    @contextmanager
    def recorded(path: Any) -> Iterator[Opened]:
        names.append(path.name)
        with files.opened(path) as file:
            yield file

    monkeypatch.setattr(checked_files, "opened", recorded)
    return names


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The key and the byte range of each request for the content of an object from now on."""
    client = pytest.importorskip("aiobotocore.client").AioBaseClient
    call, seen = client._make_api_call, []

    async def recorded(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        if operation == "GetObject":
            start, _, end = arguments.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            seen.append((arguments["Key"], int(start), int(end or -1) + 1))
        return await call(self, operation, arguments)

    monkeypatch.setattr(client, "_make_api_call", recorded)
    return seen


def test_one_map_is_read_from_its_own_file_and_no_other(url: str, opened: list[str]) -> None:
    complete = values()["dti"]
    assert isinstance(complete, MapSet)
    found = kwneuro_assets.load("dti", "sub-01", maps=["md"])
    assert opened == ["sub-01_model-tensor_param-md_dwimap.nii.gz"]
    assert data_version(found) == data_version(MapSet({"md": complete["md"]}))
    found = kwneuro_assets.load("dti", "sub-01", maps=("evecs", "fa"))
    assert data_version(found) == data_version(MapSet({"evecs": complete["evecs"], "fa": complete["fa"]}))


def test_one_map_of_a_store_on_s3_is_one_request_for_bytes(
    s3_bucket: S3Bucket, fetched: list[tuple[str, int, int]]
) -> None:
    store = DerivativeStore(s3_bucket.url)
    put(store, "dti", values()["dti"])
    fetched.clear()
    store.read("dti", SUBJECT, Part(maps=("md",)))
    images = [key for key, _, _ in fetched if key.endswith(".nii.gz")]
    assert images == [f"{FOLDER}_model-tensor_param-md_dwimap.nii.gz"]


def test_some_volumes_are_a_slice_of_all_volumes(url: str) -> None:
    complete = values()["denoised_dwi"]
    assert isinstance(complete, Dwi)
    for volumes in RANGES:
        found = kwneuro_assets.load("denoised_dwi", "sub-01", volumes=volumes)
        assert isinstance(found, Volume)
        assert found.array.dtype == np.float32
        assert np.array_equal(found.array, complete.array[..., list(volumes)])
        assert np.array_equal(found.affine, complete.affine)


def test_selected_bundles_have_their_names(url: str) -> None:
    complete = values()["tract_masks"]
    assert isinstance(complete, Volume)
    for volumes, names in (
        (range(1, 4, 2), ("AF_right", "CST_left")),
        (range(2, -1, -1), ("CA", "AF_right", "AF_left")),
        (range(3, 0, -2), ("CST_left", "AF_right")),
    ):
        found = kwneuro_assets.load("tract_masks", "sub-01", volumes=volumes)
        assert isinstance(found, Volume)
        assert found.names == names
        for index, name in enumerate(names):
            assert np.array_equal(found.array[..., index], complete.array[..., BUNDLES.index(name)])


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
    ("denoised_dwi", {"volumes": range(2, -2, -1)}, r"found range\(2, -2, -1\)"),
    ("denoised_dwi", {"volumes": range(2, 5, -1)}, r"found range\(2, 5, -1\)"),
    ("denoised_dwi", {"volumes": [3, 1, 3]}, r"found \[3, 1, 3\] of shape"),
    ("fiber_response", {"volumes": range(1)}, r"expected a 4-D image, found a ResponseFunction"),
]


def test_a_part_that_does_not_exist_is_reported_with_the_parts_that_exist(url: str) -> None:
    for asset, choice, message in WRONG_CHOICES:
        with pytest.raises(InvalidData, match=message):
            kwneuro_assets.load(asset, "sub-01", **choice)


def test_a_part_of_a_derivative_that_is_not_applicable_is_the_reason(url: str) -> None:
    """A loop over subjects gets the same as for the complete value."""
    assert kwneuro_assets.load("noddi", "sub-01", maps=["ndi"]) == NotApplicable("one shell")
    assert kwneuro_assets.load("noddi", "sub-01", volumes=range(1)) == NotApplicable("one shell")


def test_the_grid_matches_the_image(url: str) -> None:
    for asset in ("denoised_dwi", "brain_mask", "dti", "tract_masks"):
        shape, affine = kwneuro_assets.grid(asset, "sub-01")
        complete = values()[asset]
        image = complete["fa"] if isinstance(complete, MapSet) else complete
        assert isinstance(image, Dwi | Volume)
        assert shape == image.array.shape
        assert np.array_equal(affine, image.affine)
    for asset in ("fiber_response", "noddi"):
        with pytest.raises(InvalidData, match="grid: expected an image, found a"):
            kwneuro_assets.grid(asset, "sub-01")


def test_the_grid_of_a_large_object_is_read_from_its_first_bytes(
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
def flip_bit(url: str, request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Flips one bit of the byte at an index of a file; a negative index counts from the end."""

    def flip(name: str, at: int) -> None:
        if not url.startswith("s3"):
            path = Path(url, f"{FOLDER}{name}")
            path.write_bytes(changed(path.read_bytes(), at))
            return
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        key = f"study/{FOLDER}{name}"
        bucket.server.client.put_object(Bucket=bucket.name, Key=key, Body=changed(bucket.contents()[key], at))

    return flip


def changed(content: bytes, at: int) -> bytes:
    result = bytearray(content)
    result[at] ^= 1
    return bytes(result)


IMAGE = "_desc-denoised_dwi.nii.gz"
BVAL = format_bvals(GradientTable(table().bvals, table().world, "world")).encode()
FIRST = Part(volumes=range(1))


def test_a_flipped_bit_after_the_requested_volumes_is_detected(url: str, flip_bit: Callable[[str, int], None]) -> None:
    store = DerivativeStore(url)
    store.read("denoised_dwi", SUBJECT, FIRST)
    flip_bit(IMAGE, -100)
    with pytest.raises(Damaged, match=f"{FOLDER}{IMAGE}: expected .* with sha256"):
        store.read("denoised_dwi", SUBJECT, FIRST)


def test_damage_of_maps_that_are_not_requested_is_no_error(url: str, flip_bit: Callable[[str, int], None]) -> None:
    flip_bit("_model-tensor_param-fa_dwimap.nii.gz", 50)
    store = DerivativeStore(url)
    assert isinstance(store.read("dti", SUBJECT, Part(maps=("md",)))[0], MapSet)
    with pytest.raises(Damaged, match="param-fa_dwimap"):
        store.read("dti", SUBJECT)


@pytest.mark.parametrize("verify", ["always", "first", "never"])
def test_a_file_is_compared_with_its_checksum_as_verify_says(
    url: str, flip_bit: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    """One digit of a b-value is changed, which only a checksum reveals."""
    monkeypatch.setattr(checked_files, "_verified", set())
    store = DerivativeStore(url, verify=verify)
    if verify == "first":  # another store object of the same process counts
        DerivativeStore(url, verify=verify).read("denoised_dwi", SUBJECT)
    flip_bit("_desc-denoised_dwi.bval", BVAL.index(b"700") + 2)
    if verify == "always":
        with pytest.raises(Damaged, match=r"dwi\.bval: expected"):
            store.read("denoised_dwi", SUBJECT)
    else:
        found, _ = store.read("denoised_dwi", SUBJECT)
        assert isinstance(found, Dwi)
        assert found.bvals[2] == 701
    with pytest.raises(Damaged, match=r"dwi\.bval: expected"):
        store.check("denoised_dwi", SUBJECT)


def test_first_compares_on_the_first_read(
    url: str, flip_bit: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_files, "_verified", set())
    flip_bit(IMAGE, -100)
    for _ in range(2):  # a damaged file is checked again
        with pytest.raises(Damaged):
            DerivativeStore(url, verify="first").read("denoised_dwi", SUBJECT, FIRST)


def test_first_compares_a_file_again_after_it_was_replaced(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_files, "_verified", set())
    store = DerivativeStore(url, verify="first")
    store.read("brain_mask", SUBJECT)
    put(store, "brain_mask", noise(5, 6, 8))
    known = len(checked_files._verified)
    assert data_version(store.read("brain_mask", SUBJECT)[0]) == data_version(noise(5, 6, 8))
    assert len(checked_files._verified) == known + 1


@pytest.mark.parametrize("verify", ["always", "first", "never"])
def test_a_file_of_another_size_is_detected_for_every_verify_setting(
    url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, verify: Verify
) -> None:
    monkeypatch.setattr(checked_files, "_verified", set())
    store = DerivativeStore(url, verify=verify)
    store.read("brain_mask", SUBJECT)
    name = f"{FOLDER}_desc-brain_mask.nii.gz"
    path = store.root / name
    path.fs.pipe_file(path.path, path.fs.cat_file(path.path) + b"\0")
    with pytest.raises(
        Damaged, match=rf"{name}: expected \d+ bytes with sha256 \w+\.\.\., found \d+ bytes\. Materialize"
    ):
        store.read("brain_mask", SUBJECT)
    with pytest.raises(Damaged, match=name):
        store.grid("brain_mask", SUBJECT)
