"""How steps tell how far they are: to the run's log by default, to a progress bar on the command line."""

from __future__ import annotations

import time
from typing import Protocol

from dagster import AssetExecutionContext

QUIET_SECONDS = 20  # between two lines of one step: enough to see that it lives, too few to be a wall


class ProgressReporter(Protocol):
    """Told the share that a step has done, from 0 when it starts to 1 when its value is there."""

    def report(self, context: AssetExecutionContext, fraction: float) -> None: ...


class LoggedProgress:
    """Writes a line into the run's log now and then while a long step computes."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def report(self, context: AssetExecutionContext, fraction: float) -> None:
        name, now = context.asset_key.to_user_string(), time.monotonic()
        if fraction <= 0:
            self._told[name] = now
        elif fraction < 1 and now - self._told.get(name, now) >= QUIET_SECONDS:
            self._told[name] = now
            context.log.info(f"{name}: {fraction:.0%}")
