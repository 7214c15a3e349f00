"""A store behind an unreliable network: transient errors are survived, and a corrupted result is never accepted."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from s3fs import S3FileSystem  # type: ignore[import-untyped]

from kwneuro_assets.imaging import Dwi, GradientTable, MapSet, NotApplicable, ResponseFunction, Volume
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.storage import files, location, remote_staging, retries
from kwneuro_assets.storage.checked_files import READS
from kwneuro_assets.storage.codecs import Part
from kwneuro_assets.storage.retries import StorageError
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import Damaged, DerivativeStore
from kwneuro_assets.subjects import SubjectKey
from kwneuro_assets_tests.testkit.fault_proxy import FAULTS, FaultProxy
from kwneuro_assets_tests.testkit.s3_server import S3Bucket, S3Server
from kwneuro_assets_tests.testkit.small_dataset import AFFINES, signal, table

SUBJECTS = [SubjectKey("01"), SubjectKey("02", "b")]
ASSETS = ("denoised_dwi", "brain_mask", "dti", "fiber_response", "noddi")
PART = 20_000  # bytes: values of 1 to 150 KB are single objects and objects of many parts
SILENCE = 0.4  # seconds after which a request of the client times out
PROBABILITY = 0.15  # a write sends about thirty requests, a read three to ten
AFFINE = AFFINES["oblique"]


@pytest.fixture(autouse=True)
def _small_quick_and_silent(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(remote_staging, "PART", PART)
    monkeypatch.setattr(files, "FIRST_BLOCK", PART // 4)
    monkeypatch.setattr(files, "BLOCK", 2 * PART)
    monkeypatch.setattr(retries, "FIRST_DELAY", 0.005)
    monkeypatch.setattr(
        location, "_S3_CLIENT", {**location._S3_CLIENT, "connect_timeout": SILENCE, "read_timeout": SILENCE}
    )
    caplog.set_level(logging.ERROR, "kwneuro_assets")  # each fault is a warning


@pytest.fixture(scope="module")
def s3_server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """A server that refuses a body that contradicts its digests, as S3 does; the parameter `False` disables that."""
    with S3Server(refuse_bad_digests=getattr(request, "param", True)) as server:
        yield server


@pytest.fixture
def proxied(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The proxy through which this process reaches the bucket's server; without faults at first."""
    with FaultProxy(s3_bucket.server.endpoint, pause=0.1, stall=2 * SILENCE) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        S3FileSystem.clear_instance_cache()
        yield proxy


def value_of(asset: str, numbers: random.Random) -> Value:
    """A new value of the type of the asset, from a few bytes to several parts."""
    array = np.random.default_rng(numbers.randrange(1 << 30))
    edge = numbers.choice([4, 12, 24])

    def noise(*more: int) -> Volume:
        return Volume(array.random((edge, edge, edge, *more), np.float32), AFFINE)

    if asset == "denoised_dwi":
        directions = table()
        image = signal(directions) + array.random(len(directions.bvals), np.float32)
        return Dwi(Volume(image, AFFINE), GradientTable(directions.bvals, directions.world, "world"))
    if asset == "brain_mask":
        return Volume(array.integers(0, 2, (edge,) * 3).astype(np.uint8), AFFINE)
    if asset == "dti":
        return MapSet({"fa": noise(), "md": noise(), "evals": noise(3)})
    if asset == "fiber_response":
        return ResponseFunction(array.random(5) + 1, 3000.0, 12)
    return NotApplicable(f"one shell, {edge}")


def put(store: DerivativeStore, asset: str, subject: SubjectKey, value: Value, figure: bytes | None = None) -> None:
    store.write(asset, subject, value, Provenance("a test's", "1-00000000", data_version(value)), figure)


