"""Work that may take longer than a tick of a sensor lasts: begun in one, its result taken in a later one."""

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
    """Threads of this process, and what they were asked for, by name."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], Future[Any]] = {}
        self._lock = threading.Lock()

    def ask(self, group: str, name: str, work: Callable[[], Any]) -> Future[Any]:
        """What comes of `work`; of the one that was asked for under this name before, if its result was not taken."""
        with self._lock:
            if (group, name) not in self._asked:
                self._asked[group, name] = self._pool.submit(work)
            return self._asked[group, name]

    def take(self, group: str, name: str) -> None:
        """Its result was taken: who asks again wants it anew."""
        with self._lock:
            self._asked.pop((group, name), None)

    def within(self, seconds: float, group: str, name: str, work: Callable[[], _T]) -> _T | None:
        """What comes of `work`, which gives no None, taken; None where that takes longer, and a later call takes it."""
        asked = self.ask(group, name, work)
        if not wait([asked], timeout=seconds).done:
            return None
        self.take(group, name)
        return asked.result()

    def drop_all_but(self, group: str, names: Collection[str]) -> None:
        """Nobody will ask for the others of this group again."""
        with self._lock:
            for asked in [one for one in self._asked if one[0] == group and one[1] not in names]:
                self._asked.pop(asked).cancel()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(WORKERS, thread_name_prefix="look")


BACKGROUND = Background()
