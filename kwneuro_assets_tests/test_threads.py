"""Numbers of threads, the BLAS limit, and parallel maps."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from kwneuro_assets.threads import map_ahead, one_blas_thread, parallel_map, thread_count


def test_the_environment_sets_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", " 3 ")
    assert thread_count() == 3
    monkeypatch.delenv("KWNEURO_THREADS")
    assert thread_count() >= 1


def test_simultaneous_runs_divide_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("KWNEURO_THREADS", raising=False)
    for runs, threads in (("", 16), ("0", 16), ("1", 16), ("3", 5), ("100", 1)):
        monkeypatch.setenv("KWNEURO_MAX_RUNS", runs)
        assert thread_count() == threads
    monkeypatch.setenv("KWNEURO_THREADS", "4")
    assert thread_count() == 4


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_an_invalid_number_of_threads_is_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", text)
    with pytest.raises(ValueError, match=f"KWNEURO_THREADS: expected an integer of at least 1, found '{text}'"):
        thread_count()


def test_results_have_the_order_of_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", "4")

    def slower_at_first(item: int) -> int:
        time.sleep(0.02 * (4 - item))
        return item * item

    assert list(parallel_map(slower_at_first, range(4))) == [0, 1, 4, 9]


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(lambda item: 1 / item, [1, 0]))


def blas_threads() -> list[int]:
    assert np.ones(2) @ np.ones(2) == 2  # loads BLAS
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture
def three_threads() -> Iterator[list[int]]:
    """BLAS with three threads, on any number of processors; yields the threads of each library."""
    with threadpool_limits(3, "blas"):
        before = blas_threads()
        assert set(before) == {3}
        yield before


def test_blas_has_one_thread_in_the_context_and_the_previous_number_after_it(three_threads: list[int]) -> None:
    with one_blas_thread():
        assert set(blas_threads()) == {1}
        with one_blas_thread():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}
    assert blas_threads() == three_threads


@pytest.mark.parametrize("first_exits_first", [True, False])
def test_blas_has_one_thread_until_the_last_of_two_python_threads_exits(
    three_threads: list[int], first_exits_first: bool
) -> None:
    may_exit = {name: threading.Event() for name in ("first", "second")}
    entered: dict[str, threading.Event] = {name: threading.Event() for name in may_exit}
    seen: dict[str, set[int]] = {}

    def fit(name: str) -> None:
        with one_blas_thread():
            entered[name].set()
            assert may_exit[name].wait(10)
            seen[name] = set(blas_threads())

    fits = {name: threading.Thread(target=fit, args=(name,)) for name in may_exit}
    for name, thread in fits.items():
        thread.start()
        assert entered[name].wait(10)
    for name in may_exit if first_exits_first else reversed(may_exit):
        assert set(blas_threads()) == {1}
        may_exit[name].set()
        fits[name].join()
    assert seen == {"first": {1}, "second": {1}}
    assert blas_threads() == three_threads


def test_many_threads_that_enter_and_exit_never_see_more_than_one_blas_thread(three_threads: list[int]) -> None:
    seen: list[set[int]] = []

    def fits(seed: int) -> None:
        pauses = np.random.default_rng(seed).uniform(0, 0.002, (20, 2))
        for outside, inside in pauses:
            time.sleep(outside)
            with one_blas_thread():
                time.sleep(inside)
                seen.append(set(blas_threads()))

    threads = [threading.Thread(target=fits, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 80
    assert set.union(*seen) == {1}
    assert blas_threads() == three_threads


def test_the_limit_ends_after_an_error_and_after_an_unfinished_iteration(three_threads: list[int]) -> None:
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        raise ZeroDivisionError
    assert blas_threads() == three_threads
    results = parallel_map(lambda item: item, range(9))
    assert next(results) == 0
    assert set(blas_threads()) == {1}
    closer = threading.Thread(target=results.close)  # type: ignore[attr-defined]
    closer.start()
    closer.join()
    assert blas_threads() == three_threads


def test_at_most_two_items_per_thread_are_computed_in_advance() -> None:
    started: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            started.append(item)
            yield item

    results = map_ahead(lambda item: -item, items(), 3)
    for expected in range(20):
        assert next(results) == -expected
        assert len(started) <= expected + 1 + 2 * 3
    assert list(results) == [-item for item in range(20, 100)]


def test_max_threads_limits_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", "4")
    active: list[int] = []
    counts: list[int] = []

    def work(item: int) -> int:
        active.append(item)
        counts.append(len(active))
        time.sleep(0.01)
        active.remove(item)
        return item

    assert list(parallel_map(work, range(12), max_threads=2)) == list(range(12))
    assert max(counts) <= 2


def test_closing_early_does_not_wait_for_running_calls() -> None:
    started, may_finish, finished = threading.Event(), threading.Event(), threading.Event()

    def slow(number: int) -> int:
        if number:
            started.set()
            assert may_finish.wait(60)
            finished.set()
        return number

    results = map_ahead(slow, range(100), 1)
    assert next(results) == 0
    assert started.wait(60)
    results.close()  # type: ignore[attr-defined]  # a generator with an unfinished call
    assert not finished.is_set()
    may_finish.set()
    assert finished.wait(60)
