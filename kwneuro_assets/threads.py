"""Threads: how many a computation may use, without an effect on its result.

BLAS splits a sum differently over two threads than over one, which changes the last bits and therefore the data version
of a derivative. So each BLAS call gets one thread, and the calls run in parallel.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from kwneuro_assets.progress import Progress, silent

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_count() -> int:
    """The number of threads of a derivation: `KWNEURO_THREADS`, or the processors available to this process divided by
    the number of simultaneous runs, `KWNEURO_MAX_RUNS`.

    Raises ValueError if `KWNEURO_THREADS` is not an integer of at least 1, or `KWNEURO_MAX_RUNS` not one of at least 0.
    """
    # In a batch job or a container, the CPU set is smaller than the machine.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return environment_integer("KWNEURO_THREADS", minimum=1) or max(
        1, processors // (environment_integer("KWNEURO_MAX_RUNS") or 1)
    )


def environment_integer(variable: str, minimum: int = 0) -> int | None:
    """The integer in an environment variable, None if it is not set. Raises ValueError for any other value."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < minimum:
        expected = f"an integer of at least {minimum}" if minimum else "an integer"
        raise ValueError(f"environment variable {variable}: expected {expected}, found {text!r}")
    return int(text)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Context in which every matrix product and decomposition of this process runs on the calling thread.

    Contexts may be nested, and entered by any number of threads; the limit lasts until the last one exits.
    """
    _blas_limit.enter()
    try:
        yield
    finally:
        _blas_limit.leave()


class _BlasLimit:
    """One BLAS thread while any context is active.

    The limit applies to the process, so the first context that exits must not remove it for the others.
    """

    def __init__(self) -> None:
        # Reentrant: garbage collection may close a generator with an active context at any moment, even in this class.
        self._lock = threading.RLock()
        self._active = 0
        self._before: dict[str, int] = {}  # by library: its threads when no context was active

    def enter(self) -> None:
        with self._lock:
            self._active += 1
            found = _set_blas_threads({}, otherwise=1)  # each time: a library may have been loaded in the meantime
            self._before = found | self._before

    def leave(self) -> None:
        with self._lock:
            self._active -= 1
            if self._active == 0:
                _set_blas_threads(self._before)
                self._before = {}


_blas_limit = _BlasLimit()


def _set_blas_threads(wanted: Mapping[str, int], otherwise: int | None = None) -> dict[str, int]:
    """Set the threads of each BLAS library and return the previous numbers, both by the library's file."""
    import threadpoolctl

    # In threadpoolctl 3.8 and later, only the thread that first set OpenBLAS's number may set it, until it is released.
    release = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", lambda force: None)
    before = {}
    for library in threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers:
        before[library.filepath] = library.num_threads
        threads = wanted.get(library.filepath, otherwise)
        if threads is not None:
            release(force=True)
            library.set_num_threads(threads)
    release(force=True)
    return before


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, max_threads: int | None = None
) -> Iterator[Result]:
    """The result of `function` for each item, in the order of the items, computed by `thread_count()` threads.

    For functions that spend their time in numpy, which releases the interpreter lock. `max_threads` limits the threads
    if each needs much memory.
    """
    with one_blas_thread():
        yield from map_ahead(function, items, min(thread_count(), max_threads or thread_count()))


def in_blocks(work: Callable[[slice], object], count: int, size: int, progress: Progress = silent) -> None:
    """Call `work` for slices of `size` out of `count` items, on `thread_count()` threads; reports the fraction done."""
    blocks = [slice(start, start + size) for start in range(0, count, size)]
    for done, _ in enumerate(parallel_map(work, blocks), start=1):
        progress(done / len(blocks))


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Like `parallel_map`, on `threads` threads, for functions that do not call BLAS.

    At most two items per thread are computed in advance, so neither all items nor all results need to be in memory at
    once. If the generator is closed early, calls that have started still finish.
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        # Do not join the threads: garbage collection may close this generator while its own thread holds the lock of
        # `threading` that joining another thread acquires.
        pool.shutdown(wait=False)
