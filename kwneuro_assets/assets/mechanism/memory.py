"""Peak memory of one step, in a process that runs several steps."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

INTERVAL = 0.05  # seconds between two samples


class PeakMemory:
    """Context manager that samples the resident memory of this process; `peak` is the maximum, in bytes."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def __enter__(self) -> PeakMemory:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self._sample()

    def _sample(self) -> None:
        self.peak = max(self.peak, self._process.memory_info().rss)
