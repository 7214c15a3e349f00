"""The lock of remote folders has one holder at a time, also if processes end, are suspended, or miss an answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from upath import UPath

from kwneuro_assets.storage import lease as lease_module
from kwneuro_assets.storage import retries
from kwneuro_assets.storage.lease import Lease, leased
from kwneuro_assets.storage.location import location
from kwneuro_assets.storage.retries import StorageError

if TYPE_CHECKING:
    from kwneuro_assets_tests.testkit.fault_proxy import FaultProxy
    from kwneuro_assets_tests.testkit.s3_server import S3Bucket

LEASE = 1.0  # seconds; 30 in production
LATE = 20.0  # seconds that a busy machine may need


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"LEASE": LEASE, "HEARTBEAT": LEASE / 10, "POLL": 0.02, "SETTLE": 0.4}.items():
        monkeypatch.setattr(lease_module, name, seconds)
    monkeypatch.setattr(retries, "FIRST_DELAY", 0.01)


@pytest.fixture(params=["memory", "s3"])
def lock(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """The path of a lock, on each kind of remote file system."""
    if request.param == "memory":
        folder = location(f"memory:/{tmp_path}")  # unique to the test
        folder.fs.makedirs(folder.path, exist_ok=True)
    else:
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        folder = location(f"{bucket.url}/study")
    return folder / ".mark.lock"


@pytest.fixture
def proxy(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy between this process and the server of the bucket."""
    from s3fs import S3FileSystem  # type: ignore[import-untyped]

    from kwneuro_assets_tests.testkit.fault_proxy import FaultProxy

    with FaultProxy(s3_bucket.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        S3FileSystem.clear_instance_cache()
        yield proxy


def seconds_of(act: Callable[[], object]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start


def test_the_lock_has_one_holder_at_a_time(lock: UPath) -> None:
    inside, peak, entries = 0, 0, 0

    def hold(_: int) -> None:
        nonlocal inside, peak, entries
        with leased(lock) as lease:
            inside += 1
            entries += 1
            peak = max(peak, inside)
            time.sleep(0.05)
            lease.require()
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(8)))
    assert (peak, entries) == (1, 8)
    assert not lock.exists()


def test_a_lock_without_heartbeat_is_taken_over_after_the_lease_and_not_before(lock: UPath) -> None:
    ended = Lease(lock)
    ended.acquire()
    taken = Lease(lock)
    assert LEASE <= seconds_of(taken.acquire) < LATE
    taken.require()
    with pytest.raises(StorageError, match=r"another process has taken over the lock.* run again"):
        ended.require()


def test_a_lock_with_heartbeat_is_never_taken_over(lock: UPath) -> None:
    with ThreadPoolExecutor(1) as pool:
        with leased(lock) as lease:
            waiting = pool.submit(Lease(lock).acquire)
            time.sleep(2 * LEASE)
            assert not waiting.done()
            lease.require()
        waiting.result(LATE)


def test_a_single_waiter_takes_over_the_lock_of_a_dead_process(lock: UPath) -> None:
    Lease(lock).acquire()
    inside, peak, entries = 0, 0, 0

    def hold(_: int) -> None:
        nonlocal inside, peak, entries
        with leased(lock):
            inside += 1
            entries += 1
            peak = max(peak, inside)
            time.sleep(0.3)
            inside -= 1

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(hold, range(3)))
    assert (peak, entries) == (1, 3)


def test_a_former_holder_does_not_release_the_lock_of_its_successor(
    lock: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    successor = Lease(lock)
    with leased(lock):
        # What the successor sees if the holder's thread is suspended; later heartbeats of the holder come too late.
        monkeypatch.setattr(Lease, "write_heartbeat", heartbeats_of(successor))
        successor.acquire()
    successor.require()
    time.sleep(2 * lease_module.HEARTBEAT)
    successor.require()
    successor.release()
    assert not lock.exists()


def heartbeats_of(holder: Lease) -> Callable[[Lease], None]:
    """`write_heartbeat` that writes for `holder` alone."""
    write_heartbeat = Lease.write_heartbeat
    return lambda lease: write_heartbeat(lease) if lease is holder else None


def test_a_process_suspended_between_reading_and_writing_the_lock_does_not_take_it_back(
    lock: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads that it holds the lock and is suspended; meanwhile another process takes the lock over."""
    is_held = Lease.is_held
    was_read, resumed = threading.Event(), threading.Event()

    def slow(lease: Lease) -> bool:
        held = is_held(lease)
        was_read.set()
        assert resumed.wait(LATE)
        return held

    monkeypatch.setattr(Lease, "is_held", slow)
    with leased(lock) as sleeper:
        assert was_read.wait(LATE)
        successor = Lease(lock)
        successor.acquire()
        resumed.set()
        time.sleep(2 * lease_module.HEARTBEAT)
        successor.require()
        with pytest.raises(StorageError, match="another process has taken over"):
            sleeper.require()
    successor.require()


@pytest.mark.parametrize("fault", ["reset_after", "reset", "unavailable"])
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_a_request_or_an_answer_that_does_not_arrive_does_not_block_the_holder(
    s3_bucket: S3Bucket, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, method: str, fault: str
) -> None:
    monkeypatch.setattr(lease_module, "LEASE", LATE)
    lock = location(s3_bucket.url) / ".mark.lock"

    def hold() -> None:
        with leased(lock) as lease:
            lease.require()

    proxy.once(fault, method=method, path="*.lock")
    assert seconds_of(hold) < LATE, "it waited for its own lock"
    assert proxy.injected == {fault: 1}
    assert not s3_bucket.contents()


def test_locks_with_different_names_are_independent(lock: UPath) -> None:
    with leased(lock), leased(lock.parent / ".another.lock"):
        pass
