from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_info

from kwneuro_assets.threads import map_ahead, one_blas_thread, parallel_map, thread_count


def test_the_environment_sets_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", " 3 ")
    assert thread_count() == 3
    monkeypatch.delenv("KWNEURO_THREADS")
    assert thread_count() >= 1


def test_runs_that_go_at_once_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("KWNEURO_THREADS", raising=False)
    for runs, threads in (("", 16), ("0", 16), ("1", 16), ("3", 5), ("100", 1)):
        monkeypatch.setenv("KWNEURO_MAX_RUNS", runs)
        assert thread_count() == threads
    monkeypatch.setenv("KWNEURO_THREADS", "4")
    assert thread_count() == 4


@pytest.mark.parametrize("wanted", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_makes_no_sense_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", wanted)
    with pytest.raises(ValueError, match=f"KWNEURO_THREADS: expected a whole number from 1, found '{wanted}'"):
        thread_count()


def test_results_come_in_the_order_of_the_items_however_long_each_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", "4")

    def slower_at_first(item: int) -> int:
        time.sleep(0.02 * (4 - item))
        return item * item

    assert list(parallel_map(slower_at_first, range(4))) == [0, 1, 4, 9]


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(parallel_map(lambda item: 1 / item, [1, 0]))


def test_blas_has_one_thread_inside_and_as_many_as_before_outside() -> None:
    import numpy as np

    assert np.ones(2) @ np.ones(2) == 2  # loads BLAS

    def blas() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = blas()
    assert before
    with one_blas_thread():
        assert set(blas()) == {1}
    assert blas() == before


def test_work_is_only_a_little_ahead_of_who_takes_the_results() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            begun.append(item)
            yield item

    results = map_ahead(lambda item: -item, items(), 3)
    for expected in range(20):
        assert next(results) == -expected
        assert len(begun) <= expected + 1 + 2 * 3
    assert list(results) == [-item for item in range(20, 100)]


def test_threads_can_be_fewer_where_each_takes_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", "4")
    at_work: list[int] = []
    most: list[int] = []

    def work(item: int) -> int:
        at_work.append(item)
        most.append(len(at_work))
        time.sleep(0.01)
        at_work.remove(item)
        return item

    assert list(parallel_map(work, range(12), at_most=2)) == list(range(12))
    assert max(most) <= 2
