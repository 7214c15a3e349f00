"""Threads: how many a computation may use, and how they leave its result alone.

BLAS splits a sum differently over two threads than over one, which changes its last bits and with them the hash
of a derivative. So BLAS gets one thread for each call, and the calls run beside each other.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from kwneuro_assets.progress import Progress, silent

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_count() -> int:
    """The threads a derivation may use: `KWNEURO_THREADS` where set, else the processors this process may run on, which
    the runs share that `KWNEURO_MAX_RUNS` lets go at once.

    Raises ValueError where `KWNEURO_THREADS` is not a whole number of at least one, or `KWNEURO_MAX_RUNS` is none.
    """
    # Inside a batch job's or a container's CPU set the machine's own count would be too many.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return whole_number("KWNEURO_THREADS", least=1) or max(1, processors // (whole_number("KWNEURO_MAX_RUNS") or 1))


def whole_number(variable: str, least: int = 0) -> int | None:
    """What an environment variable is set to, None where it is not. Raises ValueError for anything else."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < least:
        expected = f"a whole number from {least}" if least else "a whole number"
        raise ValueError(f"environment variable {variable}: expected {expected}, found {text!r}")
    return int(text)


def one_blas_thread() -> AbstractContextManager[Any]:
    """Within it every matrix product and decomposition of this process runs on the thread that calls it."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits(1, "blas")
    return limits


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, at_most: int | None = None
) -> Iterator[Result]:
    """What `function` gives for each item, in the order of the items, computed by `thread_count()` threads.

    For functions that spend their time in numpy, which frees the interpreter meanwhile. `at_most` bounds the threads
    where the memory that each takes matters.
    """
    with one_blas_thread():
        yield from map_ahead(function, items, min(thread_count(), at_most or thread_count()))


def in_blocks(work: Callable[[slice], object], count: int, size: int, progress: Progress = silent) -> None:
    """Have `work` done on `count` items, in slices of `size`, by `thread_count()` threads; tells the share done."""
    blocks = [slice(start, start + size) for start in range(0, count, size)]
    for done, _ in enumerate(parallel_map(work, blocks), start=1):
        progress(done / len(blocks))


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """As `parallel_map`, by this many threads, for functions that call no BLAS.

    The work is never further ahead of who takes the results than two items for each thread, so that neither the items
    nor the results need ever be in memory together.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
