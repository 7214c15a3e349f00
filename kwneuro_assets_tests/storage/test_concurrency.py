"""Processes and threads that write the same derivative at once: one of the results stands, whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from signal import SIGCONT, SIGUSR1
from threading import Thread
from typing import Any

import pytest

from kwneuro_assets.imaging import Report
from kwneuro_assets.storage import files, lease
from kwneuro_assets.storage import store as store_module
from kwneuro_assets.storage.codecs import decode
from kwneuro_assets.storage.sidecar import Provenance
from kwneuro_assets.storage.store import DerivativeStore, Verify
from kwneuro_assets.versioning.content import Value, data_version
from kwneuro_assets_tests.storage.conftest import Place
from kwneuro_assets_tests.storage.writers import (
    ASSET,
    NO_BEAT,
    QUICK_LEASE,
    QUICK_POLL,
    SUBJECT,
    Writer,
    names_of,
    standing,
    write,
    write_all,
    write_until_files_are_safe,
    write_with_a_stop,
)

WRITES = {"local": 40, "s3": 3}  # of each process


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL", QUICK_POLL["POLL"])
    monkeypatch.setattr(files, "FIRST_BLOCK", 5_000)  # several requests for one file, that another may come between
    monkeypatch.setattr(files, "BLOCK", 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 5])
def test_of_processes_that_write_at_once_one_wins_and_a_reader_sees_whole_values_only(
    place: Place, processes: int
) -> None:
    writes = WRITES[place.kind]
    numbers = [range(1 + first * writes, 1 + (first + 1) * writes) for first in range(processes)]
    store = DerivativeStore(place.url)
    write(store, 0)
    writers = [Writer(write_all, place.url, mine, QUICK_POLL) for mine in numbers]
    seen: Counter[int | None] = Counter()
    while any(writer.is_alive() for writer in writers):
        seen[standing(store)] += 1
    assert [writer.rest() for writer in writers] == [list(mine) for mine in numbers]
    assert standing(store) in [mine[-1] for mine in numbers]
    assert place.names() == names_of(store, ASSET)
    print(f"{place.kind}: {processes} x {writes} writes, {seen.total()} readings of {len(seen)}, none: {seen[None]}")
    assert len(seen) > processes


@pytest.mark.slow
@pytest.mark.parametrize("act", range(9))
def test_a_writer_that_stood_still_for_too_long_does_not_mix_its_files_with_those_of_its_successor(
    prefix: Place, monkeypatch: pytest.MonkeyPatch, act: int
) -> None:
    """Such as a laptop whose lid was closed: it goes on where it was, when another has long finished."""
    for name, seconds in QUICK_LEASE.items():
        monkeypatch.setattr(lease, name, seconds)
    store = DerivativeStore(prefix.url)
    first, sleeper, successor = 0, 2, 4  # the first and the last have the same files, the sleeper has others
    write(store, first)
    with Writer(write_with_a_stop, prefix.url, sleeper, act, NO_BEAT) as writer:
        stopped_before = writer.next()
        write(store, successor)
        assert standing(store) == successor
        writer.send(SIGCONT)
        (error,) = writer.rest()
    print(stopped_before, "->", error)
    assert standing(store) == successor
    assert prefix.names() == names_of(store, ASSET)
    assert error is not None


@pytest.mark.slow
def test_threads_of_one_process_take_turns(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, writes = 3, 2
    store = DerivativeStore(place.url)
    numbers = [range(1 + first * writes, 1 + (first + 1) * writes) for first in range(threads)]

    def write_mine(mine: range) -> None:
        for number in mine:
            write(store, number)
            assert standing(store) != 0

    write(store, 0)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write_mine, numbers))
    assert standing(store) in [mine[-1] for mine in numbers]
    assert place.names() == names_of(store, ASSET)


def test_writers_of_two_derivatives_of_a_subject_do_not_wait_for_each_other(place: Place) -> None:
    store = DerivativeStore(place.url)
    write(store, 0)
    with Writer(write_until_files_are_safe, place.url, 4, ASSET, QUICK_POLL) as writer:
        assert writer.next() == ASSET  # it holds the lock of this derivative, and its unseen files
        write(store, 1, "noddi")
        assert standing(store, "noddi") == 1
        assert standing(store, ASSET) == 0
        same = Thread(target=write, args=(store, 5), daemon=True)
        same.start()
        same.join(1)
        assert same.is_alive(), "the writer of the same derivative waits"
        unseen = place.names() - names_of(store, ASSET, "noddi")
        assert unseen, "the other's files are left alone"
        writer.send(SIGUSR1)
        assert writer.next() == "written"
        same.join(60)
    assert standing(store, ASSET) == 5
    assert place.names() == names_of(store, ASSET, "noddi")


def report(letter: str) -> Report:
    """All of one size: nothing but a checksum tells one from another."""
    return Report(100 * letter)


def write_report(store: DerivativeStore, letter: str) -> None:
    store.write(ASSET, SUBJECT, report(letter), Provenance("a report", "1", data_version(report(letter))))


@pytest.fixture
def overtaken(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Has the next reading find the value `between` in place of that whose sidecar it read, and `then` at its end."""

    def order(between: str, then: str) -> None:
        writer = DerivativeStore(place.url)

        def decode_what_came(*arguments: Any) -> Value:
            monkeypatch.setattr(store_module, "decode", decode)
            write_report(writer, between)
            try:
                return decode(*arguments)
            finally:
                if then != between:
                    write_report(writer, then)

        monkeypatch.setattr(store_module, "decode", decode_what_came)

    return order


@pytest.mark.parametrize("verify", ["always", "first", "never"])
def test_what_is_read_is_what_the_sidecar_says_though_it_was_replaced_in_between(
    place: Place, overtaken: Callable[[str, str], None], verify: Verify
) -> None:
    store = DerivativeStore(place.url, verify=verify)
    write_report(store, "a")
    store.read(ASSET, SUBJECT)
    overtaken("b", "b")
    found, sidecar = store.read(ASSET, SUBJECT)
    assert found == report("b")
    assert sidecar.data_version == data_version(report("b"))


def test_a_value_that_was_away_and_is_back_is_not_taken_for_a_damaged_one(
    place: Place, overtaken: Callable[[str, str], None]
) -> None:
    store = DerivativeStore(place.url)
    write_report(store, "a")
    overtaken("b", "a")
    assert store.read(ASSET, SUBJECT)[0] == report("a")
