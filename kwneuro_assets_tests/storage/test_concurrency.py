"""Processes and threads that write the same derivative concurrently: one of the results remains, complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from signal import SIGCONT, SIGUSR1
from threading import Thread
from typing import Any

import pytest

from kwneuro_assets.imaging import Report
from kwneuro_assets.imaging.content_hash import Value, data_version
from kwneuro_assets.storage import files, lease
from kwneuro_assets.storage import store as store_module
from kwneuro_assets.storage.codecs import decode
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore, Verify
from kwneuro_assets_tests.storage.conftest import Place
from kwneuro_assets_tests.storage.writers import (
    ASSET,
    NO_HEARTBEAT,
    QUICK_LEASE,
    QUICK_POLL,
    SUBJECT,
    Writer,
    names_of,
    stored_number,
    write,
    write_all,
    write_until_commit,
    write_with_a_stop,
)

WRITES = {"local": 40, "s3": 3}  # per process


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL", QUICK_POLL["POLL"])
    monkeypatch.setattr(files, "FIRST_BLOCK", 5_000)  # several requests for one file, so that a writer can intervene
    monkeypatch.setattr(files, "BLOCK", 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 5])
def test_one_concurrent_writer_wins_and_readers_see_complete_values_only(place: Place, processes: int) -> None:
    writes = WRITES[place.kind]
    numbers = [range(1 + first * writes, 1 + (first + 1) * writes) for first in range(processes)]
    store = DerivativeStore(place.url)
    write(store, 0)
    writers = [Writer(write_all, place.url, mine, QUICK_POLL) for mine in numbers]
    seen: Counter[int | None] = Counter()
    while any(writer.is_alive() for writer in writers):
        seen[stored_number(store)] += 1
    assert [writer.rest() for writer in writers] == [list(mine) for mine in numbers]
    assert stored_number(store) in [mine[-1] for mine in numbers]
    assert place.names() == names_of(store, ASSET)
    print(f"{place.kind}: {processes} x {writes} writes, {seen.total()} readings of {len(seen)}, none: {seen[None]}")
    assert len(seen) > processes


@pytest.mark.slow
@pytest.mark.parametrize("act", range(9))
def test_a_writer_suspended_for_too_long_does_not_mix_its_files_with_those_of_its_successor(
    prefix: Place, monkeypatch: pytest.MonkeyPatch, act: int
) -> None:
    """Such as a laptop whose lid was closed: it resumes when another process has long finished."""
    for name, seconds in QUICK_LEASE.items():
        monkeypatch.setattr(lease, name, seconds)
    store = DerivativeStore(prefix.url)
    first, sleeper, successor = 0, 2, 4  # the first and the last have the same file names, the sleeper has others
    write(store, first)
    with Writer(write_with_a_stop, prefix.url, sleeper, act, NO_HEARTBEAT) as writer:
        stopped_before = writer.next()
        write(store, successor)
        assert stored_number(store) == successor
        writer.send(SIGCONT)
        (error,) = writer.rest()
    print(stopped_before, "->", error)
    assert stored_number(store) == successor
    assert prefix.names() == names_of(store, ASSET)
    assert error is not None


@pytest.mark.slow
def test_threads_of_one_process_write_one_after_the_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, writes = 3, 2
    store = DerivativeStore(place.url)
    numbers = [range(1 + first * writes, 1 + (first + 1) * writes) for first in range(threads)]

    def write_mine(mine: range) -> None:
        for number in mine:
            write(store, number)
            assert stored_number(store) != 0

    write(store, 0)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write_mine, numbers))
    assert stored_number(store) in [mine[-1] for mine in numbers]
    assert place.names() == names_of(store, ASSET)


def test_writers_of_two_derivatives_of_a_subject_do_not_wait_for_each_other(place: Place) -> None:
    store = DerivativeStore(place.url)
    write(store, 0)
    with Writer(write_until_commit, place.url, 4, ASSET, QUICK_POLL) as writer:
        assert writer.next() == ASSET  # it holds the lock of this derivative and its uncommitted files
        write(store, 1, "noddi")
        assert stored_number(store, "noddi") == 1
        assert stored_number(store, ASSET) == 0
        same = Thread(target=write, args=(store, 5), daemon=True)
        same.start()
        same.join(1)
        assert same.is_alive(), "the writer of the same derivative waits"
        uncommitted = place.names() - names_of(store, ASSET, "noddi")
        assert uncommitted, "the files of the other writer are untouched"
        writer.send(SIGUSR1)
        assert writer.next() == "written"
        same.join(60)
    assert stored_number(store, ASSET) == 5
    assert place.names() == names_of(store, ASSET, "noddi")


def report(letter: str) -> Report:
    """Reports of equal size: only a checksum distinguishes them."""
    return Report(100 * letter)


def write_report(store: DerivativeStore, letter: str) -> None:
    store.write(ASSET, SUBJECT, report(letter), Provenance("a report", "1", data_version(report(letter))))


@pytest.fixture
def replaced_during_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Replaces the value by `between` after the next read has read the sidecar, and by `then` at its end."""

    def order(between: str, then: str) -> None:
        writer = DerivativeStore(place.url)

        def decode_replaced(*arguments: Any) -> Value:
            monkeypatch.setattr(store_module, "decode", decode)
            write_report(writer, between)
            try:
                return decode(*arguments)
            finally:
                if then != between:
                    write_report(writer, then)

        monkeypatch.setattr(store_module, "decode", decode_replaced)

    return order


@pytest.mark.parametrize("verify", ["always", "first", "never"])
def test_a_value_replaced_during_a_read_matches_the_sidecar_that_is_returned(
    place: Place, replaced_during_read: Callable[[str, str], None], verify: Verify
) -> None:
    store = DerivativeStore(place.url, verify=verify)
    write_report(store, "a")
    store.read(ASSET, SUBJECT)
    replaced_during_read("b", "b")
    found, sidecar = store.read(ASSET, SUBJECT)
    assert found == report("b")
    assert sidecar.data_version == data_version(report("b"))


def test_a_value_replaced_twice_during_a_read_is_not_reported_as_damaged(
    place: Place, replaced_during_read: Callable[[str, str], None]
) -> None:
    store = DerivativeStore(place.url)
    write_report(store, "a")
    replaced_during_read("b", "a")
    assert store.read(ASSET, SUBJECT)[0] == report("a")