@dataclass
class Operations:
    """Random operations on a store, each compared with a dictionary."""

    store: DerivativeStore
    numbers: random.Random
    expected: dict[tuple[str, SubjectKey], Value] = field(default_factory=dict)
    done: int = 0

    def one(self) -> None:
        asset, subject = self.numbers.choice(ASSETS), self.numbers.choice(SUBJECTS)
        known = self.expected.get((asset, subject))
        if known is None or self.numbers.random() < 0.3:
            self.write(asset, subject)
        else:
            self.numbers.choice([self.read, self.read, self.read_part, self.read_sidecar, self.check, self.list_all])(
                asset, subject, known
            )
        self.done += 1

    def write(self, asset: str, subject: SubjectKey) -> None:
        value = value_of(asset, self.numbers)
        put(self.store, asset, subject, value, self.numbers.randbytes(100))
        self.expected[asset, subject] = value

    def read(self, asset: str, subject: SubjectKey, known: Value) -> None:
        value, sidecar = self.store.read(asset, subject)
        assert data_version(value) == sidecar.data_version == data_version(known)

    def read_part(self, asset: str, subject: SubjectKey, known: Value) -> None:
        if isinstance(known, MapSet):
            found, _ = self.store.read(asset, subject, Part(maps=("md",)))
            assert data_version(found) == data_version(MapSet({"md": known["md"]}))
        elif isinstance(known, Dwi):
            found, _ = self.store.read(asset, subject, Part(volumes=range(3, 9, 2)))
            assert isinstance(found, Volume)
            assert np.array_equal(found.array, known.array[..., 3:9:2])

    def read_sidecar(self, asset: str, subject: SubjectKey, known: Value) -> None:
        sidecar = self.store.sidecar(asset, subject)
        assert sidecar is not None
        assert sidecar.data_version == data_version(known)

    def check(self, asset: str, subject: SubjectKey, known: Value) -> None:
        assert self.store.check(asset, subject).data_version == data_version(known)

    def list_all(self, asset: str, subject: SubjectKey, known: Value) -> None:
        assert set(self.store.subjects()) == {subject for _, subject in self.expected}
        assert set(self.store.assets(subject)) == {asset for asset, other in self.expected if other == subject}


@pytest.mark.parametrize("count", [40, pytest.param(100, marks=pytest.mark.slow)])
def test_every_operation_survives_every_fault_and_none_gives_a_wrong_result(
    proxied: FaultProxy, s3_bucket: S3Bucket, count: int
) -> None:
    operations = Operations(DerivativeStore(f"{s3_bucket.url}/study"), random.Random(count))
    operations.one()
    proxied.probability, proxied.seed = PROBABILITY, count
    for fault in FAULTS:  # each at least once, in addition to random ones
        proxied.once(fault, path="*/study/*")
    met = 0
    while operations.done < count:
        before = proxied.injected.total()
        operations.one()
        met += proxied.injected.total() > before
    print(f"{met} of {count} operations met faults: {dict(proxied.injected)} in {proxied.requests} requests")
    assert met > count / 3
    assert set(proxied.injected) == set(FAULTS)
    proxied.active = False
    S3FileSystem.clear_instance_cache()
    quiet = DerivativeStore(f"{s3_bucket.url}/study")
    for (asset, subject), value in operations.expected.items():
        assert data_version(quiet.read(asset, subject)[0]) == data_version(value)
        quiet.check(asset, subject)
    # Uploads whose first answer did not arrive are invisible, and the next write removes them.
    for asset, subject in operations.expected:
        put(quiet, asset, subject, NotApplicable("for this test"))
    assert s3_bucket.uploads() == []
    assert all(key.endswith((".json", "README.md", ".bidsignore")) for key in s3_bucket.contents())


@pytest.fixture
def stored(proxied: FaultProxy, s3_bucket: S3Bucket) -> tuple[DerivativeStore, MapSet, dict[str, bytes]]:
    """A store with one derivative of several objects, one of them of several parts; its value, and all its bytes."""
    store = DerivativeStore(f"{s3_bucket.url}/study")
    before = maps(1)
    put(store, "dti", SUBJECTS[0], before, b"\x89PNG of some kind")
    return store, before, s3_bucket.contents()


def maps(seed: int, edge: int = 24) -> MapSet:
    array = np.random.default_rng(seed)
    return MapSet({name: Volume(array.random((edge,) * 3, np.float32), AFFINE) for name in ("fa", "md")})


@pytest.mark.parametrize(
    "act",
    [
        lambda store: put(store, "dti", SUBJECTS[0], maps(2)),
        lambda store: put(store, "dti", SUBJECTS[1], maps(2)),
        lambda store: store.read("dti", SUBJECTS[0]),
        lambda store: store.check("dti", SUBJECTS[0]),
        lambda store: store.subjects(),
        lambda store: store.assets(SUBJECTS[0]),
    ],
    ids=["replace", "write", "read", "check", "subjects", "assets"],
)
def test_an_unavailable_server_is_reported_in_one_message_and_the_store_is_unchanged(
    proxied: FaultProxy,
    s3_bucket: S3Bucket,
    stored: tuple[DerivativeStore, MapSet, dict[str, bytes]],
    act: Callable[[DerivativeStore], object],
) -> None:
    store, before, contents = stored
    proxied.faults, proxied.probability = ["unavailable"], 1.0
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"the server answered \w+, in 7 attempts: .* reachable$") as caught:
        act(store)
    assert time.monotonic() - started < 10
    assert str(caught.value).startswith(f"{s3_bucket.url}/study")
    assert "\n" not in str(caught.value)
    proxied.active = False
    assert s3_bucket.contents() == contents
    assert data_version(store.read("dti", SUBJECTS[0])[0]) == data_version(before)


