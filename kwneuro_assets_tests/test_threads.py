from __future__ import annotations

import time

import pytest
from threadpoolctl import threadpool_info

from kwneuro_assets.threads import one_blas_thread, parallel_map, thread_count


def test_the_environment_sets_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWNEURO_THREADS", " 3 ")
    assert thread_count() == 3
    monkeypatch.delenv("KWNEURO_THREADS")
    assert thread_count() >= 1


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
