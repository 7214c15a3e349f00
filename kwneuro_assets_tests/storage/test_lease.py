"""The lock of remote folders: one holder at a time, whoever ends, stands still, or does not hear the answer."""

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
from kwneuro_assets.storage import patience
from kwneuro_assets.storage.lease import Lease, leased
from kwneuro_assets.storage.location import location
from kwneuro_assets.storage.patience import StorageError

if TYPE_CHECKING:
    from kwneuro_assets_tests.fault_proxy import FaultProxy
    from kwneuro_assets_tests.s3_server import S3Bucket

LEASE = 1.0  # seconds; in earnest 30
LATE = 20.0  # seconds that a busy machine may take


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"LEASE": LEASE, "BEAT": LEASE / 10, "POLL": 0.02, "SETTLE": 0.4}.items():
        monkeypatch.setattr(lease_module, name, seconds)
    monkeypatch.setattr(patience, "FIRST_DELAY", 0.01)


@pytest.fixture(params=["memory", "s3"])
def lock(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """A place for a lock, on either kind of remote file system."""
    if request.param == "memory":
        folder = location(f"memory:/{tmp_path}")  # the test's own
        folder.fs.makedirs(folder.path, exist_ok=True)
    else:
        bucket: S3Bucket = request.getfixturevalue("s3_bucket")
        folder = location(f"{bucket.url}/study")
    return folder / ".mark.lock"


@pytest.fixture
def proxy(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between this process and the server of the bucket."""
    from s3fs import S3FileSystem  # type: ignore[import-untyped]

    from kwneuro_assets_tests.fault_proxy import FaultProxy

    with FaultProxy(s3_bucket.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        S3FileSystem.clear_instance_cache()
        yield proxy


def seconds_of(act: Callable[[], object]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start


def test_only_one_holds_it_at_a_time(lock: UPath) -> None:
    inside, most, entries = 0, 0, 0

    def hold(_: int) -> None:
        nonlocal inside, most, entries
        with leased(lock) as lease:
            inside += 1
            entries += 1
            most = max(most, inside)
            time.sleep(0.05)
            lease.require()
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(8)))
    assert (most, entries) == (1, 8)
    assert not lock.exists()


def test_one_that_gives_no_sign_of_life_is_taken_over_after_the_lease_and_not_before(lock: UPath) -> None:
    ended = Lease(lock)
    ended.acquire()
    taken = Lease(lock)
    assert LEASE <= seconds_of(taken.acquire) < LATE
    taken.require()
    with pytest.raises(StorageError, match=r"another process has taken over writing here.* run again"):
        ended.require()


def test_one_that_lives_is_never_taken_over_however_long_it_takes(lock: UPath) -> None:
    with ThreadPoolExecutor(1) as pool:
        with leased(lock) as lease:
            waiting = pool.submit(Lease(lock).acquire)
            time.sleep(2 * LEASE)
            assert not waiting.done()
            lease.require()
        waiting.result(LATE)


def test_of_those_that_wait_for_a_dead_one_a_single_one_takes_over(lock: UPath) -> None:
    Lease(lock).acquire()
    inside, most, entries = 0, 0, 0

    def hold(_: int) -> None:
        nonlocal inside, most, entries
        with leased(lock):
            inside += 1
            entries += 1
            most = max(most, inside)
            time.sleep(0.3)
            inside -= 1

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(hold, range(3)))
    assert (most, entries) == (1, 3)


def test_one_that_was_taken_over_leaves_its_successors_lock_in_peace(
    lock: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    successor = Lease(lock)
    with leased(lock):
        # What the successor sees when the holder's thread stands still; the holder's own signs come too late.
        monkeypatch.setattr(Lease, "beat", beat_of_all_but(Lease.beat, successor))
        successor.acquire()
    successor.require()
    time.sleep(2 * lease_module.BEAT)
    successor.require()
    successor.release()
    assert not lock.exists()


def beat_of_all_but(beat: Callable[[Lease], None], living: Lease) -> Callable[[Lease], None]:
    """A heart that beats for `living` alone."""
    return lambda lease: beat(lease) if lease is living else None


def test_one_that_stands_still_between_its_look_and_its_sign_of_life_takes_nothing_back(
    lock: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw that the lock was its own, and slept; by now it is another's."""
    is_held = Lease.is_held
    looked, goes_on = threading.Event(), threading.Event()

    def slow(lease: Lease) -> bool:
        held = is_held(lease)
        looked.set()
        assert goes_on.wait(LATE)
        return held

    monkeypatch.setattr(Lease, "is_held", slow)
    with leased(lock) as sleeper:
        assert looked.wait(LATE)
        successor = Lease(lock)
        successor.acquire()
        goes_on.set()
        time.sleep(2 * lease_module.BEAT)
        successor.require()
        with pytest.raises(StorageError, match="another process has taken over"):
            sleeper.require()
    successor.require()


@pytest.mark.parametrize("fault", ["reset_after", "reset", "unavailable"])
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_a_request_or_an_answer_that_is_lost_does_not_block_oneself(
    s3_bucket: S3Bucket, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, method: str, fault: str
) -> None:
    monkeypatch.setattr(lease_module, "LEASE", LATE)
    lock = location(s3_bucket.url) / ".mark.lock"

    def hold() -> None:
        with leased(lock) as lease:
            lease.require()

    proxy.once(fault, method=method, path="*.lock")
    assert seconds_of(hold) < LATE, "it waited for itself"
    assert proxy.injected == {fault: 1}
    assert not s3_bucket.contents()


def test_locks_of_two_names_have_nothing_to_do_with_each_other(lock: UPath) -> None:
    with leased(lock), leased(lock.parent / ".another.lock"):
        pass
