"""Work that may take longer than one tick of a sensor: submitted in one tick, collected in a later one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any, TypeVar

_T = TypeVar("_T")
WORKERS = min(4, os.cpu_count() or 1)


class Background:
    """A thread pool of this process whose tasks are found again by group and name."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], Future[Any]] = {}
        self._lock = threading.Lock()

    def submit(self, group: str, name: str, work: Callable[[], Any]) -> Future[Any]:
        """The future of `work`, or of the task that was submitted under this name before and is not yet discarded."""
        with self._lock:
            if (group, name) not in self._tasks:
                self._tasks[group, name] = self._pool.submit(work)
            return self._tasks[group, name]

    def discard(self, group: str, name: str) -> None:
        """Forget a task whose result was used: the next `submit` of this name starts a new one."""
        with self._lock:
            self._tasks.pop((group, name), None)

    def result_within(self, seconds: float, group: str, name: str, work: Callable[[], _T]) -> _T | None:
        """The result of `work`, which is never None; None if it takes longer, and a later call returns it."""
        task = self.submit(group, name, work)
        if not wait([task], timeout=seconds).done:
            return None
        self.discard(group, name)
        return task.result()

    def cancel_all_but(self, group: str, names: Collection[str]) -> None:
        """Cancel and forget the tasks of this group that have other names."""
        with self._lock:
            for key in [one for one in self._tasks if one[0] == group and one[1] not in names]:
                self._tasks.pop(key).cancel()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(WORKERS, thread_name_prefix="scan")


BACKGROUND = Background()