@pytest.mark.parametrize("fault", ["unavailable", "reset", "reset_after"])
def test_a_network_failure_during_a_write_leaves_the_old_or_the_new_value_or_none(
    proxied: FaultProxy,
    s3_bucket: S3Bucket,
    stored: tuple[DerivativeStore, MapSet, dict[str, bytes]],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All requests after the n-th fail; each n gives one of the three, and the last ones give the new value."""
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    monkeypatch.setattr("kwneuro_assets.storage.lease.LEASE", 0.05)  # the next write waits until a lease has expired
    monkeypatch.setattr("kwneuro_assets.storage.lease.POLL", 0.02)
    monkeypatch.setattr("kwneuro_assets.storage.lease.SETTLE", 0.02)
    store, before, _ = stored
    after = maps(2)
    found = []
    for last in range(3, 60, 9):
        put(store, "dti", SUBJECTS[0], before)
        proxied.faults, proxied.active = [fault], False
        end = proxied.requests + last
        proxied.draw = _broken_from(proxied, end, fault)  # type: ignore[assignment, method-assign]
        try:
            put(store, "dti", SUBJECTS[0], after)
            written = True
        except StorageError:
            written = False
        del proxied.draw
        try:
            found.append(data_version(store.read("dti", SUBJECTS[0])[0]))
        except Damaged:
            raise
        except StorageError:
            found.append("nothing")
        if written:
            assert found[-1] == data_version(after)
            break
    assert set(found) <= {data_version(before), data_version(after), "nothing"}
    assert found[0] == data_version(before)
    assert found[-1] == data_version(after)


def _broken_from(proxy: FaultProxy, end: int, fault: str) -> Callable[[str, str], tuple[str | None, random.Random]]:
    draw = type(proxy).draw

    def broken(method: str, target: str) -> tuple[str | None, random.Random]:
        drawn = draw(proxy, method, target)
        return (fault, drawn[1]) if proxy.requests > end else drawn

    return broken


@pytest.mark.parametrize(
    ("s3_server", "path"),
    [
        (True, "*_param-md_dwimap.nii.gz*"),
        (True, "*_dwimap.json"),
        (True, "*.lock"),
        (False, "*_param-md_dwimap.nii.gz*"),
        (False, "*_dwimap.json"),
    ],
    indirect=["s3_server"],
)
def test_an_upload_corrupted_in_transit_is_sent_again(
    proxied: FaultProxy, s3_bucket: S3Bucket, stored: tuple[DerivativeStore, MapSet, dict[str, bytes]], path: str
) -> None:
    """If the server does not verify digests, only the checksum in its answer reveals the corruption."""
    store, _, _ = stored
    proxied.once("corrupt_upload", method="PUT", path=path)
    put(store, "dti", SUBJECTS[0], maps(2))
    assert proxied.injected["corrupt_upload"] == 1
    assert data_version(store.read("dti", SUBJECTS[0])[0]) == data_version(maps(2))
    assert not [key for key in s3_bucket.contents() if key.endswith(".lock")]


@pytest.mark.parametrize("path", ["*_param-md_dwimap.nii.gz", "*_dwimap.json", "*dataset_description.json"])
def test_a_download_corrupted_in_transit_is_repeated(
    proxied: FaultProxy, stored: tuple[DerivativeStore, MapSet, dict[str, bytes]], path: str
) -> None:
    store, before, _ = stored
    for _ in range(READS - 1):
        proxied.once("corrupt_download", path=path)
    assert data_version(DerivativeStore(str(store.root)).read("dti", SUBJECTS[0])[0]) == data_version(before)
    assert proxied.injected["corrupt_download"] == READS - 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("*_param-md_dwimap.nii.gz", r"found \d+ with \w+\.\.\.\. Materialize it with: kwneuro-assets run"),
        ("*_dwimap.json", r"is not a sidecar of this store .* Materialize it with: kwneuro-assets run"),
    ],
)
def test_a_download_corrupted_every_time_is_an_error_with_the_path(
    proxied: FaultProxy, stored: tuple[DerivativeStore, MapSet, dict[str, bytes]], path: str, message: str
) -> None:
    store, _, _ = stored
    for _ in range(50):
        proxied.once("corrupt_download", path=path)
    with pytest.raises(StorageError, match=path.replace("*", ".*") + ": .*" + message):
        store.read("dti", SUBJECTS[0])
